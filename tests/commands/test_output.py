"""Results as lines for people: one thing is no plural, and every command can be pasted."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from anyclass.commands.output import embed_lines, fit_lines, rename_lines, serve_lines

NOTHING: dict[str, Any] = {"renamed": {}, "merged": {}, "split": {}, "rejected": [], "restored": []}


def test_fit_lines__of_one_image_and_one_label() -> None:
    metrics: dict[str, Any] = {"n": 1, "rejected": 0, "warnings": [], "suspicious": 1, "scored": 1}
    metrics |= {"discovery": {"classes": 1, "labelled": 0, "used": 0}, "why_null": "no labels"}
    lines = fit_lines(metrics, Path("run"))
    assert "1 image, 0 rejected" in lines
    assert "1 class, 0 of them labelled; 0 have 5 images or more" in lines
    assert (
        "scores    sort by them (column rank, 1 is the least sure), but do not read them as "
        "probabilities: no label has checked them" in lines
    )
    assert "suspect   1 label that other images contradict: run/suspicious.csv" in lines


def test_rename_lines__say_how_to_name_classes_where_nothing_was_done() -> None:
    result = NOTHING | {
        "undone": None,
        "nameless": ["discovered 1"],
        "report": "my run/report.html",
    }
    assert rename_lines(result) == [
        "nothing changed",
        "without a name: discovered 1",
        "name them in the column `name` of my run/classes.csv, and repeat",
        "or take every suggested name: anyclass rename --run 'my run' --accept-all",
        "report: my run/report.html",
    ]


def test_rename_lines__how_to_take_it_back_can_be_pasted() -> None:
    result = NOTHING | {"renamed": {"discovered 1": "cat"}, "undone": None, "nameless": ["x"]}
    lines = rename_lines(result | {"report": "my run/report.html"})
    assert lines[:2] == ["discovered 1 -> cat", "without a name: x"]
    assert lines[-1] == "take it back: anyclass rename --run 'my run' --undo"
    words = shlex.split(lines[-1].partition(": ")[2])
    assert words == ["anyclass", "rename", "--run", "my run", "--undo"]


def test_serve_lines__of_one_correction() -> None:
    lines = serve_lines({"labels": "my labels.csv", "corrections": 1, "run": "run"})
    assert lines[0] == "1 label corrected or confirmed: my labels.csv"
    assert lines[1] == "next  anyclass fit auto --from run --labels 'my labels.csv' --out NEW_RUN"


@pytest.mark.parametrize(
    ("classes", "labelled", "known"), [(2, 0, []), (0, 3, []), (0, 0, ["--labels", "LABELS"])]
)
def test_embed_lines__go_on_with_what_the_file_knows_of_classes(
    classes: int, labelled: int, known: list[str]
) -> None:
    result = {"n": 5, "rejected": 0, "width": 3, "extra_width": 0, "files": ["x 1.npz"]}
    lines = embed_lines(result | {"classes": classes, "labelled": labelled})
    words = ["anyclass", "fit", "auto", "--features", "x 1.npz", *known, "--out", "run"]
    assert shlex.split(lines[-1]) == ["next", *words]
