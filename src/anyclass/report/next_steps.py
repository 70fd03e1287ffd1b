"""What to do after a run: sentences and commands that can be pasted into a shell."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from anyclass.report.words import Json, plain

LARGER = "ViT-B-32/laion2b_s34b_b79k"
"""Model that is suggested in the place of the starter."""

LONGEST = 2000
"""Maximum number of characters of the options in a command."""


class Step(NamedTuple):
    """One suggestion."""

    advice: str
    """Sentence."""
    command: str
    """Command, quoted for a shell; empty where none can say it."""
    replace: str
    """Word in the command to put a folder or file in the place of; empty if there is none."""


def next_steps(run: Path, config: Json, metrics: Json, discovered: bool) -> list[Step]:
    """Suggest what to do next, the most useful first.

    Args:
        run: the run folder.
        config: the content of its `config.json`.
        metrics: the content of its `metrics.json`.
        discovered: whether classes were discovered.
    """
    here = str(run.resolve())
    of_images = config["images"] is not None
    source = "--images" if of_images else "--features"
    new = "NEW_IMAGES" if of_images else "NEW_FEATURES"
    labelled = "LABELLED_IMAGES" if of_images else "LABELLED_FEATURES"
    steps = []
    if discovered:
        table = Path(here, "classes.csv")
        advice = f"Name the discovered classes: edit the column “name” of {table}."
        steps += [_step(advice, ["rename", "--run", here])]
    if metrics.get("suspicious"):
        suspects = Path(here, "suspicious.csv")
        advice = f"Check the suspicious labels: correct the column “label” of {suspects}."
        steps += [_step(advice, _second_round(run, config, suspects))]
    table = Path(here, "predictions.csv")
    advice = (
        f"Correct labels: change the column “label” of {table}, or write yes in “confirmed” where "
        "a label is right. Rows that you leave alone stay predictions. Then fit again:"
    )
    steps += [_step(advice, _second_round(run, config, table))]
    if of_images:
        advice = "Or correct them in the browser, by keyboard, and train again from there."
        steps += [_step(advice, ["serve", "--run", here])]
        table = unused(Path(here).parent / "label_next.csv")
        advice = (
            "Or label the 30 images that would teach most: fill the column “label” of the table "
            f"that this writes, then fit again with --from and --labels {table}."
        )
        steps += [_step(advice, ["export", "--run", here, "--label-next", str(table)])]
    if metrics["adapted"] is None:
        advice = "Find out how often the labels are right, on labelled images in class folders."
        steps += [_step(advice, ["evaluate", "--run", here, source, labelled], labelled)]
    if config["model"] == "starter":
        steps += [_larger_model(run, config)]
    table = unused(Path(here).parent / "new_labels.csv")
    steps += [
        _step(
            "Label other images with this run.",
            ["predict", "--run", here, source, new, "--out", str(table)],
            new,
        )
    ]
    return steps


def _second_round(run: Path, config: Json, table: Path) -> list[str]:
    """Fit again from a run and its corrected table; the rest of the request comes from the run."""
    again = config.get("again") or {"method": ["auto"]}
    method = again["method"]
    if not _uses_labels(method[0]):
        method = ["auto"]  # a correction would change nothing
    start = ["--from", str(run.resolve()), "--labels", str(table)]
    return ["fit", *method, *start, "--out", str(free(run.resolve()))]


def _uses_labels(method: str) -> bool:
    """Whether labels change the result of a method; those of auto do."""
    if method in ("auto", "open-world"):
        return True
    from anyclass.methods import METHODS  # loads PyTorch

    kind = METHODS.get(method)
    return kind is None or bool(kind.info.uses_labels)


def _larger_model(run: Path, config: Json) -> Step:
    """The whole request again, with another model; a very long one by `--from`."""
    advice = "Use a larger model: the starter model is small. The model is downloaded once."
    again = config.get("again") or {"method": ["auto"], "options": []}
    options = again["options"]
    if not options or len(shlex.join(options)) > LONGEST:
        options = ["--from", str(run.resolve())]
    words = ["fit", *again["method"], *options, "--model", LARGER, "--out", str(free(run))]
    return _step(advice, words)


def unused(path: Path) -> Path:
    """A path, or one beside it if it exists."""
    return free(path) if path.exists() else path


def free(path: Path) -> Path:
    """A path beside another one that does not exist: NAME-2, NAME-3 ..."""
    path = path.resolve()
    number = 2
    while path.with_stem(f"{path.stem}-{number}").exists():
        number += 1
    return path.with_stem(f"{path.stem}-{number}")


def _step(advice: str, words: Sequence[str], replace: str = "") -> Step:
    """A step; without a command if a path in it has characters that cannot be shown."""
    command = shlex.join(["anyclass", *words])
    shown = plain(command, len(command))
    return Step(plain(advice, 600), command if shown == command else "", replace)
