"""Classes of a run merged, split, rejected and renamed: exact, whole or not at all, taken back."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from anyclass import Classifier, evaluate, load, predict
from anyclass.cli import main
from anyclass.commands.edit_classes import edit_classes
from anyclass.commands.fit import fit
from anyclass.commands.rename import rename
from anyclass.errors import AnyclassError, RequestError
from anyclass.files import check_manifest, write_manifest
from anyclass.methods import METHODS
from anyclass.methods.gcd_common import MlpShape
from anyclass.training.two_views import TwoViewTuning

SMALL = TwoViewTuning(tune="head", epochs=1, batch_size=8, lr=0.01, views=2)
SHAPE = MlpShape(mlp_width=16, h_width=8)
NETS: dict[str, Any] = {"tuning": SMALL, "head": SHAPE}
FIELDS: dict[str, dict[str, Any]] = {
    "open-world": {},
    "kmeans": {"semi_supervised": True},
    "simgcd": NETS,
    "gcd": NETS | {"rows": 32},
    "get": NETS | {"tes_epochs": 1, "words": 2},
}
"""Every method that discovers classes."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import draw_shapes

    return draw_shapes(tmp_path_factory.mktemp("edited") / "images")


@pytest.fixture(scope="module")
def fitted_by(tiny_clip: Any, images: Path) -> Callable[[str], Path]:
    """`fitted_by("kmeans")`: a run with 2 labelled and 3 discovered classes, not to be changed."""
    done: dict[str, Path] = {}
    known = ("red square", "blue disc")
    files = [f"{c}/{p.name},{c}" for c in known for p in sorted((images / c).iterdir())[:2]]
    labels = images.parent / "labels.csv"
    labels.write_text("\n".join(["file_name,label", *files]))

    def run(name: str) -> Path:
        if name not in done:
            done[name] = images.parent / name
            request = {"images": images, "labels": str(labels), "unknown": 3}
            request |= {"model": tiny_clip(), "device": "cpu", "engine": "torch"}
            fit(METHODS[name](**FIELDS[name]), done[name], **request)
        return done[name]

    return run


@pytest.fixture
def run(fitted_by: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy to work on."""
    return shutil.copytree(fitted_by("open-world"), tmp_path / "run")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def contents(run: Path) -> dict[str, bytes]:
    return {
        p.relative_to(run).as_posix(): p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def check_consistent(run: Path, images: Path) -> None:
    """All files of a run say the same of its classes and images."""
    classifier = Classifier.load(run / "model")
    names = classifier.classes_
    classes = read_json(run / "classes.json")
    assert classes["names"] == names
    rows = read_json(run / "naming.json")["classes"]
    assert [row["name"] for row in rows] == names
    assert [row["index"] for row in rows] == list(range(len(names)))
    assert [row["kind"] for row in rows] == list(classifier.classes.kinds)
    table = read_csv(run / "classes.csv")
    assert [row["name"] for row in table] == names
    rejected = [row["name"] for row in table if row["action"] == "reject"]
    assert rejected == [name for name in names if name in classifier.classes.rejected]
    exact = pq.read_table(run / "predictions.parquet").to_pylist()
    shown = read_csv(run / "predictions.csv")
    p = classifier.predict_proba([images / row["file_name"] for row in exact])
    for row, text, probabilities in zip(exact, shown, p, strict=True):
        assert (text["label"] or None, text["status"]) == (row["label"], row["status"])
        if row["status"] == "given":
            continue
        best = names[probabilities.argmax()]
        assert row["score"] == pytest.approx(probabilities.max(), abs=1e-4)
        assert row["label"] == (None if best in classifier.classes.rejected else best)
        assert row["label"] == row["predicted_label"]
        if len(names) > 1:
            ordered = np.sort(probabilities)
            assert row["margin"] == pytest.approx(ordered[-1] - ordered[-2], abs=2e-4)
    counts = [[names[q.argmax()] for q in p].count(name) for name in names]
    assert [row["images"] for row in rows] == counts
    metrics = read_json(run / "metrics.json")
    found = metrics.get("discovery", {"classes": len(names)})
    assert found["classes"] == len(names)
    if metrics["adapted"]:
        assert [row["name"] for row in metrics["adapted"]["per_class"]] == names
        assert len(metrics["confusion"]) == len(names)
    free = [row for row in exact if row["status"] != "given" and row["zero_shot_label"]]
    if free and all(row["label"] for row in free):
        moved = [row["label"] != row["zero_shot_label"] for row in free]
        assert metrics["changed"] == pytest.approx(np.mean(moved)), "no label that was trained on"
    report = (run / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in names)
    assert check_manifest(run) == []
    assert not (run / "unfinished").exists()


@pytest.mark.parametrize("method", FIELDS)
def test_edit_classes__is_exact_for_every_method(
    fitted_by: Callable[[str], Path], tmp_path: Path, images: Path, method: str
) -> None:
    run = shutil.copytree(fitted_by(method), tmp_path / "run")
    old = Classifier.load(run / "model")
    p = old.predict_proba(images)
    index = {name: c for c, name in enumerate(old.classes_)}
    found = [old.classes_[c] for c in p.argmax(1)]
    crowded = max((f"discovered {i}" for i in (1, 2, 3)), key=found.count)
    other = next(n for n in ("discovered 1", "discovered 2") if n != crowded)
    halves = edit_classes(run, split=[crowded])["split"][crowded]
    assert halves == [f"{crowded}a", f"{crowded}b"]
    divided = Classifier.load(run / "model")
    q = divided.predict_proba(images)
    parts = [q[:, divided.classes_.index(name)] for name in halves]
    assert np.allclose(sum(parts), p[:, index[crowded]], atol=1e-6)
    assert all((parts[i] > parts[1 - i]).any() for i in (0, 1))
    check_consistent(run, images)

    result = edit_classes(run, merge=[("blue disc", other)])
    assert result["merged"] == {"blue disc": ["blue disc", other]}
    new = Classifier.load(run / "model")
    r = new.predict_proba(images)
    both = p[:, index["blue disc"]] + p[:, index[other]]
    assert np.allclose(r[:, new.classes_.index("blue disc")], both, atol=1e-6)
    for name in set(new.classes_) - {"blue disc"}:
        column = q[:, divided.classes_.index(name)]
        assert np.allclose(r[:, new.classes_.index(name)], column, atol=1e-6)
    check_consistent(run, images)

    edit_classes(run, reject=[halves[0]], rename={halves[1]: "kite"})
    last = Classifier.load(run / "model")
    assert np.allclose(last.predict_proba(images), r, atol=1e-7)
    labels = last.predict(images)
    best = [new.classes_[c] for c in r.argmax(1)]
    assert labels == [{halves[0]: "", halves[1]: "kite"}.get(name, name) for name in best]
    check_consistent(run, images)
    table = predict(run, images, tmp_path / "p.csv")
    assert table["unsure"] == labels.count("")
    scores = evaluate(run, images)
    assert scores["n"] == scores["calibration"]["n"] == 10, "four labels were trained on"
    assert 0 <= scores["calibration"]["error"] <= 1
    for _ in range(3):
        edit_classes(run, undo=True)
    back = Classifier.load(run / "model")
    assert back.classes == old.classes
    assert np.array_equal(back.predict_proba(images), p)


def test_edit_classes__familiarity_is_as_before(run: Path, images: Path) -> None:
    before = Classifier.load(run / "model")
    files = [*sorted((images / "red square").iterdir()), *sorted((images / "blue disc").iterdir())]
    rows = torch.cat([rows for _, rows, _ in before.representation.stream(before_dataset(files))])
    known = before.familiarity(rows)
    edit_classes(run, merge=[("discovered 1", "discovered 2")], reject=["discovered 3"])
    after = Classifier.load(run / "model")
    now = after.familiarity(rows)
    assert known is not None
    assert now is not None
    assert torch.equal(known, now)
    exact = pq.read_table(run / "predictions.parquet")
    assert exact["familiarity"].null_count == 0


def before_dataset(files: list[Path]) -> Any:
    from anyclass import ImageDataset

    return ImageDataset.of(files)


def test_edit_classes__several_at_once_and_all_taken_back(run: Path, images: Path) -> None:
    before = contents(run)
    result = edit_classes(
        run,
        merge=[("discovered 3", "discovered 1")],
        rename={"discovered 3": "kite", "discovered 2": "ring"},
    )
    assert result["merged"] == {"kite": ["discovered 1", "discovered 3"]}
    assert result["renamed"] == {"discovered 2": "ring"}
    assert result["nameless"] == []
    assert result["undo"] == 1
    json.dumps(result)
    check_consistent(run, images)
    edit_classes(run, split=["kite"])
    assert read_json(run / "classes.json")["names"][2:] == ["ring", "kite a", "kite b"]
    edit_classes(run, merge=[("ring", "kite b")], reject=["kite a"])
    check_consistent(run, images)
    edit_classes(run, split=["ring"], rename={"ring a": "loop", "ring b": "hoop"})
    check_consistent(run, images)
    assert read_json(run / "classes.json")["names"][2:] == ["loop", "kite a", "hoop"]
    assert len(read_json(run / "model" / "classifier.json")["edits"]["gates"]) == 2
    undone = [edit_classes(run, undo=True)["undone"] for _ in range(4)]
    assert undone[0]["split"] == {"ring": ["loop", "hoop"]}
    assert undone[-1] == {k: result[k] for k in undone[-1]}
    check_consistent(run, images)
    after = contents(run)
    files = {"predictions.csv", "classes.csv", "classes.json", "naming.json", "suspicious.csv"}
    assert all(after[name] == before[name] for name in files)
    assert after["model/classifier.json"] == before["model/classifier.json"]
    assert pq.read_table(run / "predictions.parquet").to_pylist() == rows_of(before, run)
    assert (
        read_json(run / "metrics.json")["adapted"] == json.loads(before["metrics.json"])["adapted"]
    )
    with pytest.raises(RequestError, match="no edit that can be taken back"):
        edit_classes(run, undo=True)


def rows_of(before: dict[str, bytes], run: Path) -> list[dict[str, Any]]:
    old = run.parent / "old.parquet"
    old.write_bytes(before["predictions.parquet"])
    return list(pq.read_table(old).to_pylist())


def test_edit_classes__labels_by_hand_follow_their_class(run: Path) -> None:
    rows = read_csv(run / "predictions.csv")
    free = [i for i, row in enumerate(rows) if row["status"] == "ok"]
    by_hand = ["discovered 1", "discovered 3", "wolf", "discovered 2"]
    for i, label in zip(free[:4], by_hand, strict=True):
        rows[i]["label"] = label
        rows[i]["predicted_label"] = "blue disc"
    rows[free[4]]["confirmed"] = "yes"
    confirmed = rows[free[4]]["label"]
    write_csv(run / "predictions.csv", rows)
    # the run wrote other labels than these, so that each of them counts as changed by hand
    edit_classes(
        run,
        merge=[("red square", "discovered 1")],
        reject=["discovered 2"],
        rename={"discovered 3": "kite"},
    )
    now = [row["label"] for row in read_csv(run / "predictions.csv")]
    wanted = {"discovered 1": "red square", "discovered 2": "", "discovered 3": "kite"}
    assert [now[i] for i in free[:4]] == ["red square", "kite", "wolf", ""]
    assert now[free[4]] == wanted.get(confirmed, confirmed)
    edit_classes(run, undo=True)
    back = [row["label"] for row in read_csv(run / "predictions.csv")]
    assert [back[i] for i in free[:4]] == by_hand


def test_rename__merges_splits_and_rejects_by_the_table(run: Path, images: Path) -> None:
    rows = read_csv(run / "classes.csv")
    assert {row["action"] for row in rows} == {""}
    rows[2]["name"] = "blue disc"
    rows[3]["action"] = " Split "
    rows[4]["action"] = "reject"
    write_csv(run / "classes.csv", rows)
    result = rename(run)
    assert result["merged"] == {"blue disc": ["blue disc", "discovered 1"]}
    assert result["split"] == {"discovered 2": ["discovered 2a", "discovered 2b"]}
    assert result["rejected"] == ["discovered 3"]
    assert result["nameless"] == ["discovered 2a", "discovered 2b"]
    check_consistent(run, images)
    once = contents(run)
    assert rename(run)["merged"] == {}
    assert contents(run) == once, "the table says what is already so"
    rows = read_csv(run / "classes.csv")
    assert [(row["name"], row["action"]) for row in rows][2:] == [
        ("discovered 2a", ""),
        ("discovered 3", "reject"),
        ("discovered 2b", ""),
    ]
    rows[3]["action"] = ""
    rows[2]["name"] = rows[4]["name"] = "shoe"
    write_csv(run / "classes.csv", rows)
    again = rename(run)
    assert again["restored"] == ["discovered 3"]
    assert again["merged"] == {"shoe": ["discovered 2a", "discovered 2b"]}
    check_consistent(run, images)
    assert rename(run, undo=True)["undone"]["restored"] == ["discovered 3"]
    check_consistent(run, images)


def test_fit__says_how_sure_each_class_is(run: Path) -> None:
    rows = read_csv(run / "classes.csv")
    naming = read_json(run / "naming.json")["classes"]
    report = (run / "report.html").read_text(encoding="utf-8")
    assert [row["hint"] for row in rows[:2]] == ["", ""]
    for row, entry in zip(rows[2:], naming[2:], strict=True):
        quality = entry["quality"]
        assert row["hint"] == quality["hint"] != ""
        assert quality["hint"] in report
        if quality["agreement"] is not None:
            assert float(row["agreement"]) == pytest.approx(quality["agreement"])
            assert row["nearest"] in {other["name"] for other in rows} - {row["name"]}
            assert "Agreement: how often two images of the class stay together" in report
    edit_classes(run, rename={"discovered 1": "kite"}, merge=[("discovered 2", "discovered 3")])
    now = read_json(run / "naming.json")["classes"]
    assert now[3]["quality"] is None, "nobody judged the merged class"
    old = naming[2]["quality"]
    same = old["nearest"] in (None, "blue disc", "red square")
    assert now[2]["quality"]["nearest"] == (old["nearest"] if same else None)
    expected = read_json(run / "metrics.json")["expected"]
    assert expected["unlabelled"] == 10


def test_cli__rename_says_what_it_did(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_csv(run / "classes.csv")
    rows[2]["name"] = rows[3]["name"] = "shoe"
    rows[4]["action"] = "reject"
    write_csv(run / "classes.csv", rows)
    assert main(["rename", "--run", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "discovered 1 and discovered 2 merged into shoe",
        "discovered 3 rejected: its images have no label",
        f"report: {run}/report.html",
        f"take it back: anyclass rename --run {run} --undo",
    ]
    assert main(["rename", "--run", str(run), "--undo"]) == 0
    out = capsys.readouterr().out
    assert "taken back: discovered 1 and discovered 2 merged into shoe" in out
    assert "taken back: discovered 3 rejected" in out
    assert main(["rename", "--run", str(run), "--undo", "--accept"]) == 2


def test_rename__accept_takes_what_is_likely_and_all_takes_the_rest(run: Path) -> None:
    naming = read_json(run / "naming.json")
    for row, word, trust in zip(
        naming["classes"][2:], ("kite", "ring", "star"), ("maybe", "likely", "maybe"), strict=True
    ):
        row |= {"suggested": word, "confidence": trust}
    (run / "naming.json").write_text(json.dumps(naming))
    assert rename(run, accept=True)["renamed"] == {"discovered 2": "ring"}
    assert rename(run, accept_all=True)["renamed"] == {
        "discovered 1": "kite",
        "discovered 3": "star",
    }


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"merge": [("discovered 1",)]}, "a merge needs two classes"),
        ({"merge": [("discovered 1", "discovered 9")]}, "there is no class 'discovered 9'"),
        ({"merge": [("red square", "blue disc")]}, "were given, so they cannot be merged"),
        ({"split": ["red square"]}, "cannot be split: only discovered classes can"),
        ({"reject": ["blue disc"]}, "cannot be rejected: only discovered classes can"),
        ({"rename": {"blue disc": "x"}}, "cannot be renamed: only discovered classes can"),
        ({"rename": {"discovered 1": "red square"}}, "is the name of another class: merge"),
        ({"rename": {"discovered 1": " "}}, "is empty, or has invisible characters"),
        ({"rename": {"discovered 1": "a\u202eb"}}, "invisible characters"),
        ({"undo": True, "reject": ["discovered 1"]}, "undo takes the last edit back"),
        ({"undo": True}, "no edit that can be taken back"),
    ],
)
def test_edit_classes__says_in_one_line_what_is_wrong(
    run: Path, how: dict[str, Any], said: str
) -> None:
    before = contents(run)
    with pytest.raises(RequestError, match=said) as refused:
        edit_classes(run, **how)
    assert "\n" not in str(refused.value)
    assert contents(run) == before


def test_run__edits_its_classes_in_python(run: Path) -> None:
    loaded = load(run, device="cpu")
    before = loaded.classes_
    first, second, third = [name for name in before if name.startswith("discovered")]
    counts = loaded.predictions.counts()
    stored = load_file(run / "probabilities.safetensors")["probabilities"]
    labels = loaded.predictions.table["status"].to_pylist()
    at = [before.index(name) for name in (first, second)]
    rest = [c for c in range(len(before)) if c not in at]
    wins = stored[:, at].sum(1) > stored[:, rest].max(1).values  # probabilities add
    merged = sum(win and status == "ok" for win, status in zip(wins.tolist(), labels, strict=True))
    assert merged >= counts.get(first, 0) + counts.get(second, 0)
    assert loaded.merge(first, second).rename({first: "kite"}) is loaded
    assert loaded.classes_ == [*before[:2], "kite", third]
    assert loaded.predictions.counts().get("kite", 0) == merged
    assert loaded.reject(third).predictions.counts().get(third) is None
    assert loaded.undo().undo().undo().classes_ == before
    assert loaded.predictions.counts() == counts
    fullest = max((first, second, third), key=lambda name: counts.get(name, 0))
    assert {f"{fullest}a", f"{fullest}b"} <= set(loaded.split(fullest).classes_)
    assert load(run).classes_ == loaded.classes_
    with pytest.raises(RequestError, match="there is no class 'kite'"):
        loaded.reject("kite")
    with pytest.raises(RequestError, match="load the run folder"):
        load(run / "model", device="cpu").merge(third, second)


def test_edit_classes__an_earlier_run_is_computed_again(
    run: Path, images: Path, fitted_by: Callable[[str], Path]
) -> None:
    """A run without stored probabilities, and without columns that came later."""
    (run / "probabilities.safetensors").unlink()
    rows = read_csv(run / "classes.csv")
    write_csv(run / "classes.csv", [{k: v for k, v in r.items() if k != "action"} for r in rows])
    assert rename(run)["renamed"] == {}
    edit_classes(run, merge=[("discovered 1", "discovered 2")])
    check_consistent(run, images)
    assert (run / "probabilities.safetensors").is_file(), "the next edit is faster"
    config = read_json(run / "config.json")
    (run / "config.json").write_text(json.dumps(config | {"images": str(run / "model")}))
    edit_classes(run, reject=["discovered 3"])
    with pytest.raises(RequestError, match="no image|needs the images of the run"):
        edit_classes(run, split=["discovered 1"])
    (run / "config.json").write_text(json.dumps(config | {"images": None}))
    with pytest.raises(RequestError, match="does not say where its images are"):
        edit_classes(run, split=["discovered 1"])


def test_edit_classes__a_run_that_counts_pictures(run: Path, images: Path) -> None:
    """Versions before this one called the number of images of a class so."""
    path = run / "naming.json"
    path.write_text(path.read_text("utf-8").replace('"images":', '"pictures":'), "utf-8")
    write_manifest(run)
    edit_classes(run, merge=[("discovered 1", "discovered 2")])
    check_consistent(run, images)
    assert "pictures" not in path.read_text("utf-8")


def test_edit_classes__features_without_a_model(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    centres = draw.normal(size=(5, 12))
    true = np.repeat(np.arange(5), 9)
    x = (centres[true] + 0.2 * draw.normal(size=(45, 12))).astype(np.float32)
    labels = np.where((true < 2) & (np.arange(45) % 9 < 4), true, -1)
    names = np.array(["ant", "bee"])
    np.savez(tmp_path / "x.npz", x=x)
    text = np.array([names[c] if c >= 0 else "" for c in labels])
    np.savez(tmp_path / "x.npz", x=x, labels=text)
    fit("open-world", tmp_path / "run", features=tmp_path / "x.npz", unknown=2)
    before = Classifier.load(tmp_path / "run" / "model").predict_proba(x)
    edit_classes(tmp_path / "run", merge=[("ant", "discovered 1")], split=["discovered 2"])
    after = Classifier.load(tmp_path / "run" / "model")
    p = after.predict_proba(x)
    assert after.classes_ == ["ant", "bee", "discovered 2a", "discovered 2b"]
    assert np.allclose(p[:, 0], before[:, 0] + before[:, 2], atol=1e-6)
    assert np.allclose(p[:, 2] + p[:, 3], before[:, 3], atol=1e-6)
    halves = p.argmax(1)
    mixed = {tuple(sorted(set(true[halves == c]))) for c in (2, 3)}
    assert len(mixed) == 2, "two classes that were one are told apart"
    assert all(len(classes) == 1 for classes in mixed)
    with pytest.raises(RequestError, match="two different images"):
        twice = np.repeat(x[:1], 4, axis=0)
        kept = after.classes_[int(after.predict_proba(twice).argmax(1)[0])]
        after.rename({}).split(kept if kept.startswith("disc") else "discovered 2a", twice)


@pytest.mark.parametrize("after", [0, 1, 4, 8, 9, 10, 13])
def test_edit_classes__a_kill_leaves_the_old_run_or_is_finished_by_the_next(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = contents(run)
    replace, done = Path.replace, []

    def counted(path: Path, target: Path) -> Path:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(target)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        with pytest.raises(KeyboardInterrupt):
            edit_classes(run, merge=[("discovered 1", "discovered 2")])
    marked = (run / "unfinished" / "ready.json").is_file()
    if not marked:
        assert {k: v for k, v in contents(run).items() if not k.startswith("unfinished")} == before
    edit_classes(run, reject=["discovered 3"])
    names = read_json(run / "classes.json")["names"]
    assert len(names) == (4 if marked else 5)
    check_consistent(run, images)


def test_edit_classes__moves_no_other_file_and_follows_no_link(run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    scratch = run / "unfinished"
    for name in ("../../victim.txt", "config.json", "model/../../victim.txt", "manifest.json"):
        scratch.mkdir()
        (scratch / "victim.txt").write_text("theirs")
        (scratch / "ready.json").write_text(json.dumps({name: True}))
        with pytest.raises(AnyclassError, match=r"ready\.json is damaged, or was not written"):
            edit_classes(run, reject=["discovered 1"])
        shutil.rmtree(scratch)
    for link in ("model", "predictions.csv", "model/README.md", "unfinished"):
        place = run / link
        kept = tmp_path / "kept"
        if place.exists():
            shutil.move(place, kept)
        else:
            kept.mkdir()
        place.symlink_to(kept)
        listed = sorted(p.name for p in kept.rglob("*")) if kept.is_dir() else None
        with pytest.raises(RequestError, match="is a link, and a run is never written through"):
            rename(run)
        if kept.is_dir():
            assert sorted(p.name for p in kept.rglob("*")) == listed
        place.unlink()
        shutil.move(kept, place)
        if link == "unfinished":
            shutil.rmtree(place)
    (run / "config.json").rename(tmp_path / "config.json")
    os.mkfifo(run / "config.json")
    with pytest.raises(RequestError, match="is not a regular file"):
        rename(run)
    (tmp_path / "config.json").replace(run / "config.json")
    assert victim.read_text() == "mine"
    assert check_manifest(run) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("unfinished/ready.json", {}, r"ready\.json is damaged"),
        ("unfinished/ready.json", {"classes.json": 1}, r"ready\.json is damaged"),
        ("naming.json", {}, r"naming\.json is damaged: classes: Field required"),
        ("naming.json", {"classes": [{"index": "x"}]}, r"naming\.json is damaged: classes\.0"),
        ("naming.json", {"classes": []}, r"naming\.json is damaged: its classes are not"),
        ("manifest.json", [], r"manifest\.json is damaged"),
        ("class_history.json", {"states": 1}, r"class_history\.json is damaged: states"),
        ("metrics.json", [], r"metrics\.json is damaged"),
    ],
)
def test_edit_classes__damaged_files_are_named(
    run: Path, name: str, content: Any, said: str
) -> None:
    (run / "unfinished").mkdir()
    (run / name).write_text(json.dumps(content))
    with pytest.raises(AnyclassError, match=said) as refused:
        edit_classes(run, reject=["discovered 1"])
    assert "\n" not in str(refused.value)


def test_edit_classes__a_damaged_table_is_named(run: Path) -> None:
    (run / "predictions.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(AnyclassError, match=r"predictions\.parquet is missing or damaged"):
        edit_classes(run, reject=["discovered 1"])


def test_edit_classes__undo_of_a_rejected_class_for_another(run: Path, images: Path) -> None:
    edit_classes(run, reject=["discovered 1"])
    edit_classes(run, reject=["discovered 2"], restore=["discovered 1"])
    check_consistent(run, images)
    edit_classes(run, undo=True)
    assert read_json(run / "classes.json")["rejected"] == ["discovered 1"]
    check_consistent(run, images)


def test_fit__is_never_written_through_a_link(run: Path, tmp_path: Path, images: Path) -> None:
    shutil.move(run / "model", tmp_path / "model")
    (run / "model").symlink_to(tmp_path / "model")
    with pytest.raises(RequestError, match="is a link"):
        fit("kmeans", run, overwrite=True, images=images, unknown=2, model="starter")
