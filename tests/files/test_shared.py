"""File systems of several machines: which locks hold, which journal a database gets."""

import sqlite3
from pathlib import Path

import pytest

from anyclass.captioning.response_cache import ResponseCache
from anyclass.errors import RequestError
from anyclass.files import lock
from anyclass.files.shared import MOUNTS, SWITCH, check_locks, journal_mode, mount_of
from anyclass.log import silent
from anyclass.review.corrections import Corrections

TABLE = r"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /home rw shared:2 master:7 - nfs4 server:/home rw,vers=4.2,local_lock=none
31 21 0:41 / /scratch rw - nfs server:/scratch rw,vers=3,nolock,local_lock=all
32 21 0:42 / /lustre rw - lustre mds@tcp:/fs rw,flock,lazystatfs
33 21 0:43 / /fast rw - lustre mds@tcp:/fast rw,lazystatfs
34 21 0:44 / /mnt/my\040files rw - fuse.sshfs me@host: rw,user_id=0
35 21 0:45 / /bucket rw - fuse.gcsfuse bucket rw
36 21 0:46 / /share rw - cifs //server/share rw,vers=3.1.1,nobrl
37 21 0:47 / /office rw - cifs //server/office rw,vers=3.1.1
38 30 8:2 / /home/local rw - xfs /dev/sdb1 rw
39 21 0:48 / /over rw - fuse.fuse-overlayfs fuse-overlayfs rw
40 21 0:49 / /vm rw - 9p hostshare rw,trans=virtio
41 40 8:3 / /vm rw - ext4 /dev/sdc1 rw
no line of the table
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(TABLE.strip())
    return path


@pytest.mark.parametrize(
    ("folder", "kind", "journal", "holds"),
    [
        ("/data/run", "ext4", "WAL", True),
        ("/home/ann/run", "nfs4", "DELETE", True),
        ("/home/local/run", "xfs", "WAL", True),
        ("/homework", "ext4", "WAL", True),
        ("/scratch/run", "nfs", "DELETE", False),
        ("/lustre/run", "lustre", "DELETE", True),
        ("/fast/run", "lustre", "DELETE", False),
        ("/mnt/my files/run", "fuse.sshfs", "DELETE", False),
        ("/bucket", "fuse.gcsfuse", "DELETE", False),
        ("/share/run", "cifs", "DELETE", False),
        ("/office/run", "cifs", "DELETE", True),
        ("/over/run", "fuse.fuse-overlayfs", "WAL", True),
        ("/vm/run", "ext4", "WAL", True),
    ],
)
def test_mount__of_a_folder(table: Path, folder: str, kind: str, journal: str, holds: bool) -> None:
    mount = mount_of(Path(folder), table)
    assert mount is not None
    assert (mount.kind, mount.locks_hold) == (kind, holds)
    assert journal_mode(Path(folder) / "answers.sqlite", table) == journal
    if holds:
        check_locks(Path(folder), table)
        return
    with pytest.raises(RequestError, match=rf"{kind}, mounted at .* set {SWITCH}=1"):
        check_locks(Path(folder), table)


def test_mount__without_a_table_is_local(tmp_path: Path) -> None:
    assert mount_of(tmp_path, tmp_path / "none") is None
    assert journal_mode(tmp_path, tmp_path / "none") == "WAL"
    check_locks(tmp_path, tmp_path / "none")


@pytest.mark.skipif(not MOUNTS.exists(), reason="only Linux has the table")
def test_mount__of_this_machine(tmp_path: Path) -> None:
    mount = mount_of(tmp_path)
    assert mount is not None
    assert tmp_path.resolve().is_relative_to(mount.folder)
    assert mount_of(Path("/proc/self")).kind == "proc"  # type: ignore[union-attr]


@pytest.fixture
def on_sshfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the table says to be on sshfs."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    line = f"34 21 0:44 / {folder.resolve()} rw - fuse.sshfs me@host: rw"
    table = tmp_path / "mountinfo"
    table.write_text(line)
    for function in (check_locks, journal_mode, mount_of):
        monkeypatch.setattr(function, "__defaults__", (table,))
    return folder


def test_lock__refuses_a_folder_whose_locks_do_not_hold(
    on_sshfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(RequestError, match="keep other machines out"),
        lock(on_sshfs / "run"),
    ):
        pass
    assert list(on_sshfs.iterdir()) == []
    monkeypatch.setenv(SWITCH, "1")
    with lock(on_sshfs / "run"):
        pass


def test_databases__keep_no_shared_memory_on_a_shared_file_system(
    on_sshfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "1")
    Corrections(on_sshfs / "corrections.sqlite").close()
    monkeypatch.setenv("ANYCLASS_CACHE", str(on_sshfs / "cache"))
    with ResponseCache(silent):
        pass
    found = sorted(on_sshfs.rglob("*.sqlite*"))
    assert len(found) == 2
    for path in found:
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        database.close()
