"""`report`: write the report of a run again."""

from pathlib import Path

from anyclass.files import MANIFEST, lock, read_json, sha256, write_json
from anyclass.report.html import write
from anyclass.run.folder import check_finished


def report(run: Path) -> dict[str, str]:
    """Write the report of a run again: RUN/report.html, one file that loads nothing.

    Args:
        run: a run folder.

    Raises:
        RequestError: it holds no finished run, or is in use.
    """
    check_finished(run)
    with lock(run):
        path = write(run)
        manifest = read_json(run / MANIFEST)
        manifest["files"][path.name] = sha256(path)
        write_json(run / MANIFEST, manifest)
    return {"report": str(path)}
