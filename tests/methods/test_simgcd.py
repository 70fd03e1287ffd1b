"""SimGCD: its losses against loops, what it trains, that it finds classes, that it goes on.

N = 6 views of B = 3 images, K = 4, E = 7; mosaics with 13 images, two labelled classes of four.
"""

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.data import ImageDataset
from anyclass.errors import RequestError, TrainingError
from anyclass.methods.gcd_common import MlpShape
from anyclass.methods.simgcd import (
    Objective,
    PrototypeHead,
    SimGcd,
    branch_loss,
    cluster_loss,
    entropy_gap,
    label_loss,
)
from anyclass.training.losses import supervised_contrast, unsupervised_contrast
from anyclass.training.two_views import TwoViewTuning

Fit = Callable[..., tuple[Classifier, list[dict[str, Any]]]]
SMALL = MlpShape(12, 9)


def small(**changed: Any) -> SimGcd:
    """Six steps of B = 5 over three epochs."""
    how = {"epochs": 3, "batch_size": 5, "views": 3, "lr": 0.05, "decay": "matrices"}
    how |= {name: changed.pop(name) for name in vars(TwoViewTuning()) if name in changed}
    return SimGcd(tuning=TwoViewTuning(**how), head=SMALL, **changed)


def given() -> tuple[Tensor, Tensor, Tensor]:
    """h, cosines and labels of six views; the second image is unlabelled."""
    draw = torch.Generator().manual_seed(2)
    h = normalize(torch.randn(6, 7, generator=draw), dim=-1)
    return h, 2 * torch.rand(6, 4, generator=draw) - 1, torch.tensor([2, -1, 0, 2, -1, 0])


def softmax(row: Tensor, tau: float) -> list[float]:
    powers = [exp(float(value) / tau) for value in row]
    return [power / sum(powers) for power in powers]


def test_branch_loss__equals_the_loops() -> None:
    h, cosines, labels = given()
    how = Objective(sup_weight=0.3, entropy_weight=2.0, student_temperature=0.2)
    p = [softmax(row, 0.2) for row in cosines]
    q = [softmax(row, 0.05) for row in cosines]
    cluster = -sum(q[(i + 3) % 6][k] * log(p[i][k]) for i in range(6) for k in range(4)) / 6
    mean = [sum(row[k] for row in p) / 6 for k in range(4)]
    r = log(4) + sum(share * log(share) for share in mean)
    label = -(log(p[0][2]) + log(p[2][0]) + log(p[3][2]) + log(p[5][0])) / 4
    wanted = {
        "cluster_loss": 0.7 * cluster,
        "entropy_loss": 0.7 * 2 * r,
        "label_loss": 0.3 * label,
        "views_loss": 0.7 * unsupervised_contrast(h, 1.0).item(),
        "classes_loss": 0.3 * supervised_contrast(h, labels, 0.07).item(),
    }
    found = branch_loss(h, cosines, labels, 0.05, how)
    assert {k: v.item() for k, v in found.items()} == {
        k: pytest.approx(v, abs=1e-5) for k, v in wanted.items()
    }


def test_cluster_loss__teaches_the_student_alone_and_knows_no_order_of_views() -> None:
    _, cosines, _ = given()
    cosines.requires_grad_()
    log_p = (cosines / 0.1).log_softmax(1)
    loss = cluster_loss(log_p, cosines, 0.05)
    (found,) = torch.autograd.grad(loss, cosines, retain_graph=True)
    (student,) = torch.autograd.grad(
        -((cosines.detach() / 0.05).softmax(1).roll(3, 0) * log_p).sum(1).mean(), cosines
    )
    assert torch.allclose(found, student, atol=1e-7)
    swapped = cosines.roll(3, 0)
    other = cluster_loss((swapped / 0.1).log_softmax(1), swapped, 0.05)
    assert other.item() == pytest.approx(loss.item(), abs=1e-6)
    equal = torch.zeros(6, 4)
    assert cluster_loss(equal.log_softmax(1), equal, 0.05).item() == pytest.approx(log(4))


def test_unevenness__is_zero_for_all_classes_alike_and_log_k_for_one() -> None:
    assert entropy_gap(torch.zeros(6, 4).log_softmax(1)).item() == pytest.approx(0, abs=1e-6)
    one = torch.tensor([[0.0, -200, -200, -200]] * 6)
    assert entropy_gap(one.log_softmax(1)).item() == pytest.approx(log(4), abs=1e-5)
    logits = given()[1].requires_grad_()
    before = entropy_gap((logits / 0.1).log_softmax(1))
    (slope,) = torch.autograd.grad(before, logits)
    after = entropy_gap(((logits - 0.1 * slope) / 0.1).log_softmax(1))
    assert after < before  # descent spreads the classes


def test_label_loss__of_nothing_is_zero() -> None:
    log_p = given()[1].log_softmax(1)
    assert label_loss(log_p, torch.full((6,), -1)).item() == 0


def test_objective__teacher_cools_down() -> None:
    taus = [Objective().teacher(epoch, 200) for epoch in (0, 15, 29, 30, 199)]
    assert taus == pytest.approx([0.07, 0.054483, 0.04, 0.04, 0.04], abs=1e-6)
    assert [Objective().teacher(e, 3) for e in range(3)] == pytest.approx([0.07, 0.055, 0.04])
    assert Objective().teacher(0, 1) == pytest.approx(0.07)


def test_head__reads_h_from_the_raw_feature_and_cosines_from_its_direction() -> None:
    torch.manual_seed(0)
    head, f = PrototypeHead(6, 4, SMALL), torch.randn(5, 6)
    for layer in head.mlp:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight)
    h, cosines = head(f)
    again, same = head(3 * f)
    assert torch.allclose(cosines, same, atol=1e-6)
    assert not torch.allclose(h, again, atol=1e-3)
    assert torch.allclose(h.norm(dim=1), torch.ones(5), atol=1e-6)
    wanted = [[float(a @ c / a.norm() / c.norm()) for c in head.prototypes.detach()] for a in f]
    assert torch.allclose(cosines, torch.tensor(wanted), atol=1e-5)
    assert (
        sum(p.numel() for p in PrototypeHead(768, 200, MlpShape()).parameters())
        == 6_295_808 + 153_600
    )


def test_first_step__has_the_values_of_a_beginning() -> None:
    """K = 200 and B = 128 at the width of ViT-B/16."""
    torch.manual_seed(0)
    head, f = PrototypeHead(768, 200, MlpShape()), torch.randn(256, 768)
    labels = torch.arange(128).clamp_max(99).repeat(2)
    terms = branch_loss(*head(f), labels, 0.07, Objective())
    assert terms["label_loss"].item() / 0.35 == pytest.approx(log(200), abs=0.15)
    assert 0 <= terms["entropy_loss"].item() < 0.05
    assert 4.5 < terms["views_loss"].item() / 0.65 < 5.6
    assert all(torch.isfinite(term) for term in terms.values())


def test_fit__trains_last_block_and_head_alone(
    fit: Fit, clip: Backbone, half_known: ImageDataset
) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    tuned = fit(small(), half_known)[0].clip.model.state_dict()
    moved = {name for name in before if not torch.equal(tuned[name], before[name])}
    assert moved == set(clip.last_stage())
    assert all(name.startswith("visual.transformer.resblocks.2.") for name in moved)
    assert all(torch.equal(before[n], t) for n, t in clip.model.state_dict().items())
    head = fit(small(tune="head"), half_known)[0]
    assert head.representation.part is None
    assert all(torch.equal(before[n], t) for n, t in head.clip.model.state_dict().items())


def test_fit__backbone_lr_moves_the_tower_less(
    fit: Fit, clip: Backbone, half_known: ImageDataset
) -> None:
    def way(**how: Any) -> float:
        tuned = fit(small(**how), half_known)[0].clip.model.state_dict()
        return sum(float((tuned[n] - p.detach()).norm()) for n, p in clip.last_stage().items())

    assert way(backbone_lr=0.0) == 0
    assert 0 < way(backbone_lr=1e-4) < 0.02 * way()


def test_fit__predicts_by_the_nearest_prototype(fit: Fit, half_known: ImageDataset) -> None:
    classifier, _ = fit(small(), half_known)
    assert classifier.head.weights.shape == (4, 32)
    assert classifier.classes_ == ["two", "discovered 1", "art", "discovered 2"]
    guess = classifier.predict_proba(half_known).argmax(1)
    assert classifier.record.predictions["predicted"] == guess.tolist()
    assert (classifier.representation.space, classifier.head.scale) == ("pooled", 10)
    assert classifier.record.metrics["used"] >= 1


@pytest.mark.parametrize("seed", [0])
def test_fit__finds_easy_clusters(fit: Fit, blobs: Callable[[int], Any], seed: int) -> None:
    how = TwoViewTuning(tune="head", epochs=40, batch_size=64, decay="matrices")
    problem = blobs(seed)
    found = problem.scores(fit(SimGcd(tuning=how, head=MlpShape(64, 32)), problem.dataset, seed)[0])
    assert found["all"] > 0.95
    assert found["old_fixed"] > 0.95


def test_fit__same_seed_same_bytes(fit: Fit, half_known: ImageDataset) -> None:
    from_seed = [fit(small(), half_known, seed)[0] for seed in (3, 3, 4)]
    weights = [made.head.weights for made in from_seed]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("how", [{}, {"views": 0}], ids=str)
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    once: Fit,
    half_known: ImageDataset,
    tmp_path: Path,
    killed: Callable[..., None],
    how: dict[str, Any],
) -> None:
    unbroken, rows = once(small(**how), half_known)
    killed(small(**how), half_known, tmp_path, "fit", 3)
    continued, later = fit(small(**how), half_known, scratch=tmp_path)
    assert torch.equal(continued.head.weights, unbroken.head.weights)
    assert continued.record == unbroken.record
    for name, tensor in unbroken.clip.model.state_dict().items():
        assert torch.equal(continued.clip.model.state_dict()[name], tensor)

    def told(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows without the name of the loop, which only a loop with a checkpoint has."""
        rows = [row for row in log if row.get("stage") != "embed"]
        return [{key: value for key, value in row.items() if key != "loop"} for row in rows]

    assert told(later) == told(rows)[-len(told(later)) :]
    assert sum(row["stage"] == "simgcd" for row in told(rows)) == 2


def test_fit__reads_no_name_without_a_label(fit: Fit, half_known: ImageDataset) -> None:
    classes = half_known.classes
    renamed = replace(classes, names=("two", "kite", "art"), prompts=("two", "kite", "art"))
    first, other = (
        fit(small(), dataset)[0].head.weights
        for dataset in (half_known, replace(half_known, classes=renamed))
    )
    assert torch.equal(first, other)


def test_fit__one_class_for_all_is_an_error(fit: Fit, half_known: ImageDataset) -> None:
    """The random tower sees images so much alike that sharp predictions are all the same."""
    still = Objective(student_temperature=0.01, stop_collapsed_from=0)
    with pytest.raises(
        TrainingError,
        match=r"fell into \d of 4 classes; try a tenth of --lr, or",
    ):
        fit(small(lr=0.0, epochs=5, objective=still), half_known)
    for patient in (Objective(student_temperature=0.01), replace(still, stop_collapsed_from=None)):
        fitted, _ = fit(small(lr=0.0, epochs=5, objective=patient), half_known)
        assert fitted.record.metrics["steps"] == 5 * (13 // small().tuning.batch_size)


def test_fit__refuses_what_cannot_be_met(fit: Fit, half_known: ImageDataset) -> None:
    with pytest.raises(RequestError, match="no image has a label"):
        fit(small(), half_known.unlabelled_copy())
    many = replace(half_known, classes=replace(half_known.classes, unknown=20))
    with pytest.raises(RequestError, match="23 classes cannot be found in 13 images"):
        fit(small(), many)


@pytest.mark.parametrize(
    "labels",
    [
        [0] * 5 + [-1] * 8,  # one known class
        [0, 2] + [-1] * 11,  # one image for each
        [0] * 6 + [2] * 6 + [-1],  # hardly anything unlabelled
    ],
    ids=str,
)
def test_fit__of_few_labels_is_finite(
    fit: Fit, half_known: ImageDataset, labels: list[int]
) -> None:
    dataset = replace(half_known, labels=np.array(labels))
    classifier, log = fit(small(batch_size=100), dataset)  # |D| < B
    assert np.isfinite(classifier.predict_proba(dataset)).all()
    assert len([row for row in log if row.get("stage") == "fit"]) == 3
