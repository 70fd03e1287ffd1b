"""ReCLIP: its equations against dense loops, its training against a slow reading, its classifier.

N = 13 images, B = 6, C = 4 classes, D = 24; three epochs of two steps. In the equations M = C + N
nodes of width 9.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from math import log as ln
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import normalize

from anyclass.backbone import Backbone
from anyclass.classifier.classifier import Classifier
from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit as run_fit
from anyclass.data import ImageDataset
from anyclass.errors import ModelError, RequestError
from anyclass.features.cache import Embedding
from anyclass.features.openai_templates import OPENAI_TEMPLATES
from anyclass.features.store import FeatureStore
from anyclass.methods import reclip, reclip_equations, reclip_labels
from anyclass.methods.reclip import Reclip
from anyclass.methods.reclip_equations import (
    NONE,
    centroids,
    graph,
    labelled_loss,
    projection,
    propagate,
)
from anyclass.methods.zero_shot import ZeroShot
from anyclass.training.batches import TrainingBatches
from tests.methods.conftest import unit

C, N, D, B, EPOCHS = 4, 13, 9, 6, 3
QUICK = Reclip(tune="tail", ensemble=False, neighbours=3, batch_size=B, epochs=EPOCHS, lr=3e-3)

Fitted = tuple[Classifier, list[dict[str, Any]]]
Fit = Callable[..., Fitted]


# --- projection


@pytest.mark.parametrize(("classes", "directions"), [(4, None), (7, 5), (15, None)])
def test_projection__is_onto_all_directions_but_the_first(
    classes: int, directions: int | None
) -> None:
    a = unit(classes, D) + 0.3
    pi = projection(a, directions).double().numpy()
    u, s, _ = np.linalg.svd(a.numpy().T)
    r = directions or min(classes, D)
    assert np.allclose(pi, pi.T, atol=1e-6)
    assert np.allclose(pi @ pi, pi, atol=1e-6)
    assert np.allclose(pi @ u[:, 0], 0, atol=1e-5)
    assert float(pi.trace()) == pytest.approx(r - 1, abs=1e-5)
    wanted = sum(np.outer(u[:, i], u[:, i]) for i in range(1, r))
    assert np.allclose(pi, wanted, atol=1e-5)
    assert s[0] > s[1]


def test_labels__keep_250_directions_beyond_500_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, plain = [], projection

    def spy(a: Tensor, directions: int | None) -> Tensor:
        kept.append(directions)
        return plain(a, directions)

    monkeypatch.setattr(reclip, "projection", spy)
    for classes, how in ((500, Reclip()), (501, Reclip()), (501, Reclip(directions=7))):
        replace(how, iterations=1).label_nodes(unit(classes, D), unit(N, D, seed=1))
    assert kept == [None, 250, 7]


# --- graph


def dense_graph(h: Tensor, k: int) -> np.ndarray:
    """S by loops over a full matrix."""
    m, nodes = len(h), h.double().numpy()
    a = np.zeros((m, m))
    for i in range(m):
        row = [(0.0 if i == j else (float(nodes[i] @ nodes[j]) + 1) / 2, j) for j in range(m)]
        for value, j in sorted(row, reverse=True)[:k]:
            a[i, j] = value
    w = (a + a.T) / 2
    degree = w.sum(1)
    return np.array(
        [[w[i, j] / (degree[i] * degree[j]) ** 0.5 for j in range(m)] for i in range(m)]
    )


@pytest.mark.parametrize(("m", "k", "block"), [(17, 5, 512), (17, 5, 4), (200, 20, 64), (6, 20, 3)])
def test_graph__sparse_equals_dense(
    monkeypatch: pytest.MonkeyPatch, m: int, k: int, block: int
) -> None:
    monkeypatch.setattr(reclip_equations, "BLOCK", block)
    h = unit(m, D)
    s = graph(h, k)
    full = s.toarray()
    assert np.allclose(full, dense_graph(h, min(k, m - 1)), atol=1e-6)
    assert np.allclose(full, full.T, rtol=1e-14)
    assert np.abs(np.linalg.eigvalsh(full)).max() <= 1 + 1e-9
    assert full.diagonal().tolist() == [0.0] * m
    assert s.nnz <= 2 * m * k


@pytest.mark.parametrize("one", [1.0, 1 + 2e-7])
def test_graph__a_node_opposite_to_all_has_no_link(one: float) -> None:
    """Rounded or not: of two classes each node lies on one of two opposite points."""
    h = torch.tensor([[one, 0.0], [one, 0.0], [-one, 0.0]])
    found = graph(h, 2).toarray()
    assert np.allclose(found, [[0, 1, 0], [1, 0, 0], [0, 0, 0]], rtol=0, atol=1e-12)


# --- propagation


@pytest.mark.parametrize("m", [17, 200])
def test_propagate__equals_the_dense_solution(m: int) -> None:
    s = graph(unit(m, D), 5)
    z = np.linalg.solve(np.eye(m) - 0.9 * s.toarray(), np.eye(m)[:, :C])
    y, error = propagate(s, C, 0.9, 200, 1e-10)
    assert y.tolist() == z.argmax(1).tolist()
    assert len(set(y.tolist())) == C
    assert error <= 1e-10
    y, error = propagate(s, C, 0.9, 3, 1e-10)
    assert error > 1e-4  # it says so when it has not converged


def test_propagate__says_the_largest_error() -> None:
    """The one step of conjugate gradients by hand: z = e (e . e) / (e . (I - alpha S) e)."""
    s, errors = graph(unit(17, D), 5), []
    system = np.eye(17) - 0.9 * s.toarray()
    for e in np.eye(17)[:C]:
        errors.append(np.linalg.norm(e - system @ e / (e @ system @ e)))
    assert float(propagate(s, C, 0.9, 1, 1e-10)[1]) == pytest.approx(max(errors), rel=1e-6)


def test_propagate__what_no_class_reaches_has_no_label() -> None:
    """Two islands, and the second has no class text."""
    island = np.array([0, 0, 0, 1, 1])
    a = np.where(island[:, None] == island[None], 0.5, 0.0) - np.eye(5) / 2
    y, _ = propagate(csr_array(a), 2, 0.9, 20, 1e-6)
    assert y.tolist()[:2] == [0, 1]
    assert y.tolist()[2] in (0, 1)
    assert y.tolist()[3:] == [NONE, NONE]


# --- centroids and loss


def test_centroids__mean_of_the_nodes_and_an_empty_class_keeps_its_own() -> None:
    h, before = unit(7, D), unit(C, D, seed=1)
    y = torch.tensor([2, 0, 2, NONE, 2, 0, NONE])
    q = centroids(h, y, before)
    for c, rows in ((0, [1, 5]), (2, [0, 2, 4])):
        mean = sum(h[i] for i in rows) / len(rows)
        assert torch.allclose(q[c], mean / mean.norm(), atol=1e-6)
    assert torch.equal(q[[1, 3]], before[[1, 3]])


def test_labelled_loss__averages_over_the_labelled() -> None:
    logits = 3 * unit(5, C)
    y = torch.tensor([1, NONE, 3, NONE, 0])
    terms = [ln(sum(np.exp(logits[i].tolist()))) - float(logits[i, y[i]]) for i in (0, 2, 4)]
    assert float(labelled_loss(logits, y)) == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(labelled_loss(logits, torch.full((5,), NONE))) == 0


# --- a slow reading of section 7.4


def steps(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the name of the loop, which only a loop with a checkpoint has."""
    rows = [row for row in log if row.get("stage") == "fit"]
    return [{key: value for key, value in row.items() if key != "loop"} for row in rows]


def losses(log: list[dict[str, Any]]) -> list[list[float]]:
    return [[row["text_loss"], row["image_loss"]] for row in steps(log)]


def content(classifier: Classifier) -> bytes:
    """Every bit that training decided."""
    tensors = [classifier.head.weights, *classifier.clip.parameters("all").values()]
    numbers = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)
    return numbers + repr(classifier.record).encode()


def norms(model: nn.Module) -> set[str]:
    """Names of the parameters of all LayerNorms."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    return {f"{name}.{part}" for name in found for part in ("weight", "bias")}


LAST = ("visual.transformer.resblocks.2.", "visual.ln_post.")


class Truth:
    """Two models and two SGDs, dense matrices, one image at a time."""

    def __init__(self, clip: Backbone, dataset: ImageDataset, how: Reclip) -> None:
        self.how, self.names = how, dataset.classes.names
        self.t, self.v, self.losses = clip.copy(), clip.copy(), list[list[float]]()
        self.templates = OPENAI_TEMPLATES if how.ensemble else [how.template]
        views = [clip.preprocessing.view(Image.open(dataset.path(i))) for i in range(N)]
        self.pixels = clip.preprocessing.normalise(torch.stack(views))
        with torch.no_grad():
            self.x_t, self.anchors = clip.images(self.pixels), self.ensembled(clip)
        self.q = self.anchors
        names = norms(clip.model)
        image = {n for n in names if n.startswith(LAST if how.tune == "tail" else "visual.")}
        text = {n for n in names if not n.startswith("visual.")}
        self.sgds = [
            torch.optim.SGD(
                [p for n, p in clone.model.named_parameters() if n in wanted],
                lr=how.lr,
                momentum=0.9,
                weight_decay=1e-4,
            )
            for clone, wanted in ((self.t, text), (self.v, image))
        ]
        features = FeatureStore(clip, dataset).embed(Embedding("tail"), lambda **_: None)
        order = TrainingBatches(dataset, clip, features, None, B, EPOCHS * (N // B), 0)
        for batch in order.start(0):
            if batch.step % (N // B) == 0:
                self.label()
            self.step(batch.index.tolist())
        with torch.no_grad():
            self.w = self.t.texts(self.class_texts)

    @property
    def class_texts(self) -> list[str]:
        return [self.how.template.replace("{}", name) for name in self.names]

    def ensembled(self, clip: Backbone) -> Tensor:
        rows = []
        for name in self.names:
            mean = clip.texts([t.replace("{}", name) for t in self.templates]).mean(0)
            rows.append(mean / mean.norm())
        return torch.stack(rows)

    def propagated(self, anchors: Tensor, x: Tensor) -> list[int]:
        h = normalize(torch.cat([anchors, x]) @ projection(anchors), dim=-1)
        s, m = dense_graph(h, self.how.neighbours), len(h)
        return np.linalg.solve(np.eye(m) - 0.99 * s, np.eye(m)[:, :C]).argmax(1).tolist()

    @torch.no_grad()
    def label(self) -> None:
        x_v = self.v.images(self.pixels)
        y_t = self.propagated(self.ensembled(self.t), self.x_t)
        y_v = self.propagated(self.anchors, x_v)
        nodes, q = torch.cat([self.anchors, x_v]), list(self.q)
        for c in set(y_v):
            mean = sum(row for row, y in zip(nodes, y_v, strict=True) if y == c)
            q[c] = mean / mean.norm()
        self.q = torch.stack(q)
        pairs = zip(y_t[C:], y_v[C:], strict=True)
        self.y = [t if t == v else None for t, v in pairs]

    def step(self, rows: list[int]) -> None:
        used = [i for i in rows if self.y[i] is not None]
        assert used
        w, terms = self.t.texts(self.class_texts), []
        x_v = self.v.images(self.pixels)
        for x, rows_of in ((self.x_t, w), (x_v, self.q)):
            one = [100 * x[i] @ rows_of.T for i in used]
            each = [z.logsumexp(0) - z[self.y[i]] for z, i in zip(one, used, strict=True)]
            terms.append(sum(each) / len(each))
        self.losses.append([float(term.detach()) for term in terms])
        for sgd, term in zip(self.sgds, terms, strict=True):
            sgd.zero_grad()
            term.backward()
            sgd.step()


SLOW: list[dict[str, Any]] = [{}, {"tune": "all", "lr": 1e-3}, {"ensemble": True, "lr": 2e-3}]


@pytest.mark.parametrize("option", SLOW, ids=str)
def test_fit__equals_the_slow_truth(
    fit: Fit, once: Fit, clip: Backbone, dataset: ImageDataset, option: dict[str, Any]
) -> None:
    """With conjugate gradients run to their end, as the slow reading solves exactly."""
    how = replace(QUICK, iterations=300, tolerance=1e-10, **option)
    classifier, log = fit(how)
    wanted = Truth(clip, dataset, how)
    assert np.allclose(losses(log), wanted.losses, rtol=2e-3, atol=2e-4)
    q, w = classifier.head.weights.chunk(2, dim=1)
    assert torch.allclose(q * 2**0.5, wanted.q, atol=1e-4)
    assert torch.allclose(w * 2**0.5, wanted.w, atol=1e-4)
    trained = dict(classifier.clip.model.named_parameters())
    for name, parameter in wanted.v.model.named_parameters():
        assert torch.allclose(trained[name], parameter, atol=1e-4), name
    agreed = [y for y in wanted.y if y is not None]
    zero_shot = once(replace(how, epochs=0))[0].record.zero_shot_labels
    same = [y == zero_shot[i] for i, y in enumerate(wanted.y) if y is not None]
    metrics = classifier.record.metrics
    assert metrics["agreement_of_towers"] == pytest.approx(len(agreed) / N)
    assert metrics["agreement_with_zero_shot"] == pytest.approx(np.mean(same))
    assert metrics["residual"] <= 1e-9
    assert [row for row in log if row.get("stage") == "reclip"][-1] == {
        "stage": "reclip",
        "step": 4,
        **metrics,
    }


def test_fit__the_slow_truth_sees_labels_that_do_not_agree(
    clip: Backbone, dataset: ImageDataset
) -> None:
    """So that leaving such images out is tested at all."""
    truth = Truth(clip, dataset, QUICK)
    assert None in truth.y
    assert len({y for y in truth.y if y is not None}) > 1


# --- what is trained


@pytest.mark.parametrize("tune", ["tail", "all"])
def test_fit__only_norms_of_the_image_tower_change(fit: Fit, clip: Backbone, tune: str) -> None:
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    tuned = fit(replace(QUICK, tune=tune))[0].clip.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], tuned[name])}
    wanted = {n for n in norms(clip.model) if n.startswith(LAST if tune == "tail" else "visual.")}
    assert changed == wanted
    assert len(wanted) == (6 if tune == "tail" else 16)
    after = clip.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.grad is not None for parameter in clip.model.parameters())


@pytest.mark.parametrize("kind", ["huggingface", "siglip", "coca"])
def test_fit__other_towers_keep_their_running_statistics(
    tiny_clip: Callable[..., str], dataset: ImageDataset, kind: str
) -> None:
    clip = Backbone.load(tiny_clip(kind), engine="torch")
    classifier = replace(QUICK, epochs=1, scale=1.0).fit(
        FeatureStore(clip, dataset), lambda **_: None
    )
    before, tuned = (
        {name: tensor.nan_to_num() for name, tensor in model.state_dict().items()}  # CoCa's own
        for model in (clip.model, classifier.clip.model)
    )
    changed = {name for name in before if not torch.equal(before[name], tuned[name])}
    assert changed
    assert changed <= set(clip.norms("image"))
    assert not any("running" in name for name in changed)
    assert classifier.predict_proba(dataset).shape == (N, C)


def test_epochs_of__few_for_few_images_and_at_most_100(fit: Fit) -> None:
    sizes = (13, 4999, 5000, 18_900, 70_700, 900_000)
    assert [Reclip().epochs_of(n) for n in sizes] == [2, 2, 3, 5, 16, 100]
    assert QUICK.epochs_of(70_700) == EPOCHS
    assert len(steps(fit(replace(QUICK, epochs=None))[1])) == 2 * (N // B)


# --- behaviour


@pytest.mark.parametrize("tune", ["tail", "all"])
def test_fit__no_epoch_and_no_ensemble_equals_zero_shot(
    fit: Fit, once: Fit, dataset: ImageDataset, tune: str
) -> None:
    classifier = fit(replace(QUICK, tune=tune, epochs=0))[0]
    adapted = classifier.predict_proba(dataset)
    zero_shot = once(ZeroShot())[0].predict_proba(dataset)
    assert np.allclose(adapted, zero_shot, atol=1e-5)
    assert adapted.argmax(1).tolist() == zero_shot.argmax(1).tolist()
    assert classifier.record.metrics == {}
    assert classifier.record.zero_shot_labels == zero_shot.argmax(1).tolist()


@pytest.mark.parametrize("tune", ["tail", "all"])
def test_fit__never_reads_a_label(fit: Fit, once: Fit, dataset: ImageDataset, tune: str) -> None:
    noise, how = np.random.default_rng(1), replace(QUICK, tune=tune, epochs=2)
    labels = noise.integers(0, C, N)
    first, log = once(how)
    again, other = fit(how, replace(dataset, labels=labels))
    assert content(again) == content(first)
    assert other == log


def test_fit__same_seed_same_bytes(fit: Fit) -> None:
    first, again, other = (fit(QUICK, seed=seed) for seed in (3, 3, 4))
    assert content(first[0]) == content(again[0])
    assert first[1] == again[1]
    assert content(first[0]) != content(other[0])


@pytest.mark.parametrize(("tune", "step"), [("tail", 3), ("all", 1)])
def test_fit__continued_after_a_kill_equals_an_unbroken_one(
    fit: Fit,
    once: Fit,
    dataset: ImageDataset,
    tmp_path: Path,
    killed: Callable[..., None],
    tune: str,
    step: int,
) -> None:
    how = replace(QUICK, tune=tune)
    unbroken, rows = once(how)
    killed(how, dataset, tmp_path, "fit", step)
    continued, later = fit(how, scratch=tmp_path)
    assert content(continued) == content(unbroken)
    assert steps(later) == steps(rows)[step:]
    finished, nothing = fit(how, scratch=tmp_path)
    assert content(finished) == content(unbroken)
    assert not steps(nothing)


def test_fit__options_differ(fit: Fit) -> None:
    options = [{}, {"template": "{} art"}, {"alpha": 0.5}, {"neighbours": 4}, {"scale": 20.0}]
    options += [{"momentum": 0.0}, {"weight_decay": 0.5}, {"directions": 2}, {"iterations": 1}]
    weights = [fit(replace(QUICK, **option))[0].head.weights for option in options]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert not torch.allclose(one, other, atol=1e-6)


def test_fit__refuses(fit: Fit, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="two or more class names"):
        fit(QUICK, ImageDataset.read(dataset.root, ["only one"]))
    monkeypatch.setattr("anyclass.backbone.loaded_model.NORMS", (nn.BatchNorm2d,))
    with pytest.raises(RequestError, match="no normalisation layer; use --tune all"):
        fit(QUICK)


# --- the classifier


@pytest.mark.parametrize("tune", ["tail", "all"])
def test_classifier__means_the_logits_of_both_and_comes_back(
    fit: Fit, clip: Backbone, dataset: ImageDataset, tmp_path: Path, tune: str
) -> None:
    made, _ = fit(replace(QUICK, tune=tune))
    probabilities = made.predict_proba(dataset)
    q, w = (part * 2**0.5 for part in made.head.weights.chunk(2, dim=1))
    assert torch.allclose(q.norm(dim=1), torch.ones(C), atol=1e-5)
    assert torch.allclose(w.norm(dim=1), torch.ones(C), atol=1e-5)
    for i in range(N):
        view = clip.preprocessing.normalise(
            clip.preprocessing.view(Image.open(dataset.path(i)))[None]
        )
        with torch.no_grad():
            of_t, of_v = clip.images(view)[0] @ w.T, made.clip.images(view)[0] @ q.T
            odds = (clip.logit_scale * (of_t + of_v) / 2).exp()
        assert np.allclose(probabilities[i], odds / odds.sum(), atol=1e-4)
    made.save(tmp_path)
    loaded = Classifier.load(tmp_path, engine="torch")
    assert loaded.predict_proba(dataset).tobytes() == probabilities.tobytes()
    assert len(loaded.representation.towers) == 2
    settings = json.loads((tmp_path / "classifier.json").read_text())
    for wrong in ({"beside": False}, {"beside": "yes"}, {"beside": None}):
        (tmp_path / "classifier.json").write_text(json.dumps(settings | wrong))
        with pytest.raises(ModelError):
            Classifier.load(tmp_path, engine="torch")


def test_main__takes_the_fields_as_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "reclip", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"--{flag.replace('_', '-')}" in said for flag in vars(QUICK))


def test_anyclass_fit__a_run_and_its_evaluation(shapes: dict[str, Any], tmp_path: Path) -> None:
    how = replace(QUICK, ensemble=True, lr=1e-2)
    metrics = run_fit(how, tmp_path / "run", **shapes).metrics
    assert metrics["scored"] == 14
    assert set(metrics["facts"]) == set(reclip_labels.METRICS)
    loaded = Classifier.load(tmp_path / "run" / "model", engine="torch")
    dataset = ImageDataset.read(shapes["images"], shapes["classes"], "folders")
    probabilities = loaded.predict_proba(dataset)
    rows = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    assert [row["score"] for row in rows] == pytest.approx(probabilities.max(1).tolist(), abs=2e-4)
    right = probabilities.argmax(1) == dataset.labels
    assert right.mean() == pytest.approx(metrics["adapted"]["accuracy"])
    found = evaluate(tmp_path / "run", shapes["images"], engine="torch")
    assert found["accuracy"] == pytest.approx(metrics["adapted"]["accuracy"])
    assert found["zero_shot_accuracy"] == pytest.approx(metrics["zero_shot"]["accuracy"])
