"""Commands that a run suggests: they ask for the same request, and can be pasted as they are."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from anyclass.captioning import CAPTIONERS
from anyclass.cli import _fit_flags, main
from anyclass.commands.chosen_method import ChosenMethod
from anyclass.commands.command_line import parse_words
from anyclass.commands.command_words import command_words, flag_words
from anyclass.commands.fit import fit
from anyclass.commands.flags import fit_command
from anyclass.commands.parse import parse
from anyclass.commands.request import request_of
from anyclass.methods import METHODS
from anyclass.methods.few_shot import FewShot
from anyclass.report.next_steps import LARGER
from anyclass.report.summary import summarise
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning

NAMES = {kind: name for name, kind in METHODS.items()}
ENDPOINT = CAPTIONERS["endpoint"](url="http://localhost:1/v1", model="x", size=50)
ADAPTER = METHODS["tip-adapter"](data=FewShot(shots=2, views=2), epochs=2)
CHANGED = [
    METHODS["latteclip"](
        alpha=0.5,
        texts=("class", "group"),
        freeze_text=True,
        tuning=Tuning("head", steps=12, views=2),
        captioner=ENDPOINT,
    ),
    METHODS["latteclip"](captioner=CAPTIONERS["vocabulary"](words=("a", "b c"))),
    METHODS["latteclip"](domain="flowers102"),
    METHODS["latteclip"](domain="food101", template="a photo of a {}.", class_in_prompt=False),
    METHODS["ship"](then=ADAPTER),
    METHODS["ship"](then=METHODS["gda"](precision="pinv", alpha=2.0)),
    METHODS["get"](tuning=TwoViewTuning(epochs=1, views=2), text_branch=False),
    METHODS["simgcd"](tuning=TwoViewTuning(epochs=1)),  # its default is another decay
    METHODS["coop"](words=None),
]
"""Hyper-parameters that are not the defaults: nested, renamed, of a chosen part, false, None."""


@pytest.mark.parametrize("method", [*(kind() for kind in METHODS.values()), *CHANGED], ids=str)
def test_command_words__reads_as_the_same_request(method: Any, tmp_path: Path) -> None:
    request = request_of(
        {
            "images": tmp_path / "it's $(mine)",
            "classes": ("wren", "it's", "ä; b"),
            "labels": "folders",
            "unknown": 3,
            "holdout": 0.25,
            "seed": 4,
            "prompt_ensemble": False,
            "model": "local-dir:some where",
        }
    )
    name = NAMES[type(method)]
    words = command_words(request, ChosenMethod(name, name, method, []))
    assert words is not None
    assert words["method"][0] == name
    typed = shlex.split(shlex.join(["fit", *words["method"], *words["options"], "--out", "x y"]))
    line = parse_words(typed, ("fit",), ("auto", *METHODS))
    found = parse(fit_command(line.method, line.parts), line.flags, line.program)
    assert (found.asked, found.request, str(found.out)) == (method, request, "x y")


def test_fit_flags__of_a_data_set_are_its_own_unless_typed() -> None:
    def read_flags(*typed: str) -> Any:
        words = ["fit", "latteclip", "--images", "x", *typed]
        return _fit_flags(parse_words(words, ("fit",), ("auto", *METHODS))).asked

    flowers = METHODS["latteclip"](domain="flowers102")
    assert read_flags("--domain", "Flowers") == flowers
    assert read_flags("--domain=flowers102") == flowers
    assert flowers.class_in_prompt
    typed = read_flags("--domain", "food", "--no-class-in-prompt", "--template", "a photo of a {}.")
    assert typed == CHANGED[3]
    assert typed.template == "a photo of a {}."
    assert read_flags("--domain", "bird").template == "a photo of a {}."


def test_command_words__says_what_is_not_a_default_and_nothing_else(tmp_path: Path) -> None:
    choice = ChosenMethod("auto", "open-world", METHODS["open-world"](rounds=1), [])
    words = command_words(request_of({"images": tmp_path, "unknown": "auto"}), choice)
    expected = ["--images", str(tmp_path), "--unknown", "auto"]
    assert words == {"method": ["auto"], "options": expected}


@pytest.mark.parametrize("classes", [("wren", "-b"), ("--out", "wren")])
def test_command_words__is_silent_where_a_name_would_be_read_as_a_flag(
    classes: tuple[str, str], tmp_path: Path
) -> None:
    choice = ChosenMethod("auto", "open-world", METHODS["open-world"](), [])
    assert command_words(request_of({"images": tmp_path, "classes": classes}), choice) is None


def test_flag_words__say_each_kind_of_value() -> None:
    found = [flag_words("--a-b", value) for value in (True, False, ("x", "y"), None, 0.5)]
    assert found == [
        ["--a-b"],
        ["--no-a-b"],
        ["--a-b", "x", "y"],
        ["--a-b", "None"],
        ["--a-b", "0.5"],
    ]


@pytest.fixture
def table(images: Path, tmp_path: Path) -> Path:
    """Labels of half of the images."""
    files = sorted(path for path in images.rglob("*") if path.is_file())[::2]
    rows = [f"{path.relative_to(images).as_posix()},{path.parent.name}" for path in files]
    (tmp_path / "my labels.csv").write_text("\n".join(["file_name,label", *rows]) + "\n")
    return tmp_path / "my labels.csv"


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("auto", {"holdout": 0.25, "seed": 3}),
        ("auto", {"unknown": 2, "classes": None}),
        (METHODS["tip-adapter"](data=FewShot(views=1), epochs=1), {"file_column": "file_name"}),
    ],
    ids=["holdout", "unknown", "method"],
)
def test_next_steps__each_command_runs_as_it_stands(
    method: Any,
    more: dict[str, Any],
    table: Path,
    images: Path,
    shapes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("my run")
    fit(method, run, **shapes | {"labels": str(table)} | more)
    os.chdir("/")
    run = tmp_path / "my run"
    steps = summarise(run, thumbnails=False)["next"]
    assert len(steps) >= 2
    before = json.loads((run / "config.json").read_text())
    for step in steps:
        command = step.command.replace(step.replace, str(images)) if step.replace else step.command
        words = shlex.split(command)
        assert words[0] == "anyclass"
        if words[1] == "serve":  # its tests start it
            assert words[2:] == ["--run", str(run)]
            continue
        if words[1] == "fit":  # asked for by `plan`, which trains nothing, on the same request
            line = parse_words(words[1:], ("fit",), ("auto", *METHODS))
            after = json.loads(json.dumps(_fit_flags(line).request.to_json()))
            same = ("images", "classes", "unknown", "holdout", "seed", "model", "device")
            assert {key: after[key] for key in same} == {key: before[key] for key in same}
            assert not Path(words[-1]).exists()
            words = ["anyclass", "plan", *words[2:]]
        assert main(words[1:]) == 0, command


def test_next_steps__a_larger_model_gets_the_whole_request(
    table: Path, images: Path, shapes: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = shapes | {"labels": str(table), "classes": None, "unknown": 2, "holdout": 0.25}
    fit("auto", run, **asked)
    config = json.loads((run / "config.json").read_text())
    config["model"] = "starter"
    options = config["again"]["options"]
    place = options.index("--model")
    del options[place : place + 2]
    (run / "config.json").write_text(json.dumps(config))
    (step,) = [s for s in summarise(run, thumbnails=False)["next"] if LARGER in s.command]
    words = shlex.split(step.command)
    assert words[1:3] == ["fit", "auto"]
    for flag, value in (
        ("--images", str(images)),
        ("--labels", str(table)),
        ("--unknown", "2"),
        ("--holdout", "0.25"),
        ("--out", f"{run}-2"),
        ("--model", LARGER),
    ):
        assert words[words.index(flag) + 1] == value
    assert main(["plan", *words[2:]]) == 0
