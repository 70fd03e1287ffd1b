"""A session: corrections, edits of classes and their undo, and what a second round is asked for."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from anyclass.commands.edit_classes import edit_classes
from anyclass.data import Classes
from anyclass.errors import AnyclassError, RequestError
from anyclass.review.schema import ClassEdit
from anyclass.review.second_round import before_after, class_options, next_run
from anyclass.review.session import Session, Tools, checked_name
from anyclass.review.thumbnails import Thumbnails
from anyclass.review.training import Training
from anyclass.run.columns import COMPARED
from anyclass.run.folder import PROBABILITIES
from tests.review.conftest import HOSTILE_CLASS, Reviewed


def place(session: Session, file: str) -> int:
    return session.catalogue.files.index(file)


def labels(session: Session) -> dict[str, str]:
    return dict(session.corrections.labels)


def test_correct__and_undo(session: Session) -> None:
    kite = place(session, "kite-0.png")
    given = place(session, "square-0.png")
    assert session.catalogue.given(given)
    session.correct([kite, given], "kite")
    session.correct([given, kite], None)
    assert labels(session) == {"square-0.png": ""}  # a given label is taken back
    state = session.state()
    assert (state["undo"], state["checked"]) == ("2 images: no label", 1)
    assert session.undo() == {"title": "2 images: no label", "ids": sorted([given, kite])}
    assert labels(session) == {"square-0.png": "kite", "kite-0.png": "kite"}
    assert [c["kind"] for c in session.state()["classes"] if c["name"] == "kite"] == ["new"]
    session.undo()
    with pytest.raises(RequestError, match="nothing to undo"):
        session.undo()
    with pytest.raises(RequestError, match="there is no image 99"):
        session.correct([kite, 99], "kite")
    assert labels(session) == {}


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\u202eb", "x" * 201])
def test_checked_name__refuses(name: str) -> None:
    with pytest.raises(RequestError):
        checked_name(name)


def test_checked_name__normalises() -> None:
    assert checked_name(" a\u0308 ") == "ä"


def test_edit__and_the_labels_of_the_classes(session: Session) -> None:
    session._tools = session._tools._replace(edit_classes=edit_classes)
    found = [i for i in range(30) if session.catalogue.label(i, {}) == "discovered 1"]
    session.correct([0, 1], "discovered 1")
    session.correct([2, 3], "discovered 2")
    before = labels(session)

    session.edit(ClassEdit(merge=[("discovered 1", "red square")]))
    assert session.state()["undo"] == "merged discovered 1 into red square"
    assert {session.catalogue.label(i, {}) for i in found} == {"red square"}
    assert sorted(labels(session).values()) == 2 * ["discovered 2"] + 2 * ["red square"]
    session.edit(ClassEdit(rename={"discovered 2": "kite"}))
    assert sorted(labels(session).values()) == 2 * ["kite"] + 2 * ["red square"]
    session.edit(ClassEdit(reject=["kite"]))
    assert sorted(labels(session).values()) == 2 * ["red square"]  # those of a rejected class go
    kinds = {row["name"]: row["kind"] for row in session.state()["classes"]}
    assert kinds["kite"] == "rejected" and "discovered 1" not in kinds

    while session.corrections.last() is not None and labels(session) != before:
        session.undo()
    assert labels(session) == before
    assert {session.catalogue.label(i, {}) for i in found} == {"discovered 1"}
    assert session.state()["undo"] == "2 images: discovered 2"
    session.index.wait()
    assert session.index.message() == ""


def test_correct__a_class_that_another_page_renamed(session: Session) -> None:
    session._tools = session._tools._replace(edit_classes=edit_classes)
    session.edit(ClassEdit(rename={"discovered 1": "kite"}))
    with pytest.raises(RequestError, match="no class 'discovered 1' now.*: reload the page"):
        session.correct([0], "discovered 1")
    assert labels(session) == {}


def test_edit__split_and_restore(session: Session) -> None:
    session._tools = session._tools._replace(edit_classes=edit_classes)
    counts = session.catalogue.counts({})
    large = max(("discovered 1", "discovered 2"), key=counts.__getitem__)
    session.correct([0], large)
    session.edit(ClassEdit(split=[large]))
    names = session.catalogue.classes.names
    assert f"{large}a" in names and f"{large}b" in names
    assert labels(session) == {}  # nobody said which half
    session.edit(ClassEdit(reject=[f"{large}a"]))
    session.edit(ClassEdit(restore=[f"{large}a"]))
    assert session.catalogue.classes.rejected == ()
    for _ in range(3):
        session.undo()
    assert session.catalogue.counts({}) == counts
    assert list(labels(session).values()) == [large]


def test_edit__that_is_refused_leaves_nothing(session: Session) -> None:
    session._tools = session._tools._replace(edit_classes=edit_classes)
    for edit in (
        ClassEdit(),
        ClassEdit(split=["x"]),
        ClassEdit(rename={"discovered 1": "red square"}),
        ClassEdit(rename={"discovered 1": "discovered 1"}),  # undo would find nothing to take back
    ):
        with pytest.raises(RequestError):
            session.edit(edit)
    assert session.corrections.last() is None


def test_rows__have_the_most_probable_classes_once_they_are_computed(session: Session) -> None:
    session.index.wait()
    assert session.index.message() == ""
    predicted = [i for i in range(30) if session.catalogue.columns["status"][i] == "ok"]
    assert len(predicted) == 20
    for row in session.rows(predicted):
        assert row["top"][0]["label"] == row["label"]
        assert row["top"][0]["probability"] == pytest.approx(row["score"], abs=1e-4)
        assert len(row["top"]) == 4  # all classes


def test_rows__have_the_probabilities_that_the_scores_of_the_run_come_from(
    run: Path, tools: Tools, tmp_path: Path
) -> None:
    """A run with discovered classes has a temperature for its own images."""
    found = load_file(run / PROBABILITIES)
    p = found["probabilities"].roll(1, dims=1)
    save_file(found | {"probabilities": p.contiguous()}, run / PROBABILITIES)
    opened = Session(run, tools, Thumbnails(tmp_path / "thumbnails"))
    opened.index.wait()
    for i, of_image in zip(opened.catalogue.dataset()[1], p, strict=True):
        for c, share in opened.index.top(i):
            assert share == pytest.approx(float(of_image[c]))
    opened.close()


def test_useful__leaves_out_what_has_a_label(session: Session) -> None:
    session.index.wait()
    first = session.useful(5)
    assert len(first) == 5
    assert not any(session.catalogue.given(i) for i in first)
    session.correct(first[:2], "kite")
    assert not set(session.useful(20)) & set(first[:2])
    label = session.catalogue.label(first[4], session.corrections.labels)
    of_class = session.useful(20, label)
    assert of_class
    assert set(of_class) <= set(session.view("file_name", label, "unchecked"))


def test_index__says_why_it_cannot_be_computed(run: Path, session: Session, tmp_path: Path) -> None:
    def load(run: Path) -> Any:
        raise AnyclassError("the model is\x1b gone")

    other = Session(run, session._tools._replace(load=load), Thumbnails(tmp_path))
    other.index.wait()
    assert other.state()["model"] == "the model is\\x1b gone"
    assert other.rows([0])[0]["top"] == []
    with pytest.raises(AnyclassError, match="gone"):
        other.index.predict([], 5, 0)
    other.close()


def options(session: Session) -> list[str]:
    return class_options(session.catalogue, session.corrections.labels)


def test_class_options__of_discovered_classes_that_have_labels_now(session: Session) -> None:
    session.correct([0], "red square")
    assert options(session) == ["--unknown", "2"]
    session.correct([1, 2], "discovered 2")
    assert options(session) == ["--unknown", "1"]


def test_class_options__of_names_that_are_in_no_list(session: Session) -> None:
    run = session.catalogue.run
    config = json.loads((run / "config.json").read_text("utf-8"))
    names = ["red square", HOSTILE_CLASS, "far_away"]
    (run / "config.json").write_text(json.dumps(config | {"classes": names, "unknown": 0}))
    session.correct([0], "red square")
    assert options(session) == []
    session.correct([1], "a_kite")
    path = run / "review" / "classes.json"
    assert options(session) == ["--classes", str(path)]
    classes = Classes.read(path)
    assert classes.names == (*names, "a_kite")
    assert classes.prompts == ("red square", HOSTILE_CLASS, "far away", "a kite")
    prompts = {"square": ["square", "box"], "far_away": "far"}
    (run / "config.json").write_text(json.dumps(config | {"classes": prompts, "unknown": 0}))
    assert options(session) == ["--classes", str(path)]
    classes = Classes.read(path)
    assert classes.names[:2] == ("square", "far_away")
    assert classes.all_prompts[:2] == (("square", "box"), ("far",))


def test_train__needs_a_label(session: Session) -> None:
    with pytest.raises(RequestError, match="no new label"):
        session.train()
    with pytest.raises(RequestError, match="no training is finished"):
        session.result()


TRAINED = """if True:
    import shutil, sys, time
    print("embedding images: 10 of 30 (5/s)", file=sys.stderr, flush=True)
    while {wait}: time.sleep(0.05)
    shutil.copytree({source!r}, sys.argv[-1])
"""
"""Instead of the real command: the end of a training, at once."""


def test_train__a_cancelled_training_that_ends_late_is_not_the_next_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "import sys, time; print('started', file=sys.stderr, flush=True); time.sleep(600)"
    monkeypatch.setattr("anyclass.review.training._CODE", code)
    training = Training()
    training.start([], tmp_path / "first")
    first = training._process
    assert first is not None
    while not training.progress()["line"]:  # Python loses a Ctrl-C while it starts
        training.wait(0.01)
    training.cancel()
    training.wait()
    training.start([], tmp_path / "second")
    first.stderr = None
    training._follow(first)  # its thread sees the end only now
    assert training.progress()["state"] == "running"
    second = training._process
    assert second is not None
    second.kill()
    training.wait()
    assert training.progress()["state"] == "failed"


def test_train__shows_its_progress_and_is_cancelled(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = session.catalogue.run
    code = TRAINED.format(wait=True, source=str(run))
    monkeypatch.setattr("anyclass.review.training._CODE", code)
    session.correct([place(session, "kite-0.png")], "discovered 1")
    session.train()
    with pytest.raises(RequestError, match="a training is running"):
        session.train()
    with pytest.raises(RequestError, match="a training is running"):
        session.edit(ClassEdit(split=["discovered 2"]))
    while not session.training.progress()["line"]:
        session.training.wait(0.01)
    line = "embedding images: 10 of 30 (5/s)"
    expected = {"state": "running", "run": "run_2", "line": line, "done": 10, "total": 30}
    assert session.training.progress() == expected
    session.training.cancel()
    session.training.wait()
    assert session.training.progress()["state"] == "cancelled"
    with pytest.raises(RequestError, match="no training is finished"):
        session.result()
    options, folder = session._target(["--from", "x"])
    assert (options, folder) == (["--from", "x", "--overwrite"], run.with_name("run_2"))


def test_train__compares_and_goes_on(
    session: Session, reviewed: Reviewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = session.catalogue.run
    code = TRAINED.format(wait=False, source=str(reviewed.run))
    monkeypatch.setattr("anyclass.review.training._CODE", code)
    session.correct([place(session, "kite-0.png")], "discovered 1")
    session.train()
    session.training.wait()
    result = session.result()
    assert (result["images"], result["changed"]) == (20, 0)
    assert result["score"]["before"] == result["score"]["after"]
    assert result["accuracy"]["before"]["n"] == 9
    session.go_on()
    assert session.catalogue.run == first.with_name("run_2")
    assert (session.checked, session.training.state) == (0, "idle")
    assert (first / "review" / "corrections.csv").is_file()


def test_before_after__counts_changes(run: Path, reviewed: Reviewed) -> None:
    table = pq.read_table(run / "predictions.parquet").to_pylist()
    predicted = [row for row in table if row["status"] == "ok"]
    predicted[0]["label"] = "another"
    predicted[1]["status"] = "given"
    for row in predicted:
        row["score"] = 0.25
    pq.write_table(pa.Table.from_pylist(table, COMPARED), run / "predictions.parquet")
    result = before_after(reviewed.run, run)
    assert (result["images"], result["changed"]) == (19, 1)
    assert result["score"]["after"] == 0.25


@pytest.mark.parametrize(
    ("name", "taken", "expected"),
    [("run", [], "run_2"), ("run_2", ["run_3"], "run_4"), ("a_b", ["a_b_2"], "a_b_3")],
)
def test_next_run(tmp_path: Path, name: str, taken: list[str], expected: str) -> None:
    for folder in (name, *taken):
        (tmp_path / folder).mkdir()
    assert next_run(tmp_path / name) == tmp_path / expected


@pytest.mark.slow
def test_train__again_and_go_on(session: Session) -> None:
    session.index.wait()
    first = session.catalogue.run
    kites = [place(session, f"kite-{i}.png") for i in range(3)]
    session.correct(kites, "discovered 1")
    session.train()
    session.training.wait()
    assert session.training.progress()["state"] == "finished", session.training.progress()
    result = session.result()
    assert result["labels"] == {"kept": 9, "new": 3}
    assert result["images"] == 17
    assert 0 <= result["changed"] <= 17
    session.go_on()
    assert session.catalogue.run == first.with_name("run_2")
    assert [session.catalogue.given(i) for i in kites] == [True] * 3
    assert session.catalogue.classes.names.count("discovered 1") == 1
    assert session.state()["checked"] == 0
    assert (first / "review" / "corrections.csv").is_file()


def test_close__writes_the_table(session: Session) -> None:
    session.correct([place(session, "kite-0.png")], "kite")
    session.close()
    assert session.table.read_text("utf-8") == "file_name,label\nkite-0.png,kite\n"
