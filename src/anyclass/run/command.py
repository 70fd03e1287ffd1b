"""Flags of commands that are put together from parts."""

from dataclasses import MISSING, dataclass, field, make_dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from tyro.conf import arg

from anyclass.describe import DESCRIBERS
from anyclass.errors import RequestError
from anyclass.files import MANIFEST, lock, read_json, sha256, write_json
from anyclass.methods import METHODS
from anyclass.report import write
from anyclass.run.describing import describe
from anyclass.run.fitting import fit
from anyclass.run.folder import check_finished
from anyclass.run.planning import plan
from anyclass.run.request import Request


@dataclass(frozen=True)
class _Fit:
    """Fit a method on a folder of pictures and leave a run folder with a report."""

    request: Annotated[Request, arg(name="")]
    """What to fit on."""
    out: Path = Path("run")
    """The run folder; the same command again continues an unfinished run."""
    overwrite: bool = False
    """Replace a run that is there; only its own files are touched."""

    def fit(self) -> dict[str, Any]:
        """Do it; returns the content of `metrics.json`."""
        return fit(self._method, self.out, self.overwrite, **vars(self.request))

    def plan(self) -> dict[str, Any]:
        """Say what `fit` would do."""
        return plan(self._method, **vars(self.request))

    @property
    def _method(self) -> Any:
        """The method, with the describer whose flags stand beside its own."""
        method: Any = getattr(self, "method", "auto")
        return replace(method, describer=self.describer) if hasattr(self, "describer") else method


def fit_command(name: str, describer: str | None = None) -> type[_Fit]:
    """Flags of `anyclass fit NAME` and `plan NAME`: request, folder, the fields of the method.

    A method that asks a describer has the flags of the one that is called `describer` as well.

    Raises:
        RequestError: there is no such describer, or the method asks none.
    """
    if name == "auto":
        if describer is not None:
            raise RequestError(
                "auto keeps the vocabulary; a describer belongs to a method that you name: "
                f"latteclip --describer {describer}"
            )
        return _Fit
    method = METHODS[name]
    parts: list[Any] = [("method", Annotated[method, arg(name="")], field(default=method()))]
    if hasattr(method, "describer"):
        parts.append(("describer", _describer(describer), field(kw_only=True)))
    elif describer is not None:
        raise RequestError(f"{name} asks no describer: leave --describer out")
    command = make_dataclass("_Fit", parts, bases=(_Fit,), frozen=True)
    command.__doc__ = f"{method.__doc__}"
    return command


def describe_command(describer: str | None = None) -> type[Any]:
    """`describe` as a class whose fields are flags; its describer is the one of that name."""
    given = signature(describe).parameters
    kinds = get_type_hints(describe, include_extras=True) | {"describer": _describer(describer)}
    needed = {name for name in given if given[name].default is Parameter.empty} | {"describer"}
    parts: list[Any] = [
        (name, kinds[name], field(default=MISSING if name in needed else given[name].default))
        for name in given
    ]
    call = {"__call__": lambda self: describe(**vars(self)), "__doc__": describe.__doc__}
    return make_dataclass("_Describe", parts, namespace=call, kw_only=True, frozen=True)


def _describer(name: str | None) -> Any:
    """The describer of that name, the vocabulary where none was asked for; its help names all."""
    names = ", ".join(DESCRIBERS)
    if name is not None and name not in DESCRIBERS:
        raise RequestError(f"no describer is called {name!r}: use {names}")
    kind = DESCRIBERS[name or "vocabulary"]
    about = f"{kind.__doc__}".splitlines()[0]
    return Annotated[kind, arg(help=f"{about}\n\n--describer NAME takes one of: {names}.")]


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
