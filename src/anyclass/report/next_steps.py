"""What to do after a run: sentences and commands."""

import shlex
from pathlib import Path

from anyclass.report.gallery import Json, plain


def next_steps(run: Path, config: Json, metrics: Json, discovered: bool) -> list[tuple[str, str]]:
    """Suggested next steps: a sentence and a command, quoted for a shell.

    Args:
        run: the run folder.
        config: the content of its `config.json`.
        metrics: the content of its `metrics.json`.
        discovered: whether classes were discovered.
    """
    source = "--images" if config["images"] else "--features"
    here = ["anyclass", "predict", "--run", str(run)]
    table = run / "predictions.csv"
    fit = ["anyclass", "fit", "auto", "--from", str(run)]
    again = ["--out", f"{run}-2"]
    steps = [("Label other images.", [*here, source, "NEW", "--out", "new.csv"])]
    if discovered:
        advice = f"Name the discovered classes in the column `name` of {run / 'classes.csv'}."
        steps += [(advice, ["anyclass", "rename", "--run", str(run)])]
    if metrics["adapted"] is None:
        advice = "Evaluate the classifier on labelled images, one folder per class."
        steps += [(advice, ["anyclass", "evaluate", "--run", str(run), source, "LABELLED"])]
    if metrics.get("suspicious"):
        suspects = run / "suspicious.csv"
        advice = f"Correct the column `label` of {suspects} and fit again."
        steps += [(advice, [*fit, "--labels", str(suspects), *again])]
    advice = (
        f"Correct the column `label` of {table}, write yes in `confirmed` where a label is right, "
        "and fit again. Rows that you leave alone stay predictions."
    )
    steps += [(advice, [*fit, "--labels", str(table), *again])]
    if config["model"] == "starter":
        advice = "Use a larger model: the starter model is small."
        steps += [(advice, [*fit, "--model", "ViT-B-32/laion2b_s34b_b79k", *again])]
    return [(plain(advice, 400), plain(shlex.join(command), 2000)) for advice, command in steps]
