"""Edits of classes against loops over parts, and what is not a saved edit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyclass.classifier import saved_classes
from anyclass.classifier.class_edits import (
    ClassEdits,
    EditedClasses,
    half_names,
    is_placeholder,
)
from anyclass.classifier.classifier import Classifier
from anyclass.classifier.edited_probabilities import edited_probabilities, gate_logits
from anyclass.classifier.heads import CosineHead, EditedHead, edited
from anyclass.classifier.precomputed import Precomputed
from anyclass.classifier.two_means import two_means
from anyclass.data import Classes
from anyclass.errors import ModelError, RequestError
from anyclass.estimators.linear import Linear
from anyclass.estimators.open_world_model import OpenWorldModel

N, K, E = 7, 5, 4


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def five() -> EditedClasses:
    names = ("cat", "discovered 1", "dog", "discovered 2", "discovered 3")
    kinds = tuple("unknown" if "disc" in name else "labelled" for name in names)
    classes = Classes(names, kinds, names)  # type: ignore[arg-type]
    return EditedClasses(classes, ClassEdits.none(K))


def test_probabilities__against_a_loop() -> None:
    p = drawn(N, K, seed=1).softmax(1)
    rows = drawn(N, E, seed=2)
    gates = [drawn(E + 1, seed=3), drawn(E + 1, seed=4)]
    now = five().merge(["cat", "discovered 3"]).split("discovered 1", gates[0].numpy())
    now = now.merge(["discovered 1b", "discovered 2"]).split("discovered 1b", gates[1].numpy())
    assert now.classes.names == ("cat", "discovered 1a", "dog", "discovered 1ba", "discovered 1bb")
    found = edited_probabilities(now.edits, p, gate_logits(now.edits, rows))
    for i in range(N):
        first, second = (1 / (1 + np.exp(-float(rows[i] @ gate[:-1] + gate[-1]))) for gate in gates)
        cat, one, dog, two, three = p[i].tolist()
        both = one * (1 - first) + two
        wanted = [cat + three, one * first, dog, both * second, both * (1 - second)]
        assert found[i].tolist() == pytest.approx(wanted, abs=1e-6)
    assert now.edits.fitted == K


@pytest.mark.parametrize("kind", ["linear", "cosine", "open-world"])
def test_classifier__edits_are_exact_and_saved(tmp_path: Path, kind: str) -> None:
    weights = drawn(K, E, seed=5)
    known = drawn(2, E, seed=6)
    head: Any = {
        "linear": Linear(weights, drawn(K, seed=7), 3.0),
        "cosine": CosineHead(weights, 5.0),
        "open-world": OpenWorldModel(
            weights, known, torch.linspace(-3, 0, 9), temperature=torch.tensor(1.7)
        ),
    }[kind]
    width = {"linear": E, "cosine": E, "open-world": E - 1}[kind]
    space: Any = "both" if kind == "open-world" else "projected"
    texts = torch.full((2, width), torch.nan)
    representation = Precomputed(width, 0, texts, 100.0, space)
    classes = five().classes
    if kind == "open-world":
        names = ("cat", "dog", "discovered 1", "discovered 2", "discovered 3")
        given = [name for name in names if "disc" not in name]
        classes = Classes.of(given, labelled=given, unknown=3).with_discovered()
    before = Classifier(representation, head, classes, "kmeans")
    x = drawn(60, width, seed=8).numpy()
    p = before.predict_proba(x)
    at = {name: c for c, name in enumerate(classes.names)}
    most = max(("discovered 1", "discovered 2", "discovered 3"), key=before.predict(x).count)
    rest = [name for name in at if "disc" in name and name != most]
    after = before.merge("dog", rest[0]).split(most, x, ["kite", "ring"]).reject(rest[1])
    after.save(tmp_path)
    again = Classifier.load(tmp_path)
    assert again.classes == after.classes
    q = again.predict_proba(x)
    assert np.array_equal(q, after.predict_proba(x))
    now = {name: c for c, name in enumerate(again.classes.names)}
    assert set(now) == {"cat", "dog", "kite", "ring", rest[1]}
    assert np.allclose(q[:, now["dog"]], p[:, at["dog"]] + p[:, at[rest[0]]], atol=1e-6)
    assert np.allclose(q[:, now["kite"]] + q[:, now["ring"]], p[:, at[most]], atol=1e-6)
    assert np.allclose(q[:, now["cat"]], p[:, at["cat"]], atol=1e-6)
    names = [again.classes.names[c] for c in q.argmax(1)]
    assert again.predict(x) == ["" if name == rest[1] else name for name in names]
    assert again.reject("kite").predict(x).count("") > again.predict(x).count("")
    rows = torch.cat(list(representation.blocks(saving_table(x))))
    usual = before.familiarity(rows)
    if kind == "open-world":
        assert usual is not None
        found = again.familiarity(rows)
        assert found is not None
        assert torch.equal(found, usual)
    else:
        assert usual is None
    twice = again.merge("kite", "ring").rename({"kite": most})
    assert np.allclose(twice.predict_proba(x)[:, now["kite"]], p[:, at[most]], atol=1e-6)


def saving_table(x: np.ndarray) -> Any:
    from anyclass.data.feature_tables import read_features

    return read_features(x, None)


def test_classifier__files_of_earlier_versions_have_no_edits(tmp_path: Path) -> None:
    head = CosineHead(drawn(K, E), 5.0)
    representation = Precomputed(E, 0, torch.zeros(0, E), 100.0, "projected")
    classifier = Classifier(representation, head, five().classes, "kmeans")
    classifier.save(tmp_path)
    content = json.loads((tmp_path / "classifier.json").read_text())
    assert "edits" not in content
    assert "rejected" not in content["classes"]
    assert isinstance(Classifier.load(tmp_path).head, CosineHead)
    assert saved_classes.read_edited_classes(tmp_path).edits.changes_nothing


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"members": [[0, 0], [1], [2], [3]]}, "must occur once"),
        ({"members": [[0], [], [1], [2]]}, "must occur once"),
        ({"members": [[0, 1, 2, 3, 4]]}, "number of classes differs"),
        ({"divided": [[9, 0]], "gates": [[1.0] * 5]}, "divides nothing"),
        ({"gates": [[1.0], [1.0, 2.0]]}, "different lengths"),
        ({"gates": [[1.0] * 4]}, "width of features differs"),
        ({"gates": [["x"]]}, "edits"),
        ({"more": 1}, "edits"),
    ],
)
def test_load__refuses_damaged_edits(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    head = edited(CosineHead(drawn(K, E), 5.0), five().merge(["cat", "discovered 1"]).edits)
    classes = five().merge(["cat", "discovered 1"]).classes
    representation = Precomputed(E, 0, torch.zeros(0, E), 100.0, "projected")
    Classifier(representation, head, classes, "kmeans").save(tmp_path)
    assert isinstance(Classifier.load(tmp_path).head, EditedHead)
    path = tmp_path / "classifier.json"
    content = json.loads(path.read_text())
    content["edits"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=said):
        Classifier.load(tmp_path)


def test_two_means__separates_two_groups_by_their_nearest_mean() -> None:
    a = drawn(30, E, seed=1) * 0.3 + torch.tensor([2.0, 0, 5, 1])
    b = drawn(12, E, seed=2) * 0.3 - torch.tensor([2.0, 0, -5, 1])
    rows = torch.cat([a, b])
    gate = two_means(rows)
    g = rows @ gate[:-1] + gate[-1]
    assert (g[:30] > 0).all(), "the larger half is the first"
    assert (g[30:] < 0).all()
    flat = torch.cat([rows, torch.ones(42, 1)], dim=1)
    gate = two_means(flat)
    assert gate[E] == 0, "a column that does not vary has no weight"
    again = flat @ gate[:-1] + gate[-1]
    assert torch.allclose(again, g, atol=1e-4)


@pytest.mark.parametrize("rows", [torch.zeros(0, 3), torch.ones(1, 3), torch.ones(5, 3)])
def test_two_means__needs_two_different_images(rows: torch.Tensor) -> None:
    with pytest.raises(RequestError, match="two different images"):
        two_means(rows)


def test_names__of_halves() -> None:
    assert half_names("discovered 3", ["discovered 3"]) == ("discovered 3a", "discovered 3b")
    assert half_names("shoe", ["shoe", "cat"]) == ("shoe a", "shoe b")
    taken = ["discovered 3", "discovered 3b", "discovered 1"]
    assert half_names("discovered 3", taken) == ("discovered 2", "discovered 3")
    assert is_placeholder("discovered 12")
    assert is_placeholder("discovered 3ab")
    assert not is_placeholder("discovered shoe")


def test_classes__rejected_are_discovered_ones() -> None:
    now = five().reject("discovered 1").rename({"discovered 1": "kite"})
    assert now.classes.rejected == ("kite",)
    assert [now.classes.label(c) for c in range(3)] == ["cat", None, "dog"]
    assert Classes.from_json(now.classes.to_json()) == now.classes
    assert now.restore("kite").classes.rejected == ()
    assert now.merge(["cat", "kite"]).classes.rejected == ()
    with pytest.raises(RequestError, match="only discovered classes can be rejected"):
        replace(five().classes, rejected=("cat",))
