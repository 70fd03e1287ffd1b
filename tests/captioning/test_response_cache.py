"""The journal: found again by what an answer depends on, whole whatever happens to the file."""

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from anyclass.captioning.response_cache import ResponseCache, key_of
from anyclass.errors import StorageError

IDENTITY = {"kind": "endpoint", "model": "llava", "temperature": 0.0}


def rows(path: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as database:
        found = database.execute("SELECT * FROM answers ORDER BY key").fetchall()
    database.close()
    return found


def test_key_of__every_part_counts_and_no_order_of_names() -> None:
    base = key_of(IDENTITY, "What?", 0, ["a", "b"])
    assert base == key_of(dict(reversed(IDENTITY.items())), "What?", 0, ["a", "b"])
    assert len(base) == 64
    others = [
        key_of(IDENTITY | {"model": "other"}, "What?", 0, ["a", "b"]),
        key_of(IDENTITY | {"temperature": 0.5}, "What?", 0, ["a", "b"]),
        key_of(IDENTITY, "Who?", 0, ["a", "b"]),
        key_of(IDENTITY, "What?", 1, ["a", "b"]),
        key_of(IDENTITY, "What?", 0, ["b", "a"]),
        key_of(IDENTITY, "What?", 0, ["a"]),
    ]
    assert len({base, *others}) == 7


def test_journal__is_in_the_cache_and_remembers(cache: Path, log: Any) -> None:
    with ResponseCache(log) as journal:
        assert journal.known(["k"]) == {}
        journal.keep("k", "a döner", model="llava", question="What?", images="c0ffee")
        journal.keep("k", "another")
    with ResponseCache(log) as journal:
        assert journal.known(["x", "k"]) == {"k": "a döner"}
    path = cache / "answers" / "journal.sqlite"
    assert [row[:5] for row in rows(path)] == [("k", "a döner", "llava", "What?", "c0ffee")]
    assert log == []


def test_journal__each_answer_is_on_the_disk_at_once(tmp_path: Path, log: Any) -> None:
    with ResponseCache(log, tmp_path / "j.sqlite") as journal:
        assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        for i in range(3):
            journal.keep(str(i), "text")
            assert len(rows(tmp_path / "j.sqlite")) == i + 1
        with sqlite3.connect(tmp_path / "j.sqlite") as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        database.close()


def test_journal__threads_share_it(tmp_path: Path, log: Any) -> None:
    with ResponseCache(log, tmp_path / "j.sqlite") as journal, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: journal.keep(str(i % 50), f"text {i % 50}"), range(150)))
        assert journal.known(map(str, range(60))) == {str(i): f"text {i}" for i in range(50)}


def test_journal__two_of_them_share_a_file(tmp_path: Path, log: Any) -> None:
    def write(name: str) -> None:
        with ResponseCache(log, tmp_path / "j.sqlite") as journal:
            for i in range(40):
                journal.keep(str(i), f"text {i}", model=name)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(write, ("one", "two", "three")))
    assert len(rows(tmp_path / "j.sqlite")) == 40


@pytest.mark.slow
def test_journal__processes_share_it(tmp_path: Path, log: Any) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from anyclass.captioning.response_cache import ResponseCache
        with ResponseCache(print, Path(sys.argv[1])) as journal:
            print("open", flush=True)
            input()
            for i in range(60):
                journal.keep(f"{i}", f"text {i}", model=sys.argv[2])
    """
    path = tmp_path / "j.sqlite"
    two = [
        subprocess.Popen(
            [sys.executable, "-c", code, path, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    assert [process.stdout.readline() for process in two] == ["open\n", "open\n"]
    for process in two:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in two] == ["", ""]
    assert [process.returncode for process in two] == [0, 0]
    with ResponseCache(log, path) as journal:
        assert journal.known(map(str, range(60))) == {str(i): f"text {i}" for i in range(60)}


def damaged_header(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def damaged_page(path: Path) -> None:
    """The header stays, so that only looking at the pages finds it."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize("damage", [damaged_header, damaged_page, cut])
def test_journal__a_damaged_file_is_moved_aside_and_said_once(
    tmp_path: Path, log: Any, damage: Any
) -> None:
    path = tmp_path / "j.sqlite"
    with ResponseCache(log, path) as journal:
        for i in range(200):
            journal.keep(str(i), "text")
    damage(path)
    broken = path.read_bytes()
    with ResponseCache(log, path) as journal:
        assert journal.known(["0"]) == {}
        journal.keep("0", "new")
    with ResponseCache(log, path) as journal:
        assert journal.known(["0"]) == {"0": "new"}
    aside = list(tmp_path.glob("*.damaged"))
    assert [file.read_bytes() for file in aside] == [broken]
    assert len(log.warnings) == 1
    assert aside[0].name in log.warnings[0]


def test_journal__a_disk_that_refuses_is_one_line(tmp_path: Path, log: Any) -> None:
    (tmp_path / "j.sqlite").mkdir()
    with pytest.raises(
        StorageError, match=r"j\.sqlite cannot be read or written: .*ANYCLASS_CACHE"
    ):
        ResponseCache(log, tmp_path / "j.sqlite")
    assert log == []


def test_journal__a_full_disk_keeps_what_was_there(tmp_path: Path, log: Any) -> None:
    with ResponseCache(log, tmp_path / "j.sqlite") as journal:
        journal.keep("0", "text")
        journal._database.execute("PRAGMA max_page_count = 3")
        with pytest.raises(StorageError, match="full"):
            journal.keep("1", "text " * 10_000)
        assert journal.known(["0", "1"]) == {"0": "text"}
