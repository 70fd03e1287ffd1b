"""Replace files of a finished run: all of them or none, also if the process is killed.

All new files are first written to a scratch folder and then moved. If the move is interrupted, the
next edit completes it. Only files of a fixed list are moved, and nothing is written through a link.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anyclass.commands.class_history import HISTORY
from anyclass.errors import FileError
from anyclass.files import MANIFEST, lock, read_json, sha256, sweep, write_json, write_text
from anyclass.naming.naming_files import NAMING, TABLE
from anyclass.report.html import write_report
from anyclass.report.model_card import card
from anyclass.run.content import check_content, check_files, check_together, read_checked
from anyclass.run.folder import PROBABILITIES, SCRATCH, check_marks, check_no_links

COMMIT_FILE = "ready.json"
"""File that commits prepared files: name of each -> whether it was unedited before."""

REPLACED = frozenset(
    {
        "classes.json",
        "model/classifier.json",
        "metrics.json",
        NAMING,
        TABLE,
        "predictions.parquet",
        "predictions.csv",
        "suspicious.csv",
        PROBABILITIES,
        HISTORY,
    }
)
"""All files that an edit may replace."""


@contextmanager
def opened_for_edit(run: Path) -> Iterator[None]:
    """Check and lock a finished run, and complete an edit that was interrupted.

    Raises:
        RequestError: it is not a finished run, is in use, or has links in the place of files.
        FileError: a file in it is damaged.
    """
    check_no_links(run)
    check_marks(run)
    with lock(run):
        sweep(run)
        (run / SCRATCH / TABLE).unlink(missing_ok=True)  # the user may have edited the table again
        complete(run)
        check_content(run)
        yield


def complete(run: Path, memory: Mapping[str, Any] | None = None) -> None:
    """Move the prepared files, if all are there; update report, model card and manifest.

    Args:
        run: the run folder.
        memory: its images by name, if they are in memory.

    Raises:
        FileError: the list of prepared files, or the manifest, is damaged.
    """
    scratch = run / SCRATCH
    if (scratch / COMMIT_FILE).is_file():
        unedited = _prepared(scratch / COMMIT_FILE)
        manifest = read_checked(run, MANIFEST)
        for name in unedited:
            with suppress(FileNotFoundError):  # moved before an interruption
                (scratch / name).replace(run / name)
        check_files(run)
        check_together(run)
        write_text(run / "model" / "README.md", card(run))
        write_report(run, memory)
        ours = [name for name, same in unedited.items() if same]  # the user edited the others
        for name in (*ours, "model/README.md", "report.html"):
            manifest["files"][name] = sha256(run / name)
        write_json(run / MANIFEST, manifest)
    shutil.rmtree(scratch, ignore_errors=True)


def prepared(run: Path) -> Path:
    """An empty scratch folder for new files."""
    shutil.rmtree(run / SCRATCH, ignore_errors=True)
    return run / SCRATCH


def mark_ready(run: Path) -> None:
    """Write the commit file: all new files are in the scratch folder."""
    scratch = run / SCRATCH
    names = [p.relative_to(scratch).as_posix() for p in scratch.rglob("*") if p.is_file()]
    before = read_checked(run, MANIFEST)["files"]
    unedited = {
        name: name == TABLE or not (run / name).exists() or before.get(name) == sha256(run / name)
        for name in sorted(names)
    }
    write_json(run / SCRATCH / COMMIT_FILE, unedited)


def _prepared(path: Path) -> dict[str, bool]:
    """The commit file, checked.

    Raises:
        FileError: it is damaged, or names files that no edit replaces.
    """
    content = read_json(path)
    usable = isinstance(content, dict) and content and REPLACED.issuperset(content)
    if not usable or not all(isinstance(same, bool) for same in content.values()):
        raise FileError(
            f"{path} is damaged, or was not written by anyclass: if you do not trust the run, "
            f"delete it; else remove the folder {path.parent}"
        )
    return dict(content)
