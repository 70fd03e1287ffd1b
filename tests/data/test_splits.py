"""The benchmark of class discovery: the published draws, and nothing new that is labelled."""

from pathlib import Path

import numpy as np
import pytest

from anyclass.data import Classes, ImageDataset
from anyclass.data.splits import discovery_split, hold_out, labelled_share
from anyclass.errors import RequestError

FIRST = {  # images of known classes -> the first draws
    2997: [1300, 263, 1948, 2116, 812],
    4001: [2230, 668, 3617, 2363, 142],
    3333: [405, 118, 710, 499, 2594],
    25000: [14149, 8946, 22378, 12162, 4879],
    40000: [12836, 10913, 4214, 8198, 31403],
}


@pytest.mark.parametrize("n", FIRST)
def test_labelled_share__is_the_published_draw(n: int) -> None:
    known = labelled_share(np.zeros(n, dtype=int), [0])
    assert known.sum() == n // 2
    draw = np.random.RandomState(0).choice(n, n // 2, replace=False)
    assert draw[:5].tolist() == FIRST[n]
    assert np.flatnonzero(known).tolist() == sorted(draw.tolist())


def test_labelled_share__counts_known_images_only_in_their_order() -> None:
    labels = np.array([3, 0, 1, 0, 3, 1, 0, 2, 3, 0])
    features = labelled_share(labels, [3, 0], share=0.6)
    candidates = [0, 1, 3, 4, 6, 8, 9]
    chosen = np.random.RandomState(0).choice(7, 4, replace=False)
    assert np.flatnonzero(features).tolist() == sorted(candidates[i] for i in chosen)
    assert not np.array_equal(features, labelled_share(labels, [3, 0], share=0.6, seed=1))


def test_discovery__puts_known_classes_first_and_hides_the_rest() -> None:
    names = ("ant", "bee", "cat", "dog", "elk")
    labels = np.array([3, 0, 1, 0, 3, 1, 0, 2, 3, 0, 4, 4])
    files = tuple(f"{i:02}.png" for i in range(12))
    classes = Classes.of(names, [f"one {n}" for n in names], labelled=names)
    features, truth = discovery_split(ImageDataset(Path("/"), files, labels, classes), [3, 0], 0.8)
    assert features.classes.names == ("dog", "ant")
    assert features.classes.prompts == ("one dog", "one ant")
    assert (features.classes.unknown, features.classes.total) == (3, 5)
    assert truth.tolist() == [0, 1, 2, 1, 0, 2, 1, 3, 0, 1, 4, 4]
    assert set(features.labels[features.labels >= 0]) == {0, 1}
    assert (features.labels >= 0).sum() == 5
    assert (truth == features.labels)[features.labels >= 0].all()
    assert features.files == files


def test_hold_out__leaves_each_class_a_label() -> None:
    labels = np.array([0] * 10 + [1] + [2] * 9 + [-1] * 5)
    dataset = ImageDataset(Path("/"), tuple(map(str, range(25))), labels, Classes.of("abc"))
    for seed in range(20):
        held = hold_out(dataset, 0.5, seed).labels
        assert (held != labels).sum() == 10
        assert set(held[held != labels].tolist()) == {-1}
        assert set(held.tolist()) == {-1, 0, 1, 2}
    assert hold_out(dataset, 0.0, 0) is dataset
    assert hold_out(dataset, 0.99, 0).labelled.labels.tolist().count(1) == 1
    with pytest.raises(RequestError, match=r"--holdout 0.01 of 20 labelled images holds out none"):
        hold_out(dataset, 0.01, 0)
    with pytest.raises(RequestError, match=r"--holdout 0.5 of 0 labelled images"):
        hold_out(dataset.unlabelled_copy(), 0.5, 0)
