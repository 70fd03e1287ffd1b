"""Discovery on toys: N = 120 images of K = 6 classes, of which 0, 2 and 3 have labels.

D = 11 columns of x, H = 17 of extra features.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.errors import RequestError
from anyclass.estimators import discovery, ward
from anyclass.estimators.discovery import (
    Confident,
    DiscoverySpace,
    average_neighbours,
    discover,
    neighbours,
    refine,
    sample,
    with_pseudo_labels,
)
from anyclass.estimators.kmeans import class_means
from anyclass.estimators.metrics import clustering
from anyclass.estimators.rows import Rows

K = 6
KNOWN = [0, 2, 3]


def blobs(seed: int = 0, noise: float = 0.4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (120, 11), h (120, 17), classes, labels of half of the images of known classes."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(K).repeat_interleave(20)[torch.randperm(120, generator=draw)]
    x, h = (
        torch.randn(K, width, generator=draw)[truth]
        + noise * torch.randn(120, width, generator=draw)
        for width in (11, 17)
    )
    known = torch.isin(truth, torch.tensor(KNOWN)) & (torch.rand(120, generator=draw) < 0.5)
    return normalize(x, dim=1), h, truth, torch.where(known, truth, -1)


def accuracy(truth: Tensor, found: Tensor) -> float:
    scores = clustering(truth.numpy(), found.numpy(), KNOWN)
    assert scores is not None
    return float(scores["all"])


@pytest.mark.parametrize("extra", [False, True])
def test_discover__finds_labelled_and_new_classes(extra: bool) -> None:
    x, h, truth, labels = blobs()
    found = discover(Rows(x, h if extra else None), labels, K)
    assert torch.equal(found.labels[labels >= 0], labels[labels >= 0])
    assert accuracy(truth, found.labels) > 0.95
    old = torch.isin(truth, torch.tensor(KNOWN))
    assert float((found.labels == truth)[old].float().mean()) > 0.95, "these keep their index"
    new = blobs()[:2]
    logits = found.logits(new[0], new[1] if extra else None)
    assert logits.shape == (120, K)
    assert accuracy(truth, logits.argmax(1)) > 0.95


def test_discover__without_labels_clusters() -> None:
    x, h, truth, labels = blobs()
    found = discover(Rows(x, h), torch.full_like(labels, -1), K)
    assert accuracy(truth, found.labels) > 0.95


def test_discover__is_deterministic_whatever_the_seed_if_all_images_fit() -> None:
    x, h, _, labels = blobs()
    first = discover(Rows(x, h), labels, K, seed=0)
    again = discover(Rows(x, h), labels, K, seed=5)
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.linear.weights, again.linear.weights)


def test_discover__order_of_images_means_nothing() -> None:
    x, h, _, labels = blobs()
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    first = discover(Rows(x, h), labels, K).labels
    other = discover(Rows(x[order], h[order]), labels[order], K).labels
    assert accuracy(first[order], other) == 1


def test_discover__numbers_of_labelled_classes_mean_nothing() -> None:
    x, h, _, labels = blobs()
    names = torch.tensor([5, 0, 1, 4, 2, 3])
    other = torch.where(labels >= 0, names[labels.clamp_min(0)], -1)
    first = discover(Rows(x, h), labels, K).labels
    second = discover(Rows(x, h), other, K).labels
    assert accuracy(first, second) == 1
    known = torch.isin(first, torch.tensor(KNOWN))
    assert torch.equal(names[first[known]], second[known])


def test_discover__equal_images_and_one_image_per_class() -> None:
    x, _, _, labels = blobs()
    twice = discover(Rows(x.repeat(2, 1)), labels.repeat(2), K).labels
    assert torch.equal(twice[:120], twice[120:])
    same = discover(Rows(torch.ones(9, 4)), torch.tensor([0] + [-1] * 8), 3)
    assert int(same.labels[0]) == 0
    assert sorted(same.labels.unique().tolist()) == [0, 1, 2]
    each = discover(Rows(torch.eye(5, 7)), torch.tensor([-1, 2, -1, -1, 0]), 5).labels
    assert sorted(each.tolist()) == [0, 1, 2, 3, 4]
    assert each[1] == 2
    assert each[4] == 0


def test_discover__one_label_per_class() -> None:
    x, h, truth, _ = blobs()
    first = torch.tensor([int((truth == c).nonzero()[0]) for c in KNOWN])
    labels = torch.full_like(truth, -1).index_put((first,), torch.tensor(KNOWN))
    found = discover(Rows(x, h), labels, K)
    assert accuracy(truth, found.labels) > 0.95
    assert torch.equal(found.labels[first], torch.tensor(KNOWN))


@pytest.mark.parametrize(
    ("labels", "k", "message"),
    [
        ([-1, -1, 0], 4, "4 classes cannot be found in 3 images"),
        ([0, 0, 0], 2, "2 classes cannot be found in 3 images"),
        ([-1, -1, 2], 2, "labels of 3 classes, but K is 2"),
    ],
)
def test_discover__impossible_requests(labels: list[int], k: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        discover(Rows(torch.eye(3, 5)), torch.tensor(labels), k)


def test_discover__names_stand_in_for_labels() -> None:
    """Classes 1 and 4 have only a name; 5 has nothing."""
    x, h, truth, labels = blobs()
    probabilities = torch.full((120, 5), 0.02)
    named = (truth == 1) | (truth == 4)
    probabilities[named, truth[named]] = 0.9
    found = discover(Rows(x, h), labels, K, confidences=lambda _: probabilities)
    assert float((found.labels == truth).float().mean()) > 0.95, "each class has its own index"


def test_with_pseudo_labels__takes_the_most_confident_of_classes_without_labels() -> None:
    labels = torch.tensor([0, -1, -1, -1, -1, -1, -1, -1])
    p = torch.tensor([0.9, 0.9, 0.2, 0.4, 0.3, 0.1, 0.5, 0.45])
    p = Confident(*torch.stack([p, 1 - p], dim=1).max(1), classes=2)
    # 7 free images, 1 named class of K = 2 or 4: 7 / 1.5 or 7 / 3.5 candidates, 8 / 2 K at most
    assert with_pseudo_labels(labels, p, 2).tolist() == [0, -1, 1, -1, -1, 1, -1, -1]
    assert with_pseudo_labels(labels, p, 4).tolist() == [0, -1, -1, -1, -1, 1, -1, -1]


def test_neighbours__without_labels_are_two_thirds_of_the_images_of_a_class() -> None:
    found = [neighbours(torch.full((n,), -1), 10) for n in (5, 29, 30, 50, 150, 1000)]
    assert found == [1, 1, 2, 3, 10, 10]
    assert neighbours(torch.tensor([0, -1, -1]), 2) == 10


def test_discover__classes_of_five_images_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty classes, mean of four draws."""

    def found(seed: int) -> float:
        draw = torch.Generator().manual_seed(seed)
        truth = torch.arange(100) % 20
        middle = torch.randn(20, 24, generator=draw)
        x = normalize(middle[truth] + 0.7 * torch.randn(100, 24, generator=draw), dim=1)
        return accuracy(truth, discover(Rows(x), torch.full((100,), -1), 20).labels)

    few = sum(found(seed) for seed in range(4)) / 4
    assert few > 0.9
    monkeypatch.setattr(discovery, "neighbours", lambda *_: 10)
    assert few > sum(found(seed) for seed in range(4)) / 4 + 0.02


@pytest.mark.parametrize("extra", [False, True])
def test_discover__blocks_of_any_size_divide_images_alike(
    monkeypatch: pytest.MonkeyPatch, extra: bool
) -> None:
    x, h, truth, labels = blobs()
    texts = class_means(x, truth, K)[:5]
    rows = Rows(x, h if extra else None)

    def confidences(some: Tensor) -> Tensor:
        return (20 * some @ texts.T).softmax(1)

    whole = discover(rows, labels, K, confidences=confidences)
    monkeypatch.setattr(discovery, "READ", 7)
    monkeypatch.setattr(discovery, "MAX_IMAGES", 110)
    blocks = discover(rows, labels, K, confidences=confidences)
    assert float((blocks.labels == whole.labels).float().mean()) > 0.95
    assert accuracy(truth, blocks.labels) > 0.95


def test_discover__a_sample_stands_for_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 of 120 images are clustered, from 30 groups."""
    monkeypatch.setattr(discovery, "MAX_IMAGES", 80)
    monkeypatch.setattr(ward, "GROUPS", 30)
    x, h, truth, labels = blobs()
    found = discover(Rows(x, h), labels, K)
    assert torch.equal(found.labels[labels >= 0], labels[labels >= 0])
    assert accuracy(truth, found.labels) > 0.95


def test_sample__has_each_labelled_class() -> None:
    labels = torch.full((50,), -1)
    labels[[3, 20, 49]] = torch.tensor([4, 0, 4])
    rows = sample(labels, 5, seed=1)
    assert len(rows) == 5
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert 20 in rows
    assert {3, 49} & set(rows.tolist())
    assert sample(labels, 50, seed=1).tolist() == list(range(50))


def test_average_neighbours__equals_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    u = normalize(torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    cosine = u @ u.T
    v = u
    for _ in range(2):
        rows = []
        for i in range(7):
            others = sorted((j for j in range(7) if j != i), key=lambda j: -float(cosine[i, j]))[:3]
            w = cosine[i, others].clamp_min(0)
            rows.append(v[i] + (w[:, None] * v[others]).sum(0) / max(float(w.sum()), 1e-6))
        v = normalize(torch.stack(rows), dim=1)
    assert torch.allclose(average_neighbours(u, 3, 2), v, atol=1e-6)
    monkeypatch.setattr(discovery, "BLOCK", 2)
    assert torch.allclose(average_neighbours(u, 3, 2), v, atol=1e-6)
    assert torch.equal(average_neighbours(u[:1]), u[:1])


def test_refine__leaves_no_cluster_empty_and_no_label_changed() -> None:
    x, _, _, labels = blobs()
    start = torch.where(labels >= 0, labels, torch.arange(120) % K)
    found = refine(x, labels, start, K)
    assert torch.equal(found[labels >= 0], labels[labels >= 0])
    assert len(found.unique()) == K
    inertia = [float((x - class_means(x, z, K)[z]).square().sum()) for z in (start, found)]
    assert inertia[1] < inertia[0]


def test_space__of_no_labels_is_pca() -> None:
    x, h, _, labels = blobs()
    u = DiscoverySpace.fit(x, torch.full_like(labels, -1), h).transform(x, h)
    assert u.shape == (120, 11 + 17)
    assert torch.allclose(u.norm(dim=1), torch.ones(120))
