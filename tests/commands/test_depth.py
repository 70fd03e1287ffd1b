"""How far it is from a command to the loss: functions and files that a reader has to open."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import anyclass
from anyclass.commands.fit import fit
from anyclass.methods import METHODS
from tests.commands.test_nothing_twice import options_of
from tests.methods.test_random_state import SHORT

SOURCE = Path(anyclass.__file__).parent

THEN = {"then": METHODS["coop"](**SHORT["coop"], recipe="ship")}
FITS = {
    "LatteCLIP": METHODS["latteclip"](**SHORT["latteclip"]),
    "SHIP with CoOp": METHODS["ship"](**(SHORT["ship"] | THEN)),
    "SHIP with Tip-Adapter": METHODS["ship"](**SHORT["ship"]),
    "GET": METHODS["get"](**SHORT["get"]),
}


@contextmanager
def way_to_losses() -> Iterator[set[tuple[str, ...]]]:
    """Collect the package's functions on the stack of each loss, as `file: function`."""
    ways = set[tuple[str, ...]]()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "loss" and of_package(frame):
            stack = list[str]()
            here: FrameType | None = frame
            while here is not None:
                if of_package(here):
                    file = Path(here.f_code.co_filename).relative_to(SOURCE).as_posix()
                    stack.insert(0, f"{file}: {here.f_code.co_name}")
                here = here.f_back
            ways.add(tuple(stack))

    sys.setprofile(watch)
    try:
        yield ways
    finally:
        sys.setprofile(None)


def of_package(frame: FrameType) -> bool:
    return Path(frame.f_code.co_filename).is_relative_to(SOURCE)


@pytest.mark.parametrize("name", FITS)
def test_fit__is_six_functions_in_five_files_from_the_loss(
    name: str, shapes: dict[str, Any], tmp_path: Path
) -> None:
    options = options_of(name.split()[0].lower(), shapes)
    with way_to_losses() as ways:
        fit(FITS[name], tmp_path / "run", **options)
    assert len(ways) == (1 if name == "LatteCLIP" else 2)  # SHIP and GET train twice
    for way in ways:
        assert way[0] == "commands/fit.py: fit"
        assert len(way) <= 6, way
        assert len({step.partition(":")[0] for step in way}) <= 5, way
