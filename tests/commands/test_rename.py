"""Discovered classes get names: in every file of a run, whole or not at all; nothing else moves."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from anyclass import Classifier, ImageDataset
from anyclass.cli import main
from anyclass.commands.fit import fit
from anyclass.commands.predict import predict
from anyclass.commands.rename import rename
from anyclass.errors import RequestError
from anyclass.files import check_manifest
from tests.commands.conftest import LABELLED, Found


@pytest.fixture
def run(found: Found, tmp_path: Path) -> Path:
    """A copy to work on."""
    return shutil.copytree(found.run, tmp_path / "run")


def table(run: Path) -> list[dict[str, str]]:
    with (run / "classes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def edit(run: Path, names: dict[int, str], separator: str = ",", mark: str = "") -> None:
    """What a user does to the column `name`, and a spreadsheet to the rest."""
    rows = table(run)
    for k, name in names.items():
        rows[k]["name"] = name
    with (run / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)


def contents(run: Path) -> dict[str, bytes]:
    return {
        p.relative_to(run).as_posix(): p.read_bytes()
        for p in run.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }


def labels(run: Path) -> list[str]:
    return list(pq.read_table(run / "predictions.parquet")["label"].to_pylist())


def test_rename__of_names_alone_loads_no_torch(run: Path) -> None:
    edit(run, {2: "kite"})
    code = f"""if True:
        import sys
        from anyclass.cli import main
        main(["rename", "--run", {str(run)!r}])
        print(*{{"torch", "open_clip", "sklearn", "scipy"}} & set(sys.modules), sep=",")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, heavy = done.stdout.splitlines()
    assert (first, heavy) == ("discovered 1 -> kite", "")
    assert done.stderr == "", "there is no wait to be announced"
    assert check_manifest(run) == []


def test_fit__leaves_a_table_of_classes(run: Path) -> None:
    rows = table(run)
    assert [(row["index"], row["name"], row["kind"]) for row in rows] == [
        ("0", "red square", "labelled"),
        ("1", "green ring", "labelled"),
        ("2", "discovered 1", "unknown"),
        ("3", "discovered 2", "unknown"),
    ]
    words = {"disc", "kite", "ring", "star", "toy", "house"}
    assert [row["suggested"] for row in rows[:2]] == ["", ""]
    assert len({row["suggested"] for row in rows[2:]} & words) == 2
    assert all(set(row["runner_up"].split("; ")) < words for row in rows[2:])
    assert {row["confidence"] for row in rows[2:]} <= {"maybe", "likely"}
    given = labels(run)
    for row in rows:
        files = row["examples"].split("; ")
        assert int(row["images"]) == given.count(row["name"])
        assert 1 <= len(files) <= 9
    naming = json.loads((run / "naming.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["naming"] == {k: v for k, v in naming.items() if k != "classes"}
    assert naming["words"] == 6
    assert naming["known"] == 2
    assert check_manifest(run) == []


def test_fit__a_run_without_discovered_classes_has_no_table(fitted: Any) -> None:
    assert not (fitted.run / "classes.csv").exists()
    with pytest.raises(RequestError, match="no discovered classes to rename"):
        rename(fitted.run)
    assert check_manifest(fitted.run) == []


def test_fit__refuses_a_list_of_names_before_it_trains(found: Found, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.txt cannot be read"):
        fit("kmeans", tmp_path / "new", images=found.images, unknown=2, names="none.txt")
    assert not (tmp_path / "new").exists()


def test_rename__changes_names_everywhere_and_nothing_else(
    run: Path, found: Found, tmp_path: Path
) -> None:
    before, old = contents(run), Classifier.load(run / "model")
    readable = found.images / "green ring"
    probabilities = old.predict_proba(readable)
    given = labels(run)
    edit(run, {2: " café ", 3: "=kite, big"})
    result = rename(run)
    new = {"discovered 1": "café", "discovered 2": "=kite, big"}
    assert result["renamed"] == new
    assert result["nameless"] == []
    after = Classifier.load(run / "model")
    assert after.classes_ == [*LABELLED, "café", "=kite, big"]
    assert after.classes.kinds == old.classes.kinds
    assert np.array_equal(after.predict_proba(readable), probabilities)
    assert labels(run) == [new.get(name, name) for name in given]
    written = json.loads((run / "classes.json").read_text())
    assert written["names"] == after.classes_
    assert check_manifest(run) == []
    assert not (run / "unfinished").exists()
    now = contents(run)
    assert set(now) == {*before, "class_history.json"}
    same = {"config.json", "environment.json", "log.jsonl", "rejected.csv"}
    assert all(now[name] == before[name] for name in (*same, "model/classifier.safetensors"))
    left = {name for name, text in now.items() if b"discovered 1" in text}
    others = {name for name in now if name.startswith("controls/")}
    others |= {"metrics.json", "class_history.json"}
    assert left <= others, "k-means beside it has classes of its own"
    assert "café" in (run / "report.html").read_text(encoding="utf-8")
    assert "café" in (run / "model" / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((run / "metrics.json").read_text())
    assert [row["name"] for row in metrics["adapted"]["per_class"]] == after.classes_
    assert table(run)[3]["name"] == "'=kite, big"
    predict(run, found.images, tmp_path / "more.parquet")
    predicted = pq.read_table(tmp_path / "more.parquet")["label"].drop_null().to_pylist()
    assert set(predicted) <= {*after.classes_}


def test_rename__predictions_under_a_new_name_are_still_no_labels(run: Path, found: Found) -> None:
    edit(run, {2: "café", 3: "kite"})
    rename(run)
    for table_name in ("predictions.csv", "predictions.parquet"):
        back = ImageDataset.read(found.images, None, run / table_name)
        assert back.classes.names == ("green ring", "red square"), "the given labels alone"
        assert (back.labels >= 0).sum() == 4


def test_rename__twice_back_and_crosswise(run: Path) -> None:
    before = contents(run)
    edit(run, {2: "disc", 3: "kite"})
    rename(run)
    once = contents(run)
    assert rename(run)["renamed"] == {}
    assert contents(run) == once
    given = labels(run)
    edit(run, {2: "kite", 3: "disc"})
    assert rename(run)["renamed"] == {"disc": "kite", "kite": "disc"}
    swap = {"disc": "kite", "kite": "disc"}
    assert labels(run) == [swap.get(name, name) for name in given]
    edit(run, {2: "discovered 1", 3: "discovered 2"})
    assert rename(run)["nameless"] == ["discovered 1", "discovered 2"]
    again = contents(run)
    assert {name for name in before if before[name] != again[name]} <= {
        "manifest.json",
        "predictions.parquet",
        "predictions.csv",
        "report.html",  # names the folder, and this one is a copy
    }


@pytest.mark.parametrize(("separator", "mark"), [(";", "\ufeff"), ("\t", "")])
def test_rename__what_spreadsheets_save(run: Path, separator: str, mark: str) -> None:
    edit(run, {2: "a; b, c"}, separator, mark)
    path = run / "classes.csv"
    lines = path.read_bytes().split(b"\r\n")
    path.write_bytes(b"\r\n".join([lines[0], *reversed(lines[1:-1]), b"", b""]))
    assert rename(run)["renamed"] == {"discovered 1": "a; b, c"}
    assert [row["index"] for row in table(run)] == ["0", "1", "2", "3"]


def test_rename__accept_takes_what_is_suggested(run: Path) -> None:
    words = [row["suggested"] for row in table(run)]
    edit(run, {2: words[3]})
    result = rename(run, accept_all=True)
    assert result["renamed"] == {"discovered 1": words[3]}, "the word of the other one is taken"
    assert result["nameless"] == ["discovered 2"]
    edit(run, {2: "mine"})
    assert rename(run, accept_all=True)["renamed"] == {words[3]: "mine", "discovered 2": words[3]}


def test_rename__keeps_labels_that_were_corrected_by_hand(run: Path) -> None:
    path = run / "predictions.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[1][1] = "wolf"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=";").writerows(rows)
    edit(run, {2: "disc", 3: "kite"})
    rename(run)
    with path.open(encoding="utf-8", newline="") as file:
        found = [row["label"] for row in csv.DictReader(file)]
    assert found == ["wolf", *(label or "" for label in labels(run)[1:])]
    assert check_manifest(run) == ["predictions.csv has changed"], "so --overwrite keeps it"
    path.unlink()
    assert rename(run)["renamed"] == {}


def changed_rows(rows: list[str], case: str) -> list[str]:
    """Lines of `classes.csv` that somebody spoiled."""
    return {
        "removed": rows[:3] + rows[4:],
        "added": [*rows, "4,another,unknown,,,,0,"],
        "twice": [*rows, rows[3]],
        "no index": [rows[0], "x" + rows[1][1:], *rows[2:]],
        "minus": [rows[0], "-" + rows[1], *rows[2:]],
        "columns": ["number" + rows[0][5:], *rows[1:]],
        "nothing": [],
    }[case]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("removed", "has no row for class 2: restore the removed rows"),
        ("added", "row 6: there is no class '4'; indices are 0 to 3"),
        ("twice", "row 6: class 2 occurs twice"),
        ("no index", "row 2: there is no class 'x'; indices are 0 to 3"),
        ("minus", "row 2: there is no class '-0'; indices are 0 to 3"),
        ("columns", "has no column index"),
        ("nothing", "has no column index and no column name"),
        ({2: ""}, "class 2 has no name; it had 'discovered 1'"),
        ({2: "   "}, "class 2 has no name"),
        ({2: "a\x1b[2J"}, r"the name of class 2, 'a\\x1b\[2J', has invisible characters"),
        ({2: "a\nb"}, "has invisible characters"),
        ({2: "a\u202eb"}, "has invisible characters"),
        ({0: "blue"}, "class 0 is labelled, so it must keep the name 'red square'; .* fit again"),
        (b"\xff\xfe", "is not UTF-8: save it again as CSV UTF-8"),
        (b'index,name\n0,"a', "is not a CSV table"),
        (None, r"classes\.csv cannot be read: No such file"),
    ],
)
def test_rename__says_in_one_line_what_is_wrong(run: Path, case: Any, said: str) -> None:
    path = run / "classes.csv"
    if isinstance(case, str):
        path.write_text("\n".join(changed_rows(path.read_text().splitlines(), case)))
    elif isinstance(case, dict):
        edit(run, case)
    elif case is None:
        path.unlink()
    else:
        path.write_bytes(case)
    before = contents(run)
    with pytest.raises(RequestError, match=said) as refused:
        rename(run)
    assert "\n" not in str(refused.value)
    assert contents(run) == before


@pytest.mark.parametrize("after", [0, 1, 4, 9, 13])
def test_rename__a_kill_leaves_old_names_or_is_finished_by_the_next(
    run: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    before = contents(run)
    edit(run, {2: "disc", 3: "discovered 1"})  # names that pass from one to another
    replace, done = Path.replace, []

    def counted(path: Path, target: Path) -> Path:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(target)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        try:
            rename(run)
        except KeyboardInterrupt:
            pass
        else:
            pytest.fail(f"a rename moves more than {after} files")
    marked = (run / "unfinished" / "ready.json").is_file()
    old = json.loads(before["classes.json"])["names"]
    assert marked or json.loads((run / "classes.json").read_text())["names"] == old
    rename(run)
    assert Classifier.load(run / "model").classes_ == [*LABELLED, "disc", "discovered 1"]
    given = pq.read_table(run / "predictions.parquet")["label"].to_pylist()
    new = {"discovered 1": "disc", "discovered 2": "discovered 1"}
    (run / "old.parquet").write_bytes(before["predictions.parquet"])
    first = pq.read_table(run / "old.parquet")["label"].to_pylist()
    (run / "old.parquet").unlink()
    assert given == [new.get(name, name) for name in first]
    assert check_manifest(run) == []


def test_rename__one_process_at_a_time(run: Path) -> None:
    from anyclass.files import lock

    with lock(run), pytest.raises(RequestError, match="is in use by process"):
        rename(run)


def test_cli__rename(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run, {3: "disc"})
    assert main(["rename", "--run", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "discovered 2 -> disc",
        "without a name: discovered 1",
        f"report: {run}/report.html",
        f"take it back: anyclass rename --run {run} --undo",
    ]
    assert main(["rename", "--run", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nameless"] == ["discovered 1"]


def test_cli__rename_asks_a_describer(
    run: Path, found: Found, server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.replies = [server.said("A Kite."), server.said("the kite"), server.said("blue disc")]
    words = [row["suggested"] for row in table(run)]
    before = labels(run)
    asks = [
        "--captioner",
        "endpoint",
        "--captioner.url",
        server.url,
        "--captioner.concurrency",
        "1",
    ]
    assert main(["rename", "--run", str(run), *asks]) == 0, capsys.readouterr().err
    assert labels(run) == before, "a name that is suggested is not taken"
    rows = table(run)
    first, second = rows[2]["suggested"], rows[3]["suggested"]
    assert first == "blue disc"
    assert second.startswith("seen "), "asked once more, both of them"
    assert rows[2]["runner_up"].split("; ")[0] == words[2]
    naming = json.loads((run / "naming.json").read_text())["classes"]
    assert all(1 <= row["rank"] <= 7 for row in naming[2:])
    assert {row["source"] for row in naming[2:]} == {"endpoint"}
    assert naming[0]["suggested"] is None
    assert check_manifest(run) == []
    assert len(server.questions) == 4
    assert not any("kite" in call.question for call in server.questions)
    capsys.readouterr()
    assert main(["rename", "--run", str(run), "--accept-all"]) == 0
    assert capsys.readouterr().out.startswith("discovered 1 -> blue disc\n")
    shutil.move(found.images, run.parent / "away")
    try:
        found.images.mkdir()
        assert main(["rename", "--run", str(run), *asks]) == 2
    finally:
        found.images.rmdir()
        shutil.move(run.parent / "away", found.images)
    assert "there is no image in" in capsys.readouterr().err


def test_rename__a_describer_that_fails_changes_nothing(run: Path, server: Any) -> None:
    from anyclass.captioning import Endpoint
    from anyclass.errors import AnyclassError

    before = contents(run)
    server.always = server.json({"error": {"message": "no"}}, 400)
    with pytest.raises(AnyclassError, match="no answer|refuse"):
        rename(run, captioner=Endpoint(url=server.url, model="never asked before"))
    assert contents(run) == before
