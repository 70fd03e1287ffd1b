"""The run folder: new, continued, finished, somebody else's; nothing of the user's is touched."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from anyclass.errors import RequestError
from anyclass.files import temporary_name, write_json, write_manifest
from anyclass.run.folder import (
    BASELINES,
    FILES,
    LOCKS,
    REVIEW,
    SCRATCH,
    begin,
    check_finished,
    check_marks,
    check_no_links,
    is_run,
    locked_run,
)

CONFIG = {"images": "/a", "asked": "auto", "method": "latteclip", "version": "0", "why": ["so"]}
CONFIG |= {"seed": 0, "fields": {"alpha": 0.99, "captioner": {"most": 4}}}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, the empty lock apart."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name != ".anyclass.lock" or path.stat().st_size
    }


def start(out: Path, overwrite: bool = False, **changed: Any) -> None:
    """Open a folder and begin a run in it."""
    config = CONFIG | changed
    with locked_run(out, config, overwrite):
        begin(out, config, overwrite)


def stop(out: Path) -> None:
    """A run that was stopped in the middle of training."""
    start(out)
    (out / SCRATCH / "key").mkdir()
    (out / SCRATCH / "key" / "training.safetensors").write_text("half")


def finish(out: Path) -> None:
    """All files of a finished run, each holding its own name."""
    start(out)
    for name in FILES:
        if name not in ("config.json", "manifest.json"):
            (out / name).write_text(name)
    (out / SCRATCH).rmdir()
    write_manifest(out)


def test_opened__a_new_folder_is_made_and_then_continued(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    stop(out)
    (out / "log.jsonl").write_text("lines")
    start(out, why=["another sentence"])
    assert (out / SCRATCH / "key" / "training.safetensors").read_text() == "half"
    assert (out / "log.jsonl").read_text() == "lines"
    assert json.loads((out / "config.json").read_text())["why"] == ["another sentence"]


def test_opened__changes_nothing_before_it_begins(tmp_path: Path) -> None:
    finish(tmp_path)
    before = contents(tmp_path)
    with locked_run(tmp_path, CONFIG | {"seed": 9}, overwrite=True):
        assert before.items() <= contents(tmp_path).items()
    assert contents(tmp_path) == before


def test_opened__another_request_is_refused_with_what_differs(tmp_path: Path) -> None:
    stop(tmp_path)
    fields = {"alpha": 0.5, "captioner": {"most": 2}}
    with pytest.raises(RequestError) as refused:
        start(tmp_path, seed=3, fields=fields)
    assert "alpha (was 0.99, now 0.5)" in str(refused.value)
    assert "most (was 4, now 2)" in str(refused.value)
    assert "seed (was 0, now 3)" in str(refused.value)
    assert "--overwrite" in str(refused.value)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_opened__a_request_that_failed_at_once_may_be_corrected(tmp_path: Path) -> None:
    start(tmp_path, max_rejected=0.1)
    (tmp_path / "log.jsonl").write_text("lines of the first attempt")
    start(tmp_path, max_rejected=0.5)
    assert json.loads((tmp_path / "config.json").read_text())["max_rejected"] == 0.5
    assert not (tmp_path / "log.jsonl").exists()


def test_opened__a_finished_run_is_refused(tmp_path: Path) -> None:
    finish(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(RequestError, match="is finished.*report.html.*--overwrite"):
        start(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("config", [None, "{}", '{"model_type": "bert"}', "[]", "{", "\0"])
def test_opened__a_foreign_folder_is_left_as_it_is(
    tmp_path: Path, config: str | None, overwrite: bool
) -> None:
    (tmp_path / "metrics.json").write_text("the user's")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestError, match="contains other files .*--out"):
        start(tmp_path, overwrite)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "metrics.json").read_text() == "the user's"


def test_opened__hidden_files_make_no_folder_foreign(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("")
    start(tmp_path)
    assert is_run(tmp_path)


def test_opened__a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a")
    for out in ("names.txt", "names.txt/run", "names.txt/deep/run"):
        with pytest.raises(RequestError, match="names.txt is a file.*--out"):
            start(tmp_path / out)


def test_begin__overwrite_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model" / "mine.txt").write_text("mine too")
    start(tmp_path, overwrite=True, seed=5)
    left = contents(tmp_path)
    assert set(left) == {"config.json", "notes.txt", "model/mine.txt"}
    assert json.loads(left["config.json"])["seed"] == 5


def test_begin__an_unfinished_run_begins_anew_with_overwrite(tmp_path: Path) -> None:
    stop(tmp_path)
    start(tmp_path, overwrite=True, seed=7)
    assert list((tmp_path / SCRATCH).iterdir()) == []


@pytest.mark.parametrize("after", range(1, len(FILES)))
def test_begin__a_kill_while_overwriting_leaves_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    finish(tmp_path)
    removed = []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if len(removed) == after:
            raise KeyboardInterrupt
        removed.append(path.name)
        path.rename(path.with_name(f".gone{len(removed)}"))

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr("anyclass.run.folder.Path.unlink", unlink)
        begin(tmp_path, CONFIG, overwrite=True)
    assert removed[0] == "manifest.json", "the mark of the end goes first"
    assert is_run(tmp_path)
    start(tmp_path, overwrite=True)


def test_opened__labels_corrected_by_hand_are_not_overwritten(tmp_path: Path) -> None:
    finish(tmp_path)
    (tmp_path / "predictions.csv").write_text("corrected by hand")
    with pytest.raises(RequestError, match="predictions.csv has changed since the run; move it"):
        start(tmp_path, overwrite=True)
    assert (tmp_path / "predictions.csv").read_text() == "corrected by hand"


def test_opened__one_process_at_a_time(tmp_path: Path) -> None:
    with locked_run(tmp_path, CONFIG, overwrite=False):
        with pytest.raises(RequestError, match=r"is in use by process \d+ on .* since 2"):
            start(tmp_path)
    start(tmp_path)


def test_opened__sweeps_what_a_killed_run_left(tmp_path: Path) -> None:
    start(tmp_path)
    name = temporary_name(tmp_path / "model" / "x", ".safetensors").name
    ended = name.replace(f"{os.getpid():08x}", f"{2**22 + 1:08x}")  # no process has this number
    orphan = tmp_path / "model" / ended
    orphan.write_text("half")
    start(tmp_path)
    assert not orphan.exists()


def test_check_finished__says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="contains no run: `anyclass fit"):
        check_finished(tmp_path)
    start(tmp_path)
    with pytest.raises(RequestError, match="an unfinished run: the command that began it goes on"):
        check_finished(tmp_path)
    again = {"method": ["latteclip", "--steps", "9"], "options": ["--images", "/my photos"]}
    write_json(tmp_path / "config.json", CONFIG | {"again": again})
    command = "`anyclass fit latteclip --steps 9 --images '/my photos' --out "
    with pytest.raises(RequestError, match=f"an unfinished run: {command}"):
        check_finished(tmp_path)
    (tmp_path / SCRATCH).rmdir()
    write_manifest(tmp_path)
    check_marks(tmp_path)


LINKS = [*FILES, *LOCKS, "model", BASELINES, SCRATCH, REVIEW, f"{BASELINES}/kmeans"]
LINKS += [f"{BASELINES}/kmeans/classifier.json", f"{SCRATCH}/key", f"{SCRATCH}/key/more"]
LINKS += [f"{SCRATCH}/metrics.json", f"{REVIEW}/corrections.sqlite", "model/more/deep"]


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("place", [place for place in LINKS if place != "config.json"])
def test_opened__a_run_is_never_written_through_a_link(
    tmp_path: Path, place: str, dangling: bool
) -> None:
    """A run from somebody else may hold links to any place of the user."""
    victim = tmp_path / "victim"
    out = tmp_path / "run"
    finish(out)
    victim.mkdir()
    for name in ("README.md", "classifier.json", "metrics.json"):
        (victim / name).write_text("precious")
    link = out / place
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists():
        link.rename(tmp_path / "aside")
    link.symlink_to(victim / ("none" if dangling else ""))
    before = contents(tmp_path)
    for refuses in (lambda: start(out, overwrite=True), lambda: check_no_links(out)):
        with pytest.raises(RequestError, match="is a link, and a run is never written") as caught:
            refuses()
        assert str(link) in str(caught.value)
    assert contents(tmp_path) == before
    assert {path.name for path in victim.iterdir()} == {"README.md", "classifier.json"} | {
        "metrics.json"
    }
