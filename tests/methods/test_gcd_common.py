"""What methods share that discover classes: refusals, first weights, MLP."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError
from anyclass.methods.gcd_common import MlpShape, labelled_classes, perceptron, seeded


def dataset(labels: list[int], names: int = 3, unknown: int = 1) -> ImageDataset:
    files = tuple(f"{i}.png" for i in range(len(labels)))
    classes = Classes.of([f"class {c}" for c in range(names)], unknown=unknown)
    return ImageDataset(Path("/"), files, np.array(labels), classes)


def test_labelled_classes__are_those_that_a_image_carries() -> None:
    assert labelled_classes(dataset([2, -1, 0, 0, -1])) == [0, 2]
    assert labelled_classes(dataset([0, 1, 2], unknown=0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (dataset([-1, -1, -1, -1]), "no image has a label.* kmeans"),
        (dataset([0, -1], names=1, unknown=0), "one class in all.* --unknown 1 or more"),
        (dataset([0, -1, -1]), "4 classes cannot be found in 3 images;"),
        (dataset([0, 1, 2, 0, 1]), "every image has a label"),
    ],
)
def test_labelled_classes__refuses(given: ImageDataset, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        labelled_classes(given)


def test_seeded__hangs_on_its_key_alone() -> None:
    torch.manual_seed(5)
    first = seeded(lambda: nn.Linear(3, 2), 1, 7).weight
    after = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(2))
    torch.rand(9)
    assert torch.equal(first, seeded(lambda: nn.Linear(3, 2), 1, 7).weight)
    assert not torch.equal(first, seeded(lambda: nn.Linear(3, 2), 1, 8).weight)


def test_perceptron__begins_as_the_official_codes() -> None:
    mlp = seeded(lambda: perceptron(40, MlpShape(300, 20)), 0)
    layers = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(300, 40), (300, 300), (20, 300)]
    assert not any(layer.bias.any() for layer in layers)
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    x = torch.randn(2, 40)
    gelu = nn.functional.gelu
    wanted = gelu(gelu(x @ layers[0].weight.T) @ layers[1].weight.T) @ layers[2].weight.T
    assert torch.allclose(mlp(x), wanted, atol=1e-6)
