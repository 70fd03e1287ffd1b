"""File systems that several machines share: whether their locks hold, how a database is kept there.

Read from Linux's table of mounts; elsewhere every folder counts as local.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from anyclass.errors import RequestError

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's table of mounts (proc_pid_mountinfo(5))."""

LOCKING = {"afs", "beegfs", "ceph", "cifs", "gfs2", "gpfs", "lustre", "nfs", "nfs4", "ocfs2"}
LOCKING |= {"smb3", "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs"}
"""Kinds of shared file systems whose locks hold on all machines, unless an option says else."""

PRIVATE = {"fuse.fuse-overlayfs", "fuse.bindfs", "fuse.encfs", "fuse.gocryptfs", "fuse.ntfs-3g"}
PRIVATE |= {"fuse.exfat", "fuse.mergerfs", "fuse.portal", "fuse.unionfs"}
"""Kinds of FUSE file systems that lie on the disks of one machine."""

NO_LOCKS = {
    "nfs": {"nolock", "local_lock=all", "local_lock=flock"},
    "nfs4": {"local_lock=all", "local_lock=flock"},
    "cifs": {"nobrl"},
    "smb3": {"nobrl"},
    "lustre": {"localflock", "noflock"},
}
"""Options by which the locks of a kind hold on one machine only."""

SWITCH = "ANYCLASS_ONE_MACHINE"
"""Environment variable by which a user says that no other machine uses the folder."""


class Mount(NamedTuple):
    """One mounted file system."""

    folder: Path
    """Where it is mounted."""
    kind: str
    """Kind of file system, as Linux calls it."""
    options: frozenset[str]
    """Options of the mount and of the file system."""

    @property
    def shared(self) -> bool:
        """Whether other machines may write there."""
        fuse = self.kind.startswith("fuse.") and self.kind not in PRIVATE
        return self.kind in LOCKING or self.kind == "9p" or fuse

    @property
    def locks_hold(self) -> bool:
        """Whether a lock that one machine holds keeps the others out."""
        if not self.shared:
            return True
        lost = self.options & NO_LOCKS.get(self.kind, set())
        lustre = self.kind == "lustre" and "flock" not in self.options
        return self.kind in LOCKING and not lost and not lustre


def mount_of(path: Path, table: Path = MOUNTS) -> Mount | None:
    """The file system that a file or folder is on or will be on; None where it is not known."""
    try:
        lines = table.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    real = path.resolve()
    best: Mount | None = None
    for line in lines:
        mount = _parsed(line)
        if mount is None or not real.is_relative_to(mount.folder):
            continue
        if best is None or len(mount.folder.parts) >= len(best.folder.parts):  # the last is on top
            best = mount
    return best


def check_locks(folder: Path, table: Path = MOUNTS) -> None:
    """Refuse a folder where two machines could hold the same lock.

    Raises:
        RequestError: its locks hold on one machine only; the message says what to do.
    """
    mount = mount_of(folder, table)
    if mount is None or mount.locks_hold or os.environ.get(SWITCH):
        return
    raise RequestError(
        f"{folder} is on a file system ({mount.kind}, mounted at {mount.folder}) whose locks do "
        "not keep other machines out, so that two could write the same files. Choose a folder on a "
        "disk of this machine or on NFS with locks; or, if no other machine uses it, set "
        f"{SWITCH}=1"
    )


def journal_mode(path: Path, table: Path = MOUNTS) -> str:
    """SQLite's journal for a database: WAL needs memory that all its processes share.

    Source: https://sqlite.org/wal.html, "WAL does not work over a network filesystem".
    """
    mount = mount_of(path, table)
    return "DELETE" if mount is not None and mount.shared else "WAL"


def _parsed(line: str) -> Mount | None:
    """One line: number, parent, device, root, folder, options, tags, -, kind, source, options."""
    before, dash, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split(" ")
    if not dash or len(fields) < 6 or len(rest) < 3:
        return None
    options = frozenset([*fields[5].split(","), *rest[2].split(",")])
    return Mount(Path(_unescaped(fields[4])), rest[0], options)


def _unescaped(text: str) -> str:
    r"""A path of the table, in which `\040` stands for a space."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
