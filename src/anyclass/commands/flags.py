"""Flags of commands that are put together from parts."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, make_dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tyro.conf import arg

from anyclass.captioning import CAPTIONERS
from anyclass.commands.command_line import PARTS
from anyclass.commands.describe import describe
from anyclass.commands.rename import rename
from anyclass.commands.request import Request
from anyclass.errors import RequestError
from anyclass.methods import METHODS


@dataclass(frozen=True)
class FitFlags:
    """Fit a method to a folder of images and write a run folder with a report."""

    request: Annotated[Request, arg(name="")]
    """What to fit on."""
    out: Path = Path("run")
    """Run folder to write. The same command again continues an unfinished run."""
    overwrite: bool = False
    """Replace an existing run; other files in the folder are left alone."""

    @property
    def asked(self) -> Any:
        """The method that was asked for: "auto", or one with its hyper-parameters and parts."""
        return "auto"


@dataclass(frozen=True)
class AuditFlags:
    """Further checks of `plan`."""

    audit: Path | None = None
    """Also look for blurred, dark and tiny images, copies of a photograph and wrong labels, and
    list all files in audit.csv and audit.json in this folder. `fit` reuses the features."""
    evaluation: Annotated[Path | None, arg(name="eval")] = None
    """Folder of images for evaluation, to report images that are in both folders."""
    audit_model: bool = True
    """With --audit: also use the model, for wrong labels, classes that it never predicts and names
    that it cannot tell apart. Turn it off if that takes too long."""


def fit_command(
    name: str, chosen: Mapping[str, str] = MappingProxyType({}), domain: str | None = None
) -> type[FitFlags]:
    """Flags of `anyclass fit NAME` and `plan NAME`: request, folder, the fields of the method.

    A part of the method (its captioner, say) has flags as well: those of the one that is `chosen`.
    A data set of LatteCLIP's paper in `domain` changes the defaults of other flags.

    Raises:
        RequestError: there is no such part, or the method has none.
    """
    for part, part_name in chosen.items():
        if name == "auto":
            owner = next(named for named, kind in METHODS.items() if part in _parts(kind))
            raise RequestError(
                f"auto chooses by itself; --{part} belongs to a method that you name: "
                f"anyclass fit {owner} --{part} {part_name}"
            )
        if part not in _parts(METHODS[name]):
            raise RequestError(f"{name} has no {part}: leave --{part} out")
    if name == "auto":
        return FitFlags
    method = METHODS[name]
    parts = _parts(method)
    has_domain = "domain" in {declared.name for declared in fields(method)}
    usual = method(domain=domain) if domain is not None and has_domain else method()
    declared: list[Any] = [("method", Annotated[method, arg(name="")], field(default=usual))]
    for part in parts:
        own = getattr(usual, part)
        kind = chosen.get(part, own.kind)
        default = own if own.kind == kind else MISSING
        flags = _flags(part, kind, part_kinds(name)[part])
        declared.append((part, flags, field(default=default, kw_only=True)))

    def asked(self: Any) -> Any:
        return replace(self.method, **{part: getattr(self, part) for part in parts})

    made = {"asked": property(asked), "__doc__": f"{method.__doc__}"}
    return make_dataclass("FitFlags", declared, bases=(FitFlags,), namespace=made, frozen=True)


def plan_command(
    name: str, chosen: Mapping[str, str] = MappingProxyType({}), domain: str | None = None
) -> type[FitFlags]:
    """Flags of `anyclass plan NAME`: those of `fit`, and `AuditFlags`; arguments as there."""
    command = fit_command(name, chosen, domain)
    declared: list[Any] = [
        ("audit_flags", Annotated[AuditFlags, arg(name="")], field(default=AuditFlags()))
    ]
    named = {"__doc__": command.__doc__}
    return make_dataclass(
        "PlanFlags", declared, bases=(command,), namespace=named, frozen=True, kw_only=True
    )


def _parts(method: Any) -> list[str]:
    """Parts of a method that are chosen by a flag of their own."""
    names = {declared.name for declared in fields(method)}
    return [part for part in PARTS["fit"] if part in names]


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


def part_kinds(method: str) -> dict[str, dict[str, type[Any]]]:
    """Part of a method -> names and classes to choose from."""
    hints = get_type_hints(METHODS[method], include_extras=True)
    return {part: _kinds(hints[part]) for part in PARTS["fit"] if part in hints}


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
