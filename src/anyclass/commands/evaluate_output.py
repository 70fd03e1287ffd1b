"""The result of `evaluate` as lines for people."""

from anyclass.data.classes import plural
from anyclass.files import Json
from anyclass.run.baselines import LINEAR_PROBE, on_screen

HALVES = {"base": 8, "new": 8, "harmonic_mean": 9}
"""Keys of labelled and named classes in the scores -> width of their column."""


def evaluate_lines(result: Json) -> list[str]:
    """The accuracy of each class, then of all images."""
    lines = [f"warning: {warning}" for warning in result["warnings"]]
    for row in result["per_class"]:
        if row["accuracy"] is not None:
            lines.append(f"{100 * row['accuracy']:6.1f} %  {row['n']:6d}  {row['name']}")
    if result["rejected"]:
        lines.append(f"          {result['rejected']:6d}  rejected")
    lines += _discovered(result) if "assignment" in result else _known(result)
    return [*lines, *_sure(result)]


def _known(result: Json) -> list[str]:
    """Accuracies where every class has a name."""
    return [
        f"{100 * result['accuracy']:6.1f} %  {result['n']:6d}  all images",
        f"{100 * result['zero_shot_accuracy']:6.1f} %  {result['n']:6d}  all images, zero-shot",
        f"{100 * result['majority']['accuracy']:6.1f} %  {result['n']:6d}  all images, "
        "majority class",
        *_probe(result),
        *_halves(result),
    ]


def _probe(result: Json) -> list[str]:
    """Accuracy of the linear probe, where the run has one."""
    row = result["controls"].get(LINEAR_PROBE)
    if row is None:
        return []
    return [
        f"{100 * row['accuracy']:6.1f} %  {result['n']:6d}  all images, {on_screen(LINEAR_PROBE)}"
    ]


def _halves(result: Json) -> list[str]:
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


def _discovered(result: Json) -> list[str]:
    """Scores of discovered classes, and the true class assigned to each."""
    taken = [f"{ours} = {true}" for ours, true in result["assignment"].items() if true]
    rows = {"discovered": result, **result["controls"]}
    before = result["zero_shot_accuracy"]
    return [
        "",
        f"{'all':>7} {'known':>7} {'new':>7} {'known, by name':>15}",
        *(
            f"{_percent(row['all'])} {_percent(row['old'])} {_percent(row['new'])} "
            f"{_percent(row['old_fixed'], 15)}  {on_screen(name)}"
            for name, row in rows.items()
        ),
        f"{'-':>7} {'-':>7} {'-':>7} {_percent(before, 15)}  zero-shot among the known names",
        f"{plural(result['n'], 'image')}{_fitted(result)}; each class counts as the true class "
        "that it matches best, one to one",
        f"matches: {', '.join(taken)}",
        _calibration(result["calibration"]),
    ]


def _calibration(found: Json) -> str:
    """Whether scores are as high as the share of images that is right."""
    return (
        f"scores: mean {found['mean_score']:.1%} where {found['accuracy']:.1%} are right, "
        f"calibration error {found['error']:.1%}"
    )


def _fitted(result: Json) -> str:
    """Whether the run was fitted on the images that are scored."""
    return ", which the run was fitted on" if result["protocol"] == "transductive" else ""


def _percent(share: float | None, width: int = 7) -> str:
    """A share in per cent, right-aligned."""
    return "-".rjust(width) if share is None else f"{100 * share:{width}.1f}"


def _sure(result: Json) -> list[str]:
    """Scores of the confident images, where `--min-score` was given."""
    if "sure" not in result:
        return []
    sure = result["sure"]
    right = sure.get("accuracy", sure.get("all"))
    return [
        f"{_percent(right, 6)} %  {sure['n']:6d}  images with a score of "
        f"{sure['min_score']:g} or more, {sure['share']:.0%} of all"
    ]
