"""Flags of commands that are put together from parts."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, make_dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tyro.conf import arg

from anyclass.captioning import CAPTIONERS
from anyclass.commands.describe import describe
from anyclass.commands.fit import fit
from anyclass.commands.plan import plan
from anyclass.commands.rename import rename
from anyclass.commands.request import Request
from anyclass.errors import RequestError
from anyclass.methods import METHODS

PARTS = {"captioner": "latteclip", "then": "ship"}
"""Flags that choose a part of a method by its name, and a method that has it."""


@dataclass(frozen=True)
class _Fit:
    """Fit a method on a folder of images and leave a run folder with a report."""

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
        """The method, with the parts whose flags stand beside its own."""
        method: Any = getattr(self, "method", "auto")
        parts = {part: getattr(self, part) for part in PARTS if hasattr(self, part)}
        return replace(method, **parts) if parts else method


def fit_command(name: str, chosen: Mapping[str, str] = MappingProxyType({})) -> type[_Fit]:
    """Flags of `anyclass fit NAME` and `plan NAME`: request, folder, the fields of the method.

    A part of the method (its captioner, say) has flags as well: those of the one that is `chosen`.

    Raises:
        RequestError: there is no such part, or the method has none.
    """
    for part, part_name in chosen.items():
        if name == "auto":
            raise RequestError(
                f"auto chooses by itself; --{part} belongs to a method that you name: "
                f"anyclass fit {PARTS[part]} --{part} {part_name}"
            )
        if not hasattr(METHODS[name], part):
            raise RequestError(f"{name} has no {part}: leave --{part} out")
    if name == "auto":
        return _Fit
    method = METHODS[name]
    fields: list[Any] = [("method", Annotated[method, arg(name="")], field(default=method()))]
    for part in PARTS:
        if hasattr(method, part):
            usual = getattr(method(), part)
            kinds = _kinds(get_type_hints(method, include_extras=True)[part])
            kind = chosen.get(part, usual.kind)
            default = usual if usual.kind == kind else MISSING
            flags = _flags(part, kind, kinds)
            fields.append((part, flags, field(default=default, kw_only=True)))
    command = make_dataclass("_Fit", fields, bases=(_Fit,), frozen=True)
    command.__doc__ = f"{method.__doc__}"
    return command


def describe_command(captioner: str | None = None) -> type[Any]:
    """`describe` as a class whose fields are flags; its captioner is the one of that name."""
    return _with_captioner(describe, captioner or "vocabulary")


def rename_command(captioner: str | None = None) -> Any:
    """`rename`, or as a class whose fields are flags, where a captioner of that name is asked."""
    return rename if captioner is None else _with_captioner(rename, captioner)


def _with_captioner(what: Callable[..., Any], captioner: str) -> type[Any]:
    """A function as a class whose fields are flags, those of a captioner too."""
    given = signature(what).parameters
    flags = _flags("captioner", captioner, CAPTIONERS)
    kinds = get_type_hints(what, include_extras=True) | {"captioner": flags}
    needed = {name for name in given if given[name].default is Parameter.empty} | {"captioner"}
    parts: list[Any] = [
        (name, kinds[name], field(default=MISSING if name in needed else given[name].default))
        for name in given
    ]
    call = {"__call__": lambda self: what(**vars(self)), "__doc__": what.__doc__}
    return make_dataclass("_Command", parts, namespace=call, kw_only=True, frozen=True)


def _kinds(union: Any) -> dict[str, type[Any]]:
    """The members of a union of dataclasses, by their `kind`."""
    while get_origin(union) is Annotated:
        union = get_args(union)[0]
    return {member.kind: member for member in get_args(union)}


def _flags(part: str, name: str, kinds: Mapping[str, type[Any]]) -> Any:
    """The part of that name as a type whose fields are flags; its help lists all names."""
    names = ", ".join(kinds)
    if name not in kinds:
        raise RequestError(f"no {part} is called {name!r}: use {names}")
    about = f"{kinds[name].__doc__}".splitlines()[0]
    return Annotated[kinds[name], arg(help=f"{about}\n\n--{part} NAME takes one of: {names}.")]
