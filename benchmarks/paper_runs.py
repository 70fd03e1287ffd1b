"""Runs of the papers' tables: a JSON file for each method, set, model and seed.

A run whose file is there is skipped, so that a table grows over days and machines. `table.py` makes
the tables.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from latteclip import silent
from validation import selected

from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.errors import AnyclassError
from anyclass.features.store import FeatureStore
from anyclass.files import atomic_write
from anyclass.methods import Method
from anyclass.run.predict import predict_all
from anyclass.run.scoring import compare

Read = TypeVar("Read")
"""How a set is read."""

RESULTS = Path(__file__).parent / "results" / "papers"
"""Folder of the results: a folder for each table."""


SELECTED = ("alpha", "beta")
"""Facts of a fit that are kept with its scores."""


@dataclass(frozen=True)
class Run:
    """One fit of a table."""

    method: str
    """Row of the table."""
    dataset: str
    """Name of the image set."""
    model: str
    """Id of the base model."""
    seed: int
    """Random seed."""

    def path(self, folder: Path) -> Path:
        """File of the result."""
        parts = (self.method, self.dataset, self.model, str(self.seed))
        name = "--".join(parts)
        safe = "".join(c if c.isalnum() or c in "-+." else "_" for c in name)
        return folder / f"{safe}.json"


def once(run: Run, folder: Path, score: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Result of a run, computed only if its file is missing.

    Args:
        run: what is fitted.
        folder: of the table's results.
        score: fits and scores, in percent. An error of the fit is kept as its result.
    """
    path = run.path(folder)
    if path.is_file():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    start = time.perf_counter()
    try:
        found = score()
    except AnyclassError as stopped:
        found = {"stopped": str(stopped)}
    seconds = round(time.perf_counter() - start, 1)
    result = {**vars(run), **found, "seconds": seconds}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result), flush=True)
    return result


def run_rows(
    asked: argparse.Namespace,
    table: str,
    dataset: str,
    score: Callable[[str, int], dict[str, Any]],
    title: Callable[[str], str] = str,
) -> None:
    """Run what is missing of one set: each method with each seed.

    Args:
        asked: the flags of `arguments`.
        table: name of the table.
        dataset: name of the set.
        score: fits and scores a method with a seed.
        title: name of a method's row in the table.
    """
    for row in asked.methods:
        for seed in asked.seeds:
            run = Run(title(row), dataset, asked.model, seed)
            once(run, asked.out / table, partial(score, row, seed))


def fitted_scores(
    clip: Backbone,
    how: Method,
    train: ImageDataset,
    test: ImageDataset,
    seed: int,
    ensemble: bool = False,
    val: ImageDataset | None = None,
) -> dict[str, Any]:
    """Fit and score on test images, with zero-shot beside: see `run.scoring.compare`.

    Args:
        clip: the base model.
        how: the method.
        train: training images.
        test: test images.
        seed: random seed.
        ensemble: whether zero-shot with the prompt ensemble is scored as well.
        val: images of the labelled classes by which alpha and beta are selected (`validation.py`).
    """
    found = how.fit(FeatureStore(clip, train), silent, seed=seed)
    found = found if val is None else selected(found, val)
    seen = predict_all(FeatureStore(clip, test), found, silent, prompt_ensemble=ensemble)
    metrics = found.record.metrics
    chosen_values = {key: metrics[key] for key in SELECTED if key in metrics}
    return compare(test.labels, seen, found.classes) | {"selected": chosen_values}


def arguments(doc: str, methods: Sequence[str], paper_model: str) -> argparse.ArgumentParser:
    """The flags that all tables have."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the image sets")
    parser.add_argument("--model", default="starter", help=f"base model (paper: {paper_model})")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--sets", nargs="+", help="image sets; default: all that are there")
    parser.add_argument("--methods", nargs="+", default=list(methods), choices=list(methods))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="random seeds")
    parser.add_argument(
        "--suite",
        choices=("paper", "open"),
        default="paper",
        help="the papers' sets; or also every folder with train and test",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser


def chosen(asked: Sequence[str] | None, there: dict[str, Read]) -> dict[str, Read]:
    """The sets to run: those asked for, or all that are there."""
    if asked is None:
        if not there:
            raise SystemExit("no image set is there: see paper_sets.py for the folders")
        return there
    missing = [name for name in asked if name not in there]
    if missing:
        raise SystemExit(f"not there: {', '.join(missing)}; there are {', '.join(there) or 'none'}")
    return {name: there[name] for name in asked}


def backbone(asked: argparse.Namespace) -> Backbone:
    """Load the base model."""
    return Backbone.load(asked.model, asked.device)


def percent(value: float | None) -> float | None:
    """Per cent with two decimals."""
    return None if value is None else round(100 * value, 2)
