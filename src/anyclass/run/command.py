"""Flags of commands that are put together from parts."""

from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

from anyclass.methods import METHODS
from anyclass.run.fitting import fit
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

    def run(self) -> dict[str, Any]:
        """Do it; returns the content of `metrics.json`."""
        method = getattr(self, "method", "auto")
        return fit(method, self.out, self.overwrite, **vars(self.request))


def fit_command(name: str) -> type[_Fit]:
    """The flags of `anyclass fit NAME`: the request, the folder, and the fields of the method."""
    if name == "auto":
        return _Fit
    method = METHODS[name]
    command = make_dataclass(
        "_Fit", [("method", method, field(default=method()))], bases=(_Fit,), frozen=True
    )
    command.__doc__ = f"{method.__doc__}"
    return command


def models(contains: str = "") -> dict[str, list[str]]:
    """List the models that can be used: the embedded starter and open_clip's, as NAME/TAG.

    Args:
        contains: list only those with this text in their name.
    """
    import open_clip

    names = ["starter", *(f"{name}/{tag}" for name, tag in open_clip.list_pretrained())]
    forms = ["hf-hub:OWNER/NAME", "local-dir:FOLDER"]
    return {"models": [name for name in [*names, *forms] if contains.lower() in name.lower()]}
