"""Every score against a slow loop that says the same thing in words."""

from itertools import permutations

import numpy as np
import pytest

from anyclass.estimators.metrics import (
    accuracy,
    base_to_new,
    clustering,
    confusion,
    confusion_counts,
    expected_calibration_error,
    harmonic_mean,
    mean_per_class,
    per_class,
    score,
)

NAMES = ["wren", "apple", "boat", "never seen", "drum"]
N, C = 37, len(NAMES)


@pytest.fixture
def labels():
    values = np.random.default_rng(3).choice([-1, 0, 1, 2, 4], size=N, p=[0.2, 0.4, 0.2, 0.1, 0.1])
    assert set(values) == {-1, 0, 1, 2, 4}
    return values


@pytest.fixture
def probabilities(labels):
    noise = np.random.default_rng(5).gamma(0.6, size=(N, C))
    noise[np.arange(N), labels] += 0.8  # a row of -1 favours the last class: it must not count
    return noise / noise.sum(axis=1, keepdims=True)


@pytest.fixture
def predicted(probabilities):
    return probabilities.argmax(axis=1)


def slow_shares(labels, predicted):
    """Class -> the list of right (1) and wrong (0), known labels only."""
    shares = {c: [] for c in range(C)}
    for label, guess in zip(labels, predicted, strict=True):
        if label != -1:
            shares[label].append(int(label == guess))
    return shares


def test_accuracies_equal_the_loop(labels, predicted):
    shares = slow_shares(labels, predicted)
    every = sum(shares.values(), [])
    assert 0.2 < accuracy(labels, predicted) < 0.95
    assert accuracy(labels, predicted) == pytest.approx(sum(every) / len(every))
    means = [sum(row) / len(row) for row in shares.values() if row]
    assert len(means) == C - 1
    assert mean_per_class(labels, predicted) == pytest.approx(sum(means) / len(means))
    assert mean_per_class(labels, predicted) != pytest.approx(accuracy(labels, predicted))


def test_per_class_has_a_row_for_each_name_in_order(labels, predicted):
    shares = slow_shares(labels, predicted)
    expected = [
        {"name": name, "n": len(shares[c]), "accuracy": sum(shares[c]) / len(shares[c])}
        if shares[c]
        else {"name": name, "n": 0, "accuracy": None}
        for c, name in enumerate(NAMES)
    ]
    assert per_class(labels, predicted, NAMES) == expected
    assert expected[3]["accuracy"] is None


def test_confusion_equals_the_loop(labels, predicted):
    expected = np.zeros((C, C), dtype=int)
    for label, guess in zip(labels, predicted, strict=True):
        if label != -1:
            expected[label, guess] += 1
    table = confusion(labels, predicted, C)
    assert table.tolist() == expected.tolist()
    assert not (table == table.T).all()
    entries = np.stack(confusion_counts(labels, predicted, C), axis=1)
    places = np.argwhere(expected)
    assert entries.tolist() == [[*place, expected[tuple(place)]] for place in places.tolist()]


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_equals_the_loop(labels, probabilities, bins):
    total, seen = 0.0, 0
    for b in range(bins):
        inside = []
        for label, row in zip(labels, probabilities, strict=True):
            lowest = b / bins if b else -1.0  # the first slice takes 0 in
            if label != -1 and lowest < row.max() <= (b + 1) / bins:
                inside.append((row.max(), int(row.argmax() == label)))
        if inside:
            confidence, right = np.array(inside).mean(axis=0)
            total += len(inside) * abs(right - confidence)
            seen += len(inside)
    assert seen == (labels != -1).sum()
    assert expected_calibration_error(labels, probabilities, bins) == pytest.approx(total / seen)


def test_calibration_by_hand():
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [0.4, 0.6], [0.5, 0.5]])
    assert expected_calibration_error(np.array([0, 0, 1, -1]), sure) == pytest.approx(0.4 / 3)
    assert expected_calibration_error(np.array([1, 0, 1, -1]), sure, bins=1) == pytest.approx(
        2.6 / 3 - 2 / 3
    )


def test_calibration_slices_hold_their_upper_end():
    rows = np.array([[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]])
    right_and_wrong = np.array([0, 1])
    assert expected_calibration_error(right_and_wrong, rows, bins=2) == pytest.approx(0.05)


def test_nothing_labelled_is_no_number():
    labels, predicted = np.full(6, -1), np.arange(6) % C
    assert score(labels, predicted, NAMES) is None
    assert accuracy(labels, predicted) is None
    assert mean_per_class(labels, predicted) is None
    assert expected_calibration_error(labels, np.full((6, C), 1 / C)) is None
    assert confusion(labels, predicted, C).tolist() == np.zeros((C, C)).tolist()
    assert [row["accuracy"] for row in per_class(labels, predicted, NAMES)] == [None] * C


def test_score_holds_them_all(labels, predicted):
    assert score(labels, predicted, NAMES) == {
        "accuracy": accuracy(labels, predicted),
        "mean_per_class": mean_per_class(labels, predicted),
        "n": int((labels != -1).sum()),
        "per_class": per_class(labels, predicted, NAMES),
    }


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(0.8, 0.4, 0.64 / 1.2), (0.5, 0.5, 0.5), (0.9, 0.0, 0.0), (0.0, 0.0, 0.0)],
)
def test_harmonic_mean(a, b, expected):
    assert harmonic_mean(a, b) == pytest.approx(expected)


def test_base_to_new__is_the_slow_count(labels, probabilities) -> None:
    new = np.array([False, True, False, True, True])
    found = base_to_new(labels, probabilities, new)
    right = {"sliced": {}, "mixed": {}}
    for i, (y, row) in enumerate(zip(labels, probabilities, strict=True)):
        if y >= 0:
            half = [c for c in range(C) if new[c] == new[y]]
            right["sliced"][i] = max(half, key=lambda c: row[c]) == y
            right["mixed"][i] = row.argmax() == y
            assert right["sliced"][i] or not right["mixed"][i]
    for space, hits in right.items():
        for name, side in (("base", False), ("new", True)):
            wanted = np.mean([hit for i, hit in hits.items() if new[labels[i]] == side])
            assert found[space][name] == pytest.approx(wanted)
            assert found["mixed"][name] <= found["sliced"][name]
        both = found[space]["base"], found[space]["new"]
        assert found[space]["harmonic_mean"] == pytest.approx(harmonic_mean(*both))
    by_class = {
        name: np.mean(
            [
                np.mean(probabilities[labels == c].argmax(1) == c)
                for c in (0, 1, 2, 4)
                if new[c] == side
            ]
        )
        for name, side in (("base", False), ("new", True))
    }
    for name, wanted in by_class.items():
        assert found["generalized"][name] == pytest.approx(wanted)


def test_base_to_new__tells_classes_apart_whose_probability_is_0() -> None:
    logits = np.array([[400.0, 0, 1, 2], [400, 0, 2, 1], [400, 2, 0, 1]], np.float32)
    new = np.array([False, True, True, True])
    found = base_to_new(np.array([3, 2, 1]), logits, new)
    assert (found["sliced"]["new"], found["mixed"]["new"]) == (1.0, 0.0)


def test_base_to_new__of_one_half_alone_knows_no_mean() -> None:
    labels, scores = np.array([0, 0, -1]), np.eye(3)[[0, 1, 2]]
    found = base_to_new(labels, scores, np.array([False, True, True]))
    assert found["mixed"] == {"base": 0.5, "new": None, "harmonic_mean": None}
    assert found["sliced"]["base"] == 1.0


def test_harmonic_mean__of_the_papers_table() -> None:
    assert harmonic_mean(80.03, 73.69) == pytest.approx(76.73, abs=0.01)
    assert harmonic_mean(82.69, 63.22) == pytest.approx(71.66, abs=0.01)
    of_means = harmonic_mean(70.0, 70.0)  # of 90 and 50, of 60 and 80
    assert of_means != pytest.approx(
        np.mean([harmonic_mean(90.0, 60.0), harmonic_mean(50.0, 80.0)])
    )


def slow_clustering(true, guess, known):
    """The best of all one-to-one assignments, tried one by one."""
    size = max(*true, *guess) + 1
    best = max(
        permutations(range(size)),
        key=lambda pi: sum(pi[g] == t for t, g in zip(true, guess, strict=True)),
    )
    right = [best[g] == t for t, g in zip(true, guess, strict=True)]
    return sum(right) / len(right)


@pytest.mark.parametrize(("classes", "clusters"), [(4, 6), (6, 3), (5, 5), (1, 4)])
def test_clustering_equals_all_permutations(classes, clusters):
    for seed in range(4):
        compare_with_all_permutations(seed, classes, clusters)


def compare_with_all_permutations(seed, classes, clusters):
    draw = np.random.default_rng(seed)
    true, guess = draw.integers(0, classes, 23), draw.integers(0, clusters, 23)
    found = clustering(true, guess, known=[0, 1])
    assert found["all"] == pytest.approx(slow_clustering(true, guess, [0, 1]))
    old = int((true < 2).sum())
    parts = [(found["old"], old), (found["new"], 23 - old)]
    weighted = sum(value * n for value, n in parts if value is not None) / 23
    assert found["all"] == pytest.approx(weighted)
    assert (found["old"] is None, found["new"] is None) == (old == 0, old == 23)
    pi = found["assignment"]
    assert sorted(pi) == list(range(len(pi)))
    assert sum(pi[g] == t for t, g in zip(true, guess, strict=True)) / 23 == found["all"]


def test_clustering_of_one_cluster_has_one_assignment():
    found = clustering(np.array([0] * 4 + [1] * 3), np.zeros(7, dtype=int), known=[0])
    assert (found["all"], found["old"], found["new"]) == (4 / 7, 1, 0)


def test_clustering_has_no_names():
    draw = np.random.default_rng(1)
    true, guess = draw.integers(0, 5, 60), draw.integers(0, 5, 60)
    guess[:40] = true[:40]  # so that the best assignment is the only one
    first = clustering(true, guess, known=[0, 3])
    other = clustering(true, np.array([3, 4, 0, 9, 1])[guess], known=[0, 3])
    for key in ("all", "old", "new", "nmi", "ari", "per_class"):
        assert other[key] == pytest.approx(first[key])
    assert first["old_fixed"] == pytest.approx((guess == true)[np.isin(true, [0, 3])].mean())
    assert other["old_fixed"] < 0.2  # a user of the names meets other names
    assert 0 < first["ari"] < first["nmi"] < 1


def test_clustering_leaves_out_what_is_unknown():
    true, guess = np.array([0, 1, -1, 1, -1]), np.array([1, 0, 0, 0, 7])
    found = clustering(true, guess, known=[0])
    assert (found["all"], found["n"], found["assignment"]) == (1, 3, [1, 0])
    assert clustering(np.full(3, -1), np.zeros(3, dtype=int), known=[0]) is None


def test_clustering_weighs_classes_alike_in_per_class():
    true, guess = np.array([0] * 8 + [1] * 2), np.array([0] * 8 + [1, 0])
    found = clustering(true, guess, known=[0])
    assert (found["all"], found["per_class"]) == (pytest.approx(0.9), pytest.approx(0.75))
