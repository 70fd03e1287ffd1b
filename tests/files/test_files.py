"""Files: whole or not at all, one owner at a time, names that no system misreads."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anyclass.errors import AnyclassError, RequestError, StorageError
from anyclass.files import (
    atomic_write,
    cache_folder,
    check_manifest,
    csv_cell,
    csv_text,
    lock,
    portable,
    read_json,
    sha256,
    slug,
    sweep,
    temporary_folder,
    write_json,
    write_manifest,
    write_text,
)

HOSTILE = [
    "..",
    ".",
    "",
    " ",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows",
    "c:",
    "\\\\server\\share",
    "NUL",
    "nul",
    "con",
    "Aux.txt",
    "COM1",
    "lpt9",
    "a\0b",
    "a\nb",
    "a/b",
    "a\\b",
    "trailing.",
    "trailing ",
    "-rf",
    "caf\udce9",
    "é",
    "é",
    "猫",
    "dog",
    "Dog",
    "DOG",
    "dog ",
    "dog-0123456789ab",
    "0123456789ab",
    "x" * 300,
    "x" * 299,
    "<script>",
    'a:b|c?d*e"f',
]


FEW = settings(max_examples=30, deadline=None)
"""Enough for functions of one line, whose hostile cases stand in a table."""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(code: str, *arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_whole__replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "value.json"
    write_text(path, "old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert temporary.suffix == ".json"
    assert path.read_text() == "new"
    assert names(path.parent) == {"value.json"}


def test_whole__is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power leaves the old file or the new one, and then the folder knows the new one."""
    path = tmp_path / "value"
    path.write_text("old")
    flushed = []

    def flush(handle: int) -> None:
        flushed.append((os.fstat(handle).st_ino, path.read_text()))

    monkeypatch.setattr(os, "fsync", flush)
    write_text(path, "new")
    assert flushed == [(path.stat().st_ino, "old"), (tmp_path.stat().st_ino, "new")]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_whole__keeps_the_old_file_when_the_block_fails(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "value"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == {"value"}


def test_whole__mode_follows_the_umask_even_when_a_library_replaces_the_file(
    tmp_path: Path, umask: None
) -> None:
    with atomic_write(tmp_path / "weights") as temporary:
        other = tmp_path / "other"
        other.write_bytes(b"0")
        other.chmod(0o600)  # as safetensors does
        other.replace(temporary)
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o640


def test_whole__full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=r"value.*No space left on device") as caught,
        atomic_write(tmp_path / "value"),
        Path("/dev/full").open("wb") as full,
    ):
        full.write(b"x")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert not names(tmp_path)


def test_whole__a_file_too_large_is_a_storage_error(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match="too large"):
            write_text(tmp_path / "value", "x" * 1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not names(tmp_path)


def test_whole__an_error_of_a_rust_library_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"), atomic_write(tmp_path / "value"):
        raise RuntimeError("Error while serializing: I/O error (os error 28)")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_whole__a_forbidden_folder_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StorageError, match=os.strerror(number)):
        write_text(tmp_path / "value", "x")


def test_whole__an_unrelated_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "value"):
        (tmp_path / "nothing").read_text()


def test_whole__on_a_real_full_disk(tmp_path: Path) -> None:
    if not shutil.which("unshare"):
        pytest.skip("there is no unshare here")
    code = """
import sys
from pathlib import Path
from anyclass.errors import StorageError
from anyclass.files import write_text
folder = Path(sys.argv[1])
write_text(folder / "value", "old")
try:
    write_text(folder / "value", "x" * 2_000_000)
except StorageError:
    print((folder / "value").read_text(), *[path.name for path in folder.iterdir()])
"""
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, tmp_path, sys.executable, "-c", code, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"mounts are forbidden here: {done.stderr.strip()}")
    assert done.stdout.split() == ["old", "value"], done.stderr


def test_whole__killed_while_writing_leaves_the_old_file_and_a_temporary_to_sweep(
    tmp_path: Path,
) -> None:
    (tmp_path / "value").write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from anyclass.files import atomic_write
with atomic_write(Path(sys.argv[1]) / "value") as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / "value").read_text() == "old"
    (orphan,) = names(tmp_path) - {"value"}
    (tmp_path / "deeper").mkdir()
    (tmp_path / orphan).rename(tmp_path / "deeper" / orphan)
    foreign = [".anyclass-mine.tmp", "anyclass.tmp", ".anyclass-notes"]
    for name in foreign:
        (tmp_path / name).write_text("the user's")
    sweep(tmp_path)
    assert names(tmp_path) == {"value", "deeper", *foreign}
    assert not names(tmp_path / "deeper")


def test_atomic_write__removes_what_killed_processes_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only files of processes that have ended: not of live ones, nor of other machines."""
    code = """
import os, signal, sys
from pathlib import Path
from anyclass.files import atomic_write
with atomic_write(Path(sys.argv[1]) / "table.csv"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(3):
        assert run(code, tmp_path).returncode == -signal.SIGKILL
        assert len(names(tmp_path)) == 1, "the one before is gone"
    (orphan,) = names(tmp_path)
    host, pid, started = orphan[10:18], orphan[18:26], orphan[26:34]
    with atomic_write(tmp_path / "live.csv") as live:
        foreign = f".anyclass-{'f' * 8}{pid}{started}{'0' * 8}.tmp"
        reused = f".anyclass-{host}{os.getpid():08x}{'f' * 8}{'0' * 8}.tmp"  # our number, not we
        for name in (foreign, reused):
            (tmp_path / name).write_text("half")
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / orphan).write_text("half")
        assert run("import sys\n" + code.replace("os.kill", "print"), tmp_path).returncode == 0
        assert names(tmp_path) == {live.name, foreign, "table.csv", "deep"}
        assert names(tmp_path / "deep") == {orphan}
        os.utime(tmp_path / foreign, (0, 0))
        monkeypatch.setattr("anyclass.files.temporary._swept", set())
        write_text(tmp_path / "other", "x")
        assert names(tmp_path) == {live.name, "table.csv", "deep", "other"}
        sweep(tmp_path)
        assert names(tmp_path / "deep") == set()
        assert live.is_file()


def test_temporary_folder__removes_those_of_killed_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of live processes, nor what anybody else may have written into."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code = """
import os, signal
from anyclass.files import temporary_folder
with temporary_folder("anyclass-x-") as folder:
    (folder / "sockets").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    for name in ("anyclass-x-open", "other"):
        shutil.copytree(tmp_path / left, tmp_path / name)
    (tmp_path / "anyclass-x-open").chmod(0o777)
    (tmp_path / "anyclass-x-link").symlink_to(tmp_path / "other")
    (tmp_path / "anyclass-x-mine").mkdir(0o700)
    foreign = {"anyclass-x-open", "anyclass-x-link", "anyclass-x-mine", "other"}
    with temporary_folder("anyclass-x-") as one, temporary_folder("anyclass-x-") as two:
        assert names(tmp_path) == {one.name, two.name, *foreign}
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
    assert names(tmp_path) == foreign
    assert names(tmp_path / "other") == names(tmp_path / "anyclass-x-open") != set()


def test_atomic_write__says_what_is_needed_and_free(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StorageError, match=r"\(12,345,678 are needed, [\d,]+ bytes are free\)"):
        with atomic_write(tmp_path / "value", 12_345_678):
            raise full
    with pytest.raises(StorageError, match=r"\([\d,]+ bytes are free, more are needed\)") as caught:
        with atomic_write(tmp_path / "value"):
            raise full
    assert "run the same command again: what was computed so far is kept" in str(caught.value)


def test_write_text__holds_any_text_exactly_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "猫\r\n\n\u2028caf\udce9")
    assert (tmp_path / "text").read_bytes() == "猫\r\n\n\u2028caf\\udce9".encode()


def test_write_json__gives_back_what_went_in(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None, True, "a\nb"], "path": "caf\udce9"}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
    assert "é" in (tmp_path / "value.json").read_text(encoding="utf-8")


def test_write_json__refuses_what_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", {"loss": float("nan")})
    assert not names(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"a": 1} x'])
def test_read_json__names_a_damaged_file(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "value.json"
    path.write_bytes(damage)
    with pytest.raises(AnyclassError, match=re.escape(str(path))):
        read_json(path)


def test_read_json__names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AnyclassError, match="gone.json cannot be read: No such file"):
        read_json(tmp_path / "gone.json")


def test_sha256__of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == known


def test_cache_folder__follows_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "own"))
    assert cache_folder("models", "a") == tmp_path / "own" / "models" / "a"
    assert (tmp_path / "own" / "models" / "a").is_dir()
    monkeypatch.delenv("ANYCLASS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "anyclass"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "anyclass"


def test_lock__refuses_a_second_owner_and_names_the_first(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from anyclass.errors import RequestError
from anyclass.files import lock
try:
    with lock(Path(sys.argv[1])):
        print("mine")
except RequestError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    folder = tmp_path / "run"
    with lock(folder):
        second = run(code, folder)
        with (
            pytest.raises(RequestError, match=f"in use by process {os.getpid()} on "),
            lock(folder),
        ):
            pass
        write_manifest(folder)
        assert read_json(folder / "manifest.json") == {"files": {}}
    assert second.returncode == 2
    assert f"in use by process {os.getpid()} on " in second.stdout
    third = run(code, folder)
    assert (third.returncode, third.stdout) == (0, "mine\n")
    assert names(folder) == {"manifest.json", ".anyclass.lock"}
    assert (folder / ".anyclass.lock").read_bytes() == b""


def test_lock__of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from anyclass.files import lock
with lock(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    assert names(tmp_path)
    with lock(tmp_path):
        owner = read_json(tmp_path / ".anyclass.lock.json")
        assert owner["pid"] == os.getpid()
    assert names(tmp_path) == {".anyclass.lock"}


def test_manifest__lists_regular_files_and_finds_what_changed(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt", "deep/er/c.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a.txt")
    (tmp_path / f".anyclass-{'0' * 32}.tmp.json").write_text("half")
    write_manifest(tmp_path)
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert list(listed) == ["a.txt", "deep/b.txt", "deep/er/c.txt"]
    assert listed["a.txt"] == sha256(tmp_path / "a.txt")
    assert check_manifest(tmp_path) == []
    (tmp_path / "a.txt").write_text("other")
    (tmp_path / "deep/er/c.txt").unlink()
    (tmp_path / "new").write_text("not ours")
    assert check_manifest(tmp_path) == ["a.txt has changed", "deep/er/c.txt is missing"]


@pytest.mark.parametrize("text", ["[]", '{"files": 3}', '{"files": []}', "{}", "3", "{"])
def test_check_manifest__damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    (problem,) = check_manifest(tmp_path)
    assert "manifest.json is damaged" in problem


def test_check_manifest__missing_or_leading_outside(tmp_path: Path) -> None:
    (problem,) = check_manifest(tmp_path)
    assert "manifest.json cannot be read" in problem
    outside = tmp_path / "outside"
    outside.write_text("secret")
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "manifest.json", {"files": {"../outside": sha256(outside)}})
    assert check_manifest(tmp_path / "run") == ["../outside is missing"]


def test_slug__keeps_plain_names_and_changes_hostile_ones() -> None:
    assert slug("dog") == "dog"
    assert slug("red_square-2") == "red_square-2"
    assert re.fullmatch(r"red-square-[0-9a-f]{12}", slug("Red square"))
    assert re.fullmatch(r"[0-9a-f]{12}", slug("猫"))
    assert re.fullmatch(r"nul-[0-9a-f]{12}", slug("nul"))
    assert len({slug(name) for name in HOSTILE}) == len(set(HOSTILE))


@FEW
@given(st.text() | st.sampled_from(HOSTILE))
@example("")
def test_slug__is_a_safe_file_name(name: str) -> None:
    safe = slug(name)
    assert re.fullmatch(r"[a-z0-9_][a-z0-9_-]{0,79}", safe)
    assert safe not in {"con", "prn", "aux", "nul"}
    assert not re.fullmatch(r"(com|lpt)\d", safe)


@FEW
@given(st.text(), st.text())
def test_slug__differs_for_different_names(one: str, two: str) -> None:
    assert (slug(one) == slug(two)) == (one == two)


@pytest.mark.parametrize(
    "name", ["dog", "Red square", "Mütze", "猫", "a (1).JPG", "a & b", "x.y.z"]
)
def test_portable__takes_names_that_every_system_takes(name: str) -> None:
    assert portable(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", " x", "x ", "x.", "-rf", "=1", "a/b", "a\\b", "a:b", "a?", '"', "a\nb"]
    + ["NUL", "con.txt", "com1 .jpg", "Mu\u0308tze", "a\u200bb", "\ud800", "x" * 201]
    + [slug("Red square"), f"{slug('Red square')}.jpg"],
)
def test_portable__refuses_what_some_system_changes(name: str) -> None:
    assert not portable(name)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", "'=x", "''-x"])
def test_csv_cell__quotes_formulas(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "dog", "'tis", "a=b", " =x", "1", "'"])
def test_csv_cell__leaves_plain_text(text: str) -> None:
    assert csv_cell(text) == text


@FEW
@given(st.text(alphabet="'=+-@\t\rab ") | st.text())
def test_csv_text__gives_the_text_back(text: str) -> None:
    assert csv_text(csv_cell(text)) == text


def test_cache_folder__of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANYCLASS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 123_456)
    with pytest.raises(RequestError, match="no home folder: set ANYCLASS_CACHE to a folder"):
        cache_folder("features")
