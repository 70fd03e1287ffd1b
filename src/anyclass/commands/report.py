"""`report`: regenerate the report of a run."""

from pathlib import Path

from anyclass.files import MANIFEST, lock, sha256, write_json
from anyclass.report.html import write_report
from anyclass.run.content import read_checked
from anyclass.run.folder import check_finished, check_no_links


def report(run: Path) -> dict[str, str]:
    """Regenerate the report of a run, RUN/report.html: one self-contained file.

    Args:
        run: a run folder.

    Raises:
        RequestError: the folder contains no finished run, or is in use.
    """
    check_no_links(run)
    check_finished(run)
    with lock(run):
        path = write_report(run)
        manifest = read_checked(run, MANIFEST)
        manifest["files"][path.name] = sha256(path)
        write_json(run / MANIFEST, manifest)
    return {"report": str(path)}
