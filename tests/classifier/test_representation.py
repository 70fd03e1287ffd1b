"""What a head sees: the three spaces by hand, one tower or two, streamed or from the cache."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from anyclass.backbone import Backbone, Part
from anyclass.classifier.representation import Representation, concat_towers
from anyclass.classifier.settings import Space
from anyclass.data import ImageDataset, open_image
from anyclass.errors import AnyclassError
from anyclass.features.cache import Embedding, cached_part
from anyclass.features.store import FeatureStore
from anyclass.features.stream import stream

Tiny = Callable[..., str]
SPACES: tuple[Space, ...] = ("projected", "pooled", "both")


@pytest.fixture
def clip(tiny_clip: Tiny) -> Backbone:
    return Backbone.load(tiny_clip(), engine="torch")


@torch.no_grad()
def moved(clip: Backbone, part: Part) -> Backbone:
    """A copy whose part was moved, as training moves it."""
    other = clip.copy()
    for parameter in other.parameters(part).values():
        parameter.mul_(1.2)
    return other


def rows(representation: Representation, dataset: ImageDataset) -> torch.Tensor:
    return torch.cat([found for _, found, _ in representation.stream(dataset)])


@torch.no_grad()
def by_hand(clip: Backbone, dataset: ImageDataset, space: Space) -> torch.Tensor:
    views = [
        clip.preprocessing.view(open_image(dataset.path(i))) for i in range(len(dataset.files))
    ]
    pixels = clip.preprocessing.normalise(torch.stack(views))
    x, h = clip.images(pixels), clip.pooled(pixels, "all")
    match space:
        case "projected":
            return x
        case "pooled":
            return normalize(h, dim=1)
        case "both":
            return torch.cat([x, h, torch.ones(len(x), 1)], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("part", [None, "head", "tail", "all"])
def test_stream__and_of_are_the_space_by_hand(
    clip: Backbone, images: Path, part: Part | None, space: Space
) -> None:
    dataset = ImageDataset.read(images)
    tower = moved(clip, part) if part else clip
    representation = Representation((tower,), part, space)
    wanted = by_hand(tower, dataset, space)
    assert representation.width == wanted.shape[1]
    torch.testing.assert_close(rows(representation, dataset), wanted, rtol=0, atol=1e-4)
    cached = FeatureStore(clip, dataset).embed(Embedding(cached_part(part)), lambda **_: None)
    found = representation.of(dataset, cached)
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-3)  # maps are kept in half precision


@torch.no_grad()
@pytest.mark.parametrize("part", ["tail", "all"])
def test_of__two_towers_stand_side_by_side(clip: Backbone, images: Path, part: Part) -> None:
    dataset, trained = ImageDataset.read(images), moved(clip, part)
    both = Representation((trained, clip), part)
    one, two = (
        torch.cat([found for _, found, _ in stream(tower, dataset, part)])
        for tower in (trained, clip)
    )
    assert not torch.allclose(one, two, atol=1e-3)
    wanted = torch.cat([one, two], dim=1)
    torch.testing.assert_close(rows(both, dataset) * 2**0.5, wanted)
    cached = FeatureStore(clip, dataset).embed(Embedding(cached_part(part)), lambda **_: None)
    torch.testing.assert_close(both.of(dataset, cached) * 2**0.5, wanted, rtol=0, atol=3e-3)
    assert both.width == wanted.shape[1]
    prints = torch.cat([trained.fingerprint(), clip.fingerprint()], dim=1)
    assert torch.equal(both.fingerprint(), prints / 2**0.5)


def test_of__an_image_that_changed_is_refused(clip: Backbone, images: Path) -> None:
    dataset = ImageDataset.read(images)
    cached = FeatureStore(clip, dataset).embed(Embedding("head"), lambda **_: None)
    dataset.path(3).write_bytes(b"torn")
    with pytest.raises(AnyclassError, match="changed during the training: not an image"):
        Representation((clip,), "all").of(dataset, cached)


def test_with_clip__replaces_the_first_tower(clip: Backbone) -> None:
    other = clip.copy()
    found = Representation((clip, clip), "tail", "projected").with_clip(other)
    assert found.towers[0] is other
    assert found.towers[1] is clip
    assert (found.clip, found.part) == (other, "tail")


def test_concat_towers__means_cosines() -> None:
    noise = torch.Generator().manual_seed(1)
    a, b, c, d = (normalize(torch.randn(n, 7, generator=noise), dim=1) for n in (3, 3, 4, 4))
    found, others = concat_towers([a, b]), concat_towers([c, d])
    torch.testing.assert_close(found @ others.T, (a @ c.T + b @ d.T) / 2)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert torch.equal(concat_towers([a]), a)
