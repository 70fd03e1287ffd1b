"""What to do after a run: sentences and commands that can be pasted into a shell."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from anyclass.files import Json
from anyclass.report.words import IGNORE_LABELS, plain

LARGER = "ViT-B-32/laion2b_s34b_b79k"
"""Model that is suggested in the place of the starter."""

LONGEST = 2000
"""Maximum number of characters of the options in a command."""


class NextStep(NamedTuple):
    """One suggestion."""

    advice: str
    """Sentence."""
    command: str
    """Command, quoted for a shell; empty where none can say it."""
    replace: str
    """Word in the command to put a folder or file in the place of; empty if there is none."""


def next_steps(run: Path, config: Json, metrics: Json, discovered: bool) -> list[NextStep]:
    """Suggest what to do next, the most useful first.

    Args:
        run: the run folder.
        config: the content of its `config.json`.
        metrics: the content of its `metrics.json`.
        discovered: whether classes were discovered.
    """
    of_images = config["images"] is not None
    steps = [_rename(run)] if discovered else []
    if metrics.get("suspicious"):
        steps.append(_check_labels(run, config))
    steps.append(_correct(run, config))
    if of_images:
        steps += [_serve(run), _label_next(run)]
    if metrics["adapted"] is None:
        steps.append(_evaluate(run, of_images))
    if config["model"] == "starter":
        steps.append(_larger_model(run, config))
    return [*steps, _predict(run, of_images)]


def _rename(run: Path) -> NextStep:
    """Name the discovered classes."""
    here = str(run.resolve())
    advice = f"Name the discovered classes: edit the column “name” of {Path(here, 'classes.csv')}."
    return _step(advice, ["rename", "--run", here])


def _check_labels(run: Path, config: Json) -> NextStep:
    """Correct the suspicious labels and fit again."""
    table = run.resolve() / "suspicious.csv"
    advice = f"Check the suspicious labels: correct the column “label” of {table}."
    return _step(advice, _second_round(run, config, table))


def _correct(run: Path, config: Json) -> NextStep:
    """Correct predictions in their table and fit again."""
    table = run.resolve() / "predictions.csv"
    advice = (
        f"Correct labels: change the column “label” of {table}, or write yes in “confirmed” where "
        "a label is right. Rows that you leave alone stay predictions. Then fit again:"
    )
    return _step(advice, _second_round(run, config, table))


def _serve(run: Path) -> NextStep:
    """Correct predictions on the review page."""
    advice = "Or correct them in the browser, by keyboard, and train again from there."
    return _step(advice, ["serve", "--run", str(run.resolve())])


def _label_next(run: Path) -> NextStep:
    """Label the images that would teach most."""
    here = run.resolve()
    table = unused(here.parent / "label_next.csv")
    advice = (
        "Or label the 30 images that would teach most: fill the column “label” of the table "
        f"that this writes, then fit again with --from and --labels {table}."
    )
    return _step(advice, ["export", "--run", str(here), "--label-next", str(table)])


def _evaluate(run: Path, of_images: bool) -> NextStep:
    """Score the run on labelled images or features."""
    advice = "Find out how often the labels are right, on labelled images in class folders."
    source = "--images" if of_images else "--features"
    labelled = "LABELLED_IMAGES" if of_images else "LABELLED_FEATURES"
    return _step(advice, ["evaluate", "--run", str(run.resolve()), source, labelled], labelled)


def _predict(run: Path, of_images: bool) -> NextStep:
    """Label other images or features."""
    here = run.resolve()
    table = unused(here.parent / "new_labels.csv")
    source = ["--images", "NEW_IMAGES"] if of_images else ["--features", "NEW_FEATURES"]
    words = ["predict", "--run", str(here), *source, "--out", str(table)]
    return _step("Label other images with this run.", words, source[1])


def _second_round(run: Path, config: Json, table: Path) -> list[str]:
    """Fit again from a run and its corrected table; the rest of the request comes from the run."""
    again = config.get("again") or {"method": ["auto"]}
    method = again["method"]
    if method[0] in IGNORE_LABELS:
        method = ["auto"]  # a correction would change nothing
    start = ["--from", str(run.resolve()), "--labels", str(table)]
    return ["fit", *method, *start, "--out", str(free(run.resolve()))]


def _larger_model(run: Path, config: Json) -> NextStep:
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


def _step(advice: str, words: Sequence[str], replace: str = "") -> NextStep:
    """A step; without a command if a path in it has characters that cannot be shown."""
    command = shlex.join(["anyclass", *words])
    shown = plain(command, len(command))
    return NextStep(plain(advice, 600), command if shown == command else "", replace)
