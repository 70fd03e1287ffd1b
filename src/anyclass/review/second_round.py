"""The second round: what a run is trained again with, and what that changed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from anyclass.data import Classes
from anyclass.files import MANIFEST, Json, read_json, write_json
from anyclass.review.catalogue import Catalogue
from anyclass.run.content import read_parquet
from anyclass.run.folder import REVIEW


def class_options(catalogue: Catalogue, corrections: Mapping[str, str]) -> list[str]:
    """Options of a fit for discovered classes that now have labels, and for names in no list.

    Args:
        catalogue: the run that is trained again.
        corrections: label of each corrected image; empty if it was taken back.
    """
    config = read_json(catalogue.run / "config.json")
    used = {label for label in corrections.values() if label}
    used |= {name for name in catalogue.columns["true_label"] if name}
    classes = catalogue.classes
    options = []
    if config.get("unknown"):
        unknown = {classes.names[c] for c, k in enumerate(classes.kinds) if k == "unknown"}
        options += ["--unknown", str(len(unknown - used - set(classes.rejected)))]
    given = config.get("classes")
    if given is not None:
        listed = Classes.read(given)
        more = sorted(used - set(listed.names))
        if more:
            path = catalogue.run / REVIEW / "classes.json"
            prompts = zip(listed.names, listed.all_prompts, strict=True)
            rows: list[Json] = [{"name": name, "prompts": some} for name, some in prompts]
            write_json(path, [*rows, *({"name": name} for name in more)])
            options += ["--classes", str(path)]
    return options


def next_run(run: Path) -> Path:
    """Folder for the next round beside a run: `run_2`, `run_3` ..., the first that is free."""
    run = run.absolute()
    stem = run.name
    number = 2
    if found := re.fullmatch(r"(.+)_(\d{1,4})", run.name):
        stem = found[1]
        number = int(found[2]) + 1
    while (run.parent / f"{stem}_{number}").exists():
        number += 1
    return run.parent / f"{stem}_{number}"


def before_after(old: Path, new: Path) -> Json:
    """Compare two runs: labels that changed, scores, and accuracies on fair labels.

    Returns:
        `images`: images that both predicted, `changed`: those with another label now, `score`: mean
        scores before and after, `labels`: numbers of labels kept and new, `unseen` and
        `corrected`: accuracies, as of `compare_rounds`, `accuracy`: those of each run on its own
        labels.
    """
    before = _predicted(old)
    after = _predicted(new)
    both = [file for file in before if file in after]
    changed = sum(before[file][0] != after[file][0] for file in both)
    scores_before = [before[file][1] for file in both]
    scores_after = [after[file][1] for file in both]
    metrics = [read_json(run / "metrics.json") for run in (old, new)]
    rounds = metrics[1].get("second_round") or {}
    return {
        "images": len(both),
        "changed": changed,
        "score": {"before": _mean(scores_before), "after": _mean(scores_after)},
        "labels": {"kept": rounds.get("kept"), "new": rounds.get("new")},
        "unseen": rounds.get("unseen"),
        "corrected": rounds.get("corrected"),
        "accuracy": {"before": _accuracy(metrics[0]), "after": _accuracy(metrics[1])},
    }


def is_finished(run: Path) -> bool:
    """Whether a run folder is complete."""
    return (run / MANIFEST).is_file()


def _predicted(run: Path) -> dict[str, tuple[str, float]]:
    """File -> label and score of the images that a run predicted."""
    table = read_parquet(
        run / "predictions.parquet", columns=["file_name", "label", "score", "status"]
    )
    columns = table.to_pydict()
    rows = zip(*columns.values(), strict=True)
    return {file: (label, score) for file, label, score, status in rows if status == "ok"}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _accuracy(metrics: Json) -> Json | None:
    """Accuracy on the labels of a run, and their number; None without labels."""
    scores = metrics.get("adapted")
    if not scores or scores.get("accuracy") is None:
        return None
    return {"accuracy": scores["accuracy"], "n": scores["n"]}
