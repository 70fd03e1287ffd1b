"""Views: exactly open_clip's pixels, and random views that one number decides."""

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from anyclass.data import Augmentation, AugmentedViews, CropAndFlip, Preprocessing, TestTransform
from anyclass.errors import ImageError, ModelError

MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)
PLAIN = Preprocessing((20, 20), MEAN, STD)
CONTENT = "ab" * 32


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_view__equals_open_clip(interpolation: str, resize_mode: str) -> None:
    sizes: tuple[int | tuple[int, int], ...] = (20, (18, 30), (33, 21))
    for size, image in product(sizes, [(40, 31), (17, 50), (9, 7), (30, 18)]):
        config = {"size": size, "mode": "RGB", "mean": MEAN, "std": STD, "fill_color": 90}
        config |= {"interpolation": interpolation, "resize_mode": resize_mode}
        expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(noise(*image))
        preprocessing = Preprocessing.of(config)
        pixels = preprocessing.view(noise(*image))
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, *((size, size) if isinstance(size, int) else size))
        torch.testing.assert_close(preprocessing.normalise(pixels), expected, rtol=0, atol=1e-6)


def test_normalise__of_known_pixels_in_any_batch() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1).expand(4, 2, 3, 6, 5)
    result = PLAIN.normalise(pixels)
    assert result.shape == (4, 2, 3, 6, 5)
    known = [(0 - 0.48) / 0.26, (0.2 - 0.45) / 0.27, (1 - 0.4) / 0.28]
    torch.testing.assert_close(result[3, 1, :, 5, 4], torch.tensor(known))


def test_of__fills_in_what_open_clip_leaves_out() -> None:
    config = {"size": 24, "mean": 0.5, "std": 0.25, "interpolation": "random"}
    assert Preprocessing.of(config) == Preprocessing((24, 24), (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ModelError, match="preprocessing is damaged"):
        Preprocessing.of({"size": 24})


def test_to_json__says_how_images_are_decoded_only_where_they_are_reduced() -> None:
    reduced = replace(PLAIN, size=(18, 30), decoding="reduced")
    assert reduced.shorter_side == 90
    assert PLAIN.shorter_side == 0
    assert "decoding" not in PLAIN.to_json()
    assert reduced.to_json()["decoding"] == "reduced"
    assert Preprocessing.from_json(reduced.to_json()) == reduced
    assert Preprocessing.from_json(PLAIN.to_json()) == PLAIN


@pytest.mark.parametrize(
    "change",
    [
        {"decoding": "smaller"},
        {"interpolation": "nearest"},
        {"resize_mode": "crop"},
        {"size": [20]},
        {"mean": [0.1, 0.2]},
        {"fill": "white"},
        {"foreign": 1},
    ],
)
def test_from_json__refuses_what_is_damaged(change: dict[str, object]) -> None:
    assert Preprocessing.from_json(PLAIN.to_json()) == PLAIN
    with pytest.raises(ModelError, match="preprocessing is damaged"):
        Preprocessing.from_json(PLAIN.to_json() | change)


def test_view__of_a_thread_would_fill_the_memory() -> None:
    with pytest.raises(ImageError, match="too many pixels: 300000 x 1 is too narrow"):
        Preprocessing((224, 224), MEAN, STD).view(Image.new("RGB", (300_000, 1)))
    squash = Preprocessing((20, 20), MEAN, STD, resize_mode="squash")
    assert squash.view(Image.new("RGB", (300_000, 1))).shape == (3, 20, 20)


def test_augmentation__is_a_function_of_image_and_seed() -> None:
    image, augmentation = noise(40, 31), Augmentation()
    views = [augmentation.view(image, (18, 30), seed) for seed in (5, 6, 5)]
    assert views[0].shape == (3, 18, 30)
    assert views[0].dtype == torch.uint8
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], augmentation.view(noise(41, 31), (18, 30), 5))


def test_augmentation__leaves_every_random_state_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(3), random.random()
    torch.manual_seed(1)
    random.seed(1)
    Augmentation().view(noise(40, 31), (18, 30), 5)
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]


def test_augmentation__without_any_change_is_the_resized_image() -> None:
    still = Augmentation((1.0, 1.0), jitter_probability=0.0, grey_probability=0.0)
    image = Image.new("RGB", (40, 30), (200, 100, 50))
    view = still.view(image, (15, 20), 3)
    assert torch.equal(view, torch.tensor([200, 100, 50]).byte()[:, None, None].expand(3, 15, 20))
    square = noise(20, 20)
    kept = still.view(square, (20, 20), 3)
    assert kept.permute(1, 2, 0).tolist() == np.asarray(square).tolist()


def test_augmentation__probabilities() -> None:
    image = noise(24, 23)
    crop = Augmentation((1.0, 1.0), jitter_probability=0.0, grey_probability=0.5)
    views = [crop.view(image, (5, 6), seed) for seed in range(60)]
    grey = [torch.equal(v[0], v[1]) and torch.equal(v[1], v[2]) for v in views]
    assert 15 <= sum(grey) <= 45
    jitter = Augmentation((1.0, 1.0), jitter_probability=0.5, grey_probability=0.0)
    flat = Image.new("RGB", (24, 23), (200, 100, 50))
    same = [
        jitter.view(flat, (5, 6), seed)[:, 0, 0].tolist() == [200, 100, 50] for seed in range(60)
    ]
    assert 15 <= sum(same) <= 45


def test_augmentation__scale_bounds_the_crop() -> None:
    """On a ramp from left to right the mean stays near the middle when 90 % and more are kept."""
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB")
    plain = {"jitter_probability": 0.0, "grey_probability": 0.0}
    near = [
        Augmentation((0.9, 1.0), **plain).view(ramp, (8, 9), s).float().mean() for s in range(30)
    ]
    far = [
        Augmentation((0.1, 1.0), **plain).view(ramp, (8, 9), s).float().mean() for s in range(30)
    ]
    assert all(110 < mean < 146 for mean in near)
    assert max(abs(mean - 127.5) for mean in far) > 40


def test_test_view__is_the_one_view() -> None:
    image = noise(40, 31)
    views = TestTransform(PLAIN)(image, CONTENT)
    assert torch.equal(views, PLAIN.view(image)[None])


def test_augmented_views__depend_on_content_seed_and_number_only() -> None:
    image = noise(40, 31)
    shape = Preprocessing((18, 30), MEAN, STD)
    views = AugmentedViews(shape, Augmentation(), count=4, seed=1)(image, CONTENT)
    assert views.shape == (4, 3, 18, 30)
    assert len({v.numpy().tobytes() for v in views}) == 4
    fewer = AugmentedViews(shape, Augmentation(), count=2, seed=1)(image, CONTENT)
    assert torch.equal(fewer, views[:2])
    other = AugmentedViews(shape, Augmentation(), count=4, seed=2)(image, CONTENT)
    assert not torch.equal(other[0], views[0])
    elsewhere = AugmentedViews(shape, Augmentation(), count=4, seed=1)(image, "cd" * 32)
    assert not torch.equal(elsewhere[0], views[0])


def test_crop_and_flip__is_a_crop_of_the_resized_image_or_its_mirror() -> None:
    image, views = noise(40, 31), CropAndFlip()
    resized = np.asarray(image.resize((int(23 * 40 / 31), 23), Image.Resampling.BICUBIC))
    places, mirrored = set(), []
    for seed in range(40):
        view = views.view(image, (20, 20), seed)
        assert (view.shape, view.dtype) == ((3, 20, 20), torch.uint8)
        for flip in (False, True):
            pixels = view.permute(1, 2, 0).numpy()[:, ::-1] if flip else view.permute(1, 2, 0)
            found = [
                (top, left)
                for top in range(4)
                for left in range(resized.shape[1] - 19)
                if np.array_equal(pixels, resized[top : top + 20, left : left + 20])
            ]
            places |= set(found)
            mirrored += [flip] * len(found)
    assert len(mirrored) == 40  # each is one crop, in one direction
    assert 10 <= sum(mirrored) <= 30
    assert len({top for top, _ in places}) == 4
    assert len({left for _, left in places}) > 6


def test_crop_and_flip__is_a_function_of_image_and_seed() -> None:
    image, views = noise(40, 31), CropAndFlip(0.5)
    first, other, again = (views.view(image, (18, 30), seed) for seed in (5, 6, 5))
    assert first.shape == (3, 18, 30)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    views.view(image, (18, 30), 5)
    assert torch.equal(torch.rand(3), expected)


def test_crop_and_flip__of_a_thread_would_fill_the_memory() -> None:
    with pytest.raises(ImageError, match="300000 x 1 is too narrow"):
        CropAndFlip().view(Image.new("RGB", (300_000, 1)), (224, 224), 0)
