"""Ward's merges against SciPy's, and with labelled classes that stay apart."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import linkage
from torch import Tensor

from anyclass.estimators.metrics import clustering
from anyclass.estimators.ward import Hierarchy, partitions


def accuracy(truth: Tensor, found: Tensor) -> float:
    scores = clustering(truth.numpy(), found.numpy(), [0])
    assert scores is not None
    return float(scores["all"])


@pytest.mark.parametrize("seed", range(3))
def test_hierarchy__is_wards_without_labels(seed: int) -> None:
    v = torch.randn(23, 5, generator=torch.Generator().manual_seed(seed))
    found = Hierarchy.fit(v, torch.full((23,), -1), 2)
    merged = linkage(v.double().numpy(), "ward")
    members = [{i} for i in range(23)]
    for step, (a, b) in enumerate(merged[:, :2].astype(int)):
        members.append(members[a] | members[b])
        expected = np.zeros(23, dtype=int)
        alive = set(range(24 + step)) - set(merged[: step + 1, :2].astype(int).flatten().tolist())
        for name, cluster in enumerate(alive):
            expected[list(members[cluster])] = name
        clusters = found.cut(22 - step)
        assert accuracy(torch.from_numpy(expected), clusters) == 1


def test_hierarchy__labelled_classes_stay_apart_and_keep_their_index() -> None:
    v = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.full((23,), -1)
    labels[:6] = torch.tensor([4, 1, 1, 4, 4, 1])
    found = Hierarchy.fit(v, labels, 3)
    assert found.size == 19
    for k in (2, 3, 5, 9):
        clusters = found.cut(k)
        assert torch.equal(clusters[:6], labels[:6])
        assert len(clusters.unique()) == k
    assert len(found.cut(1).unique()) == 2, "two labelled classes are the least"
    assert [k for k, _ in partitions(found, [1, 2, 19, 20])] == [2, 19]
    coarse_to_fine = [clusters for _, clusters in partitions(found, [2, 4, 8])]
    for coarse, fine in pairwise(coarse_to_fine):
        assert all(len(coarse[fine == c].unique()) == 1 for c in fine.unique())
