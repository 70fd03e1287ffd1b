"""The method of a run: the one that was asked for, or the one that suits what is known."""

from typing import Literal, NamedTuple

from anyclass.commands.command_line import NOTHING_KNOWN, REPLACED, did_you_mean, was_replaced
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.methods import METHODS, Method, suggest


class ChosenMethod(NamedTuple):
    """Method of a run, and the reasons for it."""

    asked: str
    """Requested method: its name, or auto."""
    name: str
    """Name of the method."""
    method: Method
    """The method with its hyper-parameters."""
    why: list[str]
    """Reasons for the choice, one sentence each."""


def choose_method(
    method: Method | str,
    dataset: ImageDataset,
    unknown: int | Literal["auto"] = 0,
) -> ChosenMethod:
    """Choose the method of a run.

    Args:
        method: a method, its name for the default hyper-parameters, or "auto" for the one
            that suits what is known of the classes.
        dataset: images, labels and classes.
        unknown: number of classes to discover.

    Raises:
        RequestError: there is no such method, it cannot discover classes although some are
            unknown, or there is no information about the classes.
    """
    asked = method if isinstance(method, str) else name_of(method)
    if asked in REPLACED:
        raise RequestError(was_replaced(asked, REPLACED[asked]))
    if asked not in ("auto", *METHODS):
        hint = did_you_mean(asked, ("auto", *METHODS))
        raise RequestError(f"there is no method {asked!r}: {hint}use auto, {', '.join(METHODS)}")
    if len(dataset.classes) == 0 and not unknown:
        raise RequestError(NOTHING_KNOWN)
    if asked == "auto":
        return ChosenMethod(asked, *suggest(dataset, unknown))
    if unknown and not METHODS[asked].info.discovers:
        discovering = [name for name, kind in METHODS.items() if kind.info.discovers]
        raise RequestError(
            f"{asked} needs a name for every class, so it cannot be used with --unknown {unknown}: "
            f"use auto, {', '.join(discovering)}, or leave --unknown out"
        )
    chosen = METHODS[asked]() if isinstance(method, str) else method
    return ChosenMethod(asked, asked, chosen, [f"{asked} was requested"])


def name_of(method: Method) -> str:
    """Name of a method in `METHODS`."""
    kinds = {kind: name for name, kind in METHODS.items()}
    if type(method) not in kinds:
        raise RequestError(f"{method!r:.100} is not a method: use auto, {', '.join(METHODS)}")
    return str(kinds[type(method)])
