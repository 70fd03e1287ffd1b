"""Flags of commands that are put together from parts."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

from anyclass.errors import RequestError
from anyclass.files import MANIFEST, lock, read_json, sha256, write_json
from anyclass.methods import METHODS
from anyclass.report import write
from anyclass.run.fitting import fit
from anyclass.run.folder import check_finished
from anyclass.run.planning import plan
from anyclass.run.request import Request


@dataclass(frozen=True)
class _Fit:
    """Fit a method on a folder of pictures and leave a run folder with a report."""

    request: Request
    """What to fit on."""
    out: Path = Path("run")
    """The run folder; the same command again continues an unfinished run."""
    overwrite: bool = False
    """Replace a run that is there; only its own files are touched."""

    def fit(self) -> dict[str, Any]:
        """Do it; returns the content of `metrics.json`."""
        method = getattr(self, "method", "auto")
        return fit(method, self.out, self.overwrite, **vars(self.request))

    def plan(self) -> dict[str, Any]:
        """Say what `fit` would do."""
        return plan(getattr(self, "method", "auto"), **vars(self.request))


def fit_command(name: str) -> type[_Fit]:
    """Flags of `anyclass fit NAME` and `plan NAME`: request, folder, the fields of the method."""
    if name == "auto":
        return _Fit
    method = METHODS[name]
    command = make_dataclass(
        "_Fit", [("method", method, field(default=method()))], bases=(_Fit,), frozen=True
    )
    command.__doc__ = f"{method.__doc__}"
    return command


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


def models(contains: str = "") -> dict[str, list[str]]:
    """List the models that can be used: the embedded starter and open_clip's, as NAME/TAG.

    Args:
        contains: list only those with this text in their name.
    """
    import open_clip

    names = ["starter", *(f"{name}/{tag}" for name, tag in open_clip.list_pretrained())]
    forms = ["hf-hub:OWNER/NAME", "local-dir:FOLDER"]
    found = [name for name in [*names, *forms] if contains.lower() in name.lower()]
    if not found:
        raise RequestError(f"no model has {contains!r} in its name; `anyclass models` lists all")
    return {"models": found}
