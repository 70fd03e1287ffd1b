"""Results of commands as lines for people."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyclass.data.classes import plural
from anyclass.report.next_steps import free
from anyclass.run.columns import CROSS_FITTED, TRAINING
from anyclass.run.sentences import basis, decision, expectation, rounds

HALVES = {"base": 8, "new": 8, "harmonic_mean": 9}
"""Keys of labelled and named classes in the scores -> width of their column."""

ADAPTED = {CROSS_FITTED: "adapted, cross-fitted", TRAINING: "adapted, training labels"}
"""What is scored -> name of the score of the classifier, if it is not on other labels."""

IMAGES = ("--images", "NEW_IMAGES")
"""Flag for a folder of other images."""

Result = dict[str, Any]
"""What a command returns, and what `--json` prints."""


def plan_lines(result: Result) -> list[str]:
    """What a fit would do."""
    minutes = result["minutes"]
    disk = result["disk_mb"]
    return [
        f"images     {result['images']}, {result['labelled']} labelled",
        f"classes    {_kinds(result)}",
        f"method     {result['method']}",
        *(f"           {reason}" for reason in result["why"]),
        *(f"note       {remark}" for remark in result["remarks"]),
        f"work       {result['embeddings']:,} embeddings, {result['texts']:,} texts",
        "time       " + ("not known" if minutes is None else f"about {max(1, minutes):.0f} min"),
        "disk       " + ("not known" if disk is None else f"about {max(1, disk):.0f} MB of cache"),
        *_cost(result["language_model"]),
        *_audit(result["audit"]),
    ]


LISTED = 3
"""Maximum number of classes that `plan` prints; `--json` has all."""


def _audit(found: Result) -> list[str]:
    """What was found in the data, and where the files are listed."""
    lines = []
    for finding in found["findings"]:
        first, *further = finding["lines"]
        lines += [f"found      {first}", *(f"           {line}" for line in further)]
    checked = ", ".join(found["checked"])
    nothing = "" if found["findings"] else "nothing found in "
    if found["out"]:
        files = f"{found['out']}/audit.csv, {found['out']}/audit.json"
        return [*lines, f"audit      {nothing or 'of '}{checked}: {files}"]
    more = "pixels, copies of a photograph, wrong labels: --audit DIR"
    return [*lines, f"audit      {nothing or 'only '}{checked}; {more}"]


def _kinds(result: Result) -> str:
    """The classes, each with what is known of it: labels, or only a name."""
    about = {"labelled": "{labelled} labelled", "named": "named"}
    rows = result["classes"]
    shown = rows if len(rows) <= 2 * LISTED else rows[:LISTED]
    kinds = ", ".join(f"{row['name']} ({about[row['kind']].format(**row)})" for row in shown)
    if len(rows) > len(shown):
        kinds += f" ... and {len(rows) - len(shown)} more"
    known = [f"{len(rows)}: {kinds}"] if kinds else []
    unknown = result["unknown"]
    if unknown == "auto":
        known.append("unknown classes, their number not known")
    elif unknown:
        known.append(f"{unknown} unknown")
    return "; ".join(known)


def _cost(model: Result) -> list[str]:
    """What a language model will be asked, and what that costs."""
    if not model["calls"]:
        return ["questions  none to a language model"]
    minutes = model["minutes"]
    dollars = model["dollars"]
    return [
        f"questions  at most {model['calls']} to a language model, without those already in the "
        "response cache",
        f"tokens     about {model['tokens_in']} in, at most {model['tokens_out']} out",
        "asking     " + ("not known" if minutes is None else f"about {max(1, minutes):.0f} min"),
        f"sent       about {model['megabytes_sent']:.1f} MB to {model['sent_to']}"
        if model["sent_to"]
        else "sent       nothing leaves this machine",
        "price      " + ("not known" if dollars is None else f"about ${dollars:.2f}"),
    ]


def fit_lines(result: Result, out: Any, of_features: bool = False) -> list[str]:
    """The scores of a fit, what its labels did, and where its files are."""
    more = ("--features", "NEW_FEATURES") if of_features else IMAGES
    return [*_scores(result), *_labels(result, out), *_files(out, more)]


def _labels(metrics: Result, out: Any) -> list[str]:
    """What labels did to the decision, since the earlier run, and which of them look wrong."""
    lines = rounds(metrics)
    if words := expectation(metrics):
        lines.append(f"expected  {words}")
    if words := decision(metrics):
        lines.append(f"decision  {words}")
    if count := metrics.get("suspicious"):
        lines.append(
            f"suspect   {plural(count, 'label')} that other images contradict: {out}/suspicious.csv"
        )
    return lines


def demo_lines(result: Result) -> list[str]:
    """The scores of the demo, where its files are, and how to go on with one's own images."""
    own = ["fit", "auto", "--images", "YOUR_FOLDER", "--classes", "names.txt", "--out", "run"]
    now = f"your own  {_command(own)}"
    return [*_scores(result), f"images    {result['images']}", *_files(result["out"]), now]


def _scores(metrics: Result) -> list[str]:
    """The table of a fit: zero-shot, prompt ensemble, adapted; or why there is none."""
    names = {
        "zero_shot": "zero-shot",
        "zero_shot_ensemble": "zero-shot, 80 templates",
        "adapted": ADAPTED.get(str(metrics.get("scored_on")), "adapted"),
    }
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
    if metrics["controls"]:
        rows |= {name.replace("_", " "): row for name, row in metrics["controls"].items()}
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
    return free(Path(name)).name if Path(name).exists() else name


def _command(words: Sequence[str]) -> str:
    """A command, quoted for a shell; words in capitals stand for a path of the user."""
    return shlex.join(["anyclass", *words])


def describe_lines(result: Result) -> list[str]:
    """How many images got a text, and the first of them."""
    counts = f"{plural(result['n'], 'image')}, {result['rejected']} rejected"
    if result["without_text"]:
        counts += f", {result['without_text']} without a text"
    first = [f"{row['file_name']}: {row['text']}" for row in result["first"]]
    return [counts, *first, f"texts: {result['out']}"]


def embed_lines(result: Result) -> list[str]:
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


def predict_lines(result: Result) -> list[str]:
    """How many images each class got."""
    lines = [f"{count:7d}  {name}" for name, count in sorted(result["classes"].items())]
    if result["unsure"]:
        lines.append(f"{result['unsure']:7d}  unsure, without a label")
    if result["rejected"]:
        lines.append(f"{result['rejected']:7d}  rejected")
    return [*lines, f"table: {result['out']}"]


def evaluate_lines(result: Result) -> list[str]:
    """The accuracy of each class, then of all images."""
    lines = [f"warning: {warning}" for warning in result["warnings"]]
    for row in result["per_class"]:
        if row["accuracy"] is not None:
            lines.append(f"{100 * row['accuracy']:6.1f} %  {row['n']:6d}  {row['name']}")
    if result["rejected"]:
        lines.append(f"          {result['rejected']:6d}  rejected")
    lines += _discovered(result) if "assignment" in result else _known(result)
    return [*lines, *_sure(result)]


def _known(result: Result) -> list[str]:
    """Accuracies where every class has a name."""
    return [
        f"{100 * result['accuracy']:6.1f} %  {result['n']:6d}  all images",
        f"{100 * result['zero_shot_accuracy']:6.1f} %  {result['n']:6d}  all images, zero-shot",
        f"{100 * result['majority']['accuracy']:6.1f} %  {result['n']:6d}  all images, "
        "majority class",
        *(
            f"{100 * row['accuracy']:6.1f} %  {result['n']:6d}  all images, "
            f"{name.replace('_', ' ')}"
            for name, row in result["controls"].items()
        ),
        *_halves(result),
    ]


def _halves(result: Result) -> list[str]:
    """Labelled and named classes apart, where there are both."""
    spaces = {
        "sliced": "among the classes of the same kind",
        "mixed": "among all classes",
        "generalized": "among all classes, mean per class",
    }
    found = [name for name in spaces if name in result]
    lines = ["", "labelled    named    H-mean   (zero-shot)"] if found else []
    for name in found:
        row = result[name]
        now = " ".join(_percent(row[half], width) for half, width in HALVES.items())
        before = " ".join(_percent(row["zero_shot"][half], 1) for half in HALVES)
        lines.append(f"{now}   ({before})  {spaces[name]}")
    return lines


def _discovered(result: Result) -> list[str]:
    """Scores of discovered classes, and the true class assigned to each."""
    taken = [f"{ours} = {true}" for ours, true in result["assignment"].items() if true]
    rows = {"discovered": result, **result["controls"]}
    before = result["zero_shot_accuracy"]
    return [
        "",
        f"{'all':>7} {'known':>7} {'new':>7} {'known, by name':>15}",
        *(
            f"{_percent(row['all'])} {_percent(row['old'])} {_percent(row['new'])} "
            f"{_percent(row['old_fixed'], 15)}  {name.replace('_', ' ')}"
            for name, row in rows.items()
        ),
        f"{'-':>7} {'-':>7} {'-':>7} {_percent(before, 15)}  zero-shot among the known names",
        f"{plural(result['n'], 'image')}{_fitted(result)}; each class counts as the true class "
        "that it matches best, one to one",
        f"matches: {', '.join(taken)}",
        _calibration(result["calibration"]),
    ]


def _calibration(found: Result) -> str:
    """Whether scores are as high as the share of images that is right."""
    return (
        f"scores: mean {found['mean_score']:.1%} where {found['accuracy']:.1%} are right, "
        f"calibration error {found['error']:.1%}"
    )


def _fitted(result: Result) -> str:
    """Whether the run was fitted on the images that are scored."""
    return ", which the run was fitted on" if result["protocol"] == "transductive" else ""


def _percent(share: float | None, width: int = 7) -> str:
    """A share in per cent, right-aligned."""
    return "-".rjust(width) if share is None else f"{100 * share:{width}.1f}"


def _sure(result: Result) -> list[str]:
    """Scores of the confident images, where `--min-score` was given."""
    if "sure" not in result:
        return []
    sure = result["sure"]
    right = sure.get("accuracy", sure.get("all"))
    return [
        f"{_percent(right, 6)} %  {sure['n']:6d}  images with a score of "
        f"{sure['min_score']:g} or more, {sure['share']:.0%} of all"
    ]


def rename_lines(result: Result) -> list[str]:
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


def _changes(result: Result) -> list[str]:
    """What an edit of classes changed."""
    lines = [f"{old} -> {new}" for old, new in result["renamed"].items()]
    for new, parts in result["merged"].items():
        others = [name for name in parts if name != new]
        lines.append(f"{' and '.join(others)} merged into {new}")
    for old, halves in result["split"].items():
        lines.append(f"{old} split into {' and '.join(halves)}")
    lines += [f"{name} rejected: its images have no label" for name in result["rejected"]]
    return lines + [f"{name} restored" for name in result["restored"]]


def serve_lines(result: Result) -> list[str]:
    """Corrections of a review, and how to train with them."""
    if result["labels"] is None:
        return ["no label was corrected"]
    again = ["anyclass", "fit", "auto", "--from", result["run"], "--labels", result["labels"]]
    return [
        f"{plural(result['corrections'], 'label')} corrected or confirmed: {result['labels']}",
        f"next  {shlex.join(again)} --out NEW_RUN",
    ]


def export_lines(result: Result) -> list[str]:
    """What was written for each target."""
    found = {name: about for name, about in result.items() if name != "notes"}
    lines = [
        f"{name.replace('_', '-'):13} {_exported(name, about)}" for name, about in found.items()
    ]
    return [*lines, *(f"note          {note}" for note in result["notes"])]


def _exported(target: str, about: Result) -> str:
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
