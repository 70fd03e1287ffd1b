"""Results of commands as lines for people."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyclass.data.classes import plural
from anyclass.files import Json
from anyclass.report.next_steps import unused
from anyclass.run.baselines import BEFORE, FITTED, on_screen
from anyclass.run.columns import CROSS_FITTED, TRAINING
from anyclass.run.sentences import basis, decision, expectation, order_only, rounds

ADAPTED = {CROSS_FITTED: "adapted, cross-fitted", TRAINING: "adapted, training labels"}
"""What is scored -> name of the score of the classifier, if it is not on other labels."""

IMAGES = ("--images", "NEW_IMAGES")
"""Flag for a folder of other images."""


def fit_lines(result: Json, out: Any, of_features: bool = False) -> list[str]:
    """The scores of a fit, what its labels did, and where its files are."""
    more = ("--features", "NEW_FEATURES") if of_features else IMAGES
    return [*_scores(result), *_labels(result, out), *_files(out, more)]


def _labels(metrics: Json, out: Any) -> list[str]:
    """What labels did to the decision, since the earlier run, and which of them look wrong."""
    lines = rounds(metrics)
    if words := expectation(metrics):
        lines.append(f"expected  {words}")
    if why := order_only(metrics):
        lines.append(
            "scores    sort by them (column rank, 1 is the least sure), but do not read them as "
            f"probabilities: {why}"
        )
    if words := decision(metrics):
        lines.append(f"decision  {words}")
    if count := metrics.get("suspicious"):
        lines.append(
            f"suspect   {plural(count, 'label')} that other images contradict: {out}/suspicious.csv"
        )
    return lines


def demo_lines(result: Json) -> list[str]:
    """The scores of the demo, where its files are, and how to go on with one's own images."""
    own = ["fit", "auto", "--images", "YOUR_FOLDER", "--classes", "names.txt", "--out", "run"]
    now = f"your own  {_command(own)}"
    return [*_scores(result), f"images    {result['images']}", *_files(result["out"]), now]


def _scores(metrics: Json) -> list[str]:
    """The table of a fit: zero-shot, prompt ensemble, adapted; or why there is none."""
    names = {key: title.lower() for key, title in BEFORE.items()}
    names["adapted"] = ADAPTED.get(str(metrics.get("scored_on")), "adapted")
    lines = [f"warning: {warning}" for warning in metrics["warnings"]]
    lines.append(f"{plural(metrics['n'], 'image')}, {metrics['rejected']} rejected")
    if found := metrics.get("discovery"):
        counts = f"{plural(found['classes'], 'class')}, {found['labelled']} of them labelled"
        lines.append(f"{counts}; {found['used']} have 5 images or more")
    if metrics.get("classes_estimated"):
        lines.append(metrics["classes_estimated"]["why"])
    if metrics["why_null"]:
        return [*lines, metrics["why_null"]]
    rows = {name: metrics[key] for key, name in names.items() if metrics[key]}
    if metrics.get("majority"):
        rows["majority class"] = metrics["majority"]
    baselines = metrics["controls"]
    rows |= {on_screen(name): baselines[name] for name in FITTED if name in baselines}
    for name, row in rows.items():
        mean = f"mean per class {100 * row['mean_per_class']:5.1f} %"
        lines.append(f"{name:25} {100 * row['accuracy']:5.1f} %   {mean}")
    return [*lines, *filter(None, [basis(metrics)])]


def _files(out: Any, more: Sequence[str] = IMAGES) -> list[str]:
    """Files of a run, and what to do next."""
    new = _free("new_labels.csv")
    return [
        f"report    {out}/report.html",
        f"model     {out}/model",
        f"labels    {out}/predictions.csv",
        f"next      {_command(['predict', '--run', str(out), *more, '--out', new])}",
    ]


def _free(name: str) -> str:
    """A name in the working folder that is not taken: itself, or with a number."""
    return unused(Path(name)).name


def _command(words: Sequence[str]) -> str:
    """A command, quoted for a shell; words in capitals stand for a path of the user."""
    return shlex.join(["anyclass", *words])


def describe_lines(result: Json) -> list[str]:
    """How many images got a text, and the first of them."""
    counts = f"{plural(result['n'], 'image')}, {result['rejected']} rejected"
    if result.get("groups"):
        counts += f", {plural(result['groups'], 'group')}"
    if result["without_text"]:
        counts += f", {result['without_text']} without a text"
    first = [f"{row['file_name']}: {row['text']}" for row in result["first"]]
    return [counts, *first, f"texts: {result['out']}"]


def embed_lines(result: Json) -> list[str]:
    """What was written, and how to go on."""
    first = result["files"][0]
    counts = (
        f"{plural(result['n'], 'image')}, {result['rejected']} rejected; width {result['width']}"
    )
    if result["extra_width"]:
        counts += f", before the projection {result['extra_width']}"
    texts = [plural(result["classes"], "class text")] if result["classes"] else []
    lines = [counts if result["n"] else f"width {result['width']}", *texts]
    lines += [f"features  {first}"]
    lines += [f"names     {file}" for file in result["files"][1:]]
    if result["n"] and "://" not in first:
        known = [] if result["classes"] or result["labelled"] else ["--labels", "LABELS"]
        words = ["fit", "auto", "--features", first, *known, "--out", _free("run")]
        lines.append(f"next      {_command(words)}")
    return lines


def predict_lines(result: Json) -> list[str]:
    """How many images each class got."""
    lines = [f"{count:7d}  {name}" for name, count in sorted(result["classes"].items())]
    if result["unsure"]:
        lines.append(f"{result['unsure']:7d}  unsure, without a label")
    if result["rejected"]:
        lines.append(f"{result['rejected']:7d}  rejected")
    return [*lines, f"table: {result['out']}"]


def rename_lines(result: Json) -> list[str]:
    """What changed in the classes, and how to take it back."""
    if result["undone"] is not None:
        lines = [f"taken back: {line}" for line in _changes(result["undone"])]
    else:
        lines = _changes(result)
    changed = bool(lines)
    lines = lines or ["nothing changed"]
    run = str(Path(result["report"]).parent)
    again = ["rename", "--run", run]
    if result["nameless"]:
        lines.append(f"without a name: {', '.join(result['nameless'])}")
        if not changed:
            lines.append(f"name them in the column `name` of {run}/classes.csv, and repeat")
            lines.append(f"or take every suggested name: {_command([*again, '--accept-all'])}")
    lines.append(f"report: {result['report']}")
    if changed and result["undone"] is None:
        lines.append(f"take it back: {_command([*again, '--undo'])}")
    return lines


def _changes(result: Json) -> list[str]:
    """What an edit of classes changed."""
    lines = [f"{old} -> {new}" for old, new in result["renamed"].items()]
    for new, parts in result["merged"].items():
        others = [name for name in parts if name != new]
        lines.append(f"{' and '.join(others)} merged into {new}")
    for old, halves in result["split"].items():
        lines.append(f"{old} split into {' and '.join(halves)}")
    lines += [f"{name} rejected: its images have no label" for name in result["rejected"]]
    return lines + [f"{name} restored" for name in result["restored"]]


def serve_lines(result: Json) -> list[str]:
    """Corrections of a review, and how to train with them."""
    if result["labels"] is None:
        return ["no label was corrected"]
    again = ["anyclass", "fit", "auto", "--from", result["run"], "--labels", result["labels"]]
    return [
        f"{plural(result['corrections'], 'label')} corrected or confirmed: {result['labels']}",
        f"next  {shlex.join(again)} --out NEW_RUN",
    ]


def export_lines(result: Json) -> list[str]:
    """What was written for each target."""
    found = {name: about for name, about in result.items() if name != "notes"}
    lines = [
        f"{name.replace('_', '-'):13} {_exported(name, about)}" for name, about in found.items()
    ]
    return [*lines, *(f"note          {note}" for note in result["notes"])]


def _exported(target: str, about: Json) -> str:
    """One target in a line."""
    match target:
        case "onnx":
            worst = about["largest_difference"]["probabilities"]
            difference = f"differs from PyTorch by at most {worst:.1g} on {about['images']} images"
            return f"{about['file']}: {difference}"
        case "open_clip":
            worst = max(about["image_features"], about["text_features"])
            return f"{about['folder']}: features differ by at most {worst:.1g}"
        case "folders":
            links = f"{about['hard_links']} hard and {about['symbolic_links']} symbolic links"
            return f"{about['folder']}: {links}"
        case "label_studio":
            tasks = f"{about['tasks']} tasks, {about['annotated']} annotated"
            return f"{about['file']} and {about['config']}: {tasks}"
        case "fiftyone":
            return f"{about['file']}: {about['samples']} samples"
        case "label_next":
            return f"{about['file']}: {about['images']} images to label"
        case "cleanlab":
            return f"{about['folder']}: {about['images']} images, {about['classes']} classes"
        case _:
            return f"{about['url']}"
