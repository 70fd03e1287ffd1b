"""What `OpenWorldClassifier` gains over published baselines, on features of real images.

    python benchmarks/open_world.py --features DIR [DIR ...] [--only 1 2] [--sets caltech72 dogs]

DIR holds feature files (`feature_sets.py`, which also makes them from image folders: `--sets NAME`
takes a set of your own through all situations). Every method is fitted on the training split and
scored on the test split: means and standard deviations over seeds, which draw the labels, the
classes that are labelled, named or unknown, and for `random100` the classes. Nothing is chosen on
test labels. Results of the baselines are kept in `--cache`: delete that file after a change of a
baseline.

    1  names only                                accuracy
    2  k labels for every class                  accuracy
    3  4 labels for half, names for the rest     H: labelled and named classes among all
    4  labels for half, the rest unknown         clustering accuracy: all, old, new
    5  the same, number of classes unknown       and the estimated number
    6  names for half, no label, rest unknown    clustering accuracy: all, old, new
    7  a third each labelled, named, unknown     harmonic mean of the three parts
    8  expected calibration error                of those above that are measured as well
    9  half of the classes left out at fit       AUROC of the score "none of the classes"
    10 seconds and memory                        of fits in fresh processes (open_world_speed.py)
    11 names only, few unlabelled rows           accuracy; `max_unlabelled` a half, 1/4, 1/8
    12 half unknown, few unlabelled rows         clustering accuracy: all, old, new

In 4 to 6, "all" matches predicted to true classes one to one over all test images. In 7, labelled
and named classes keep their identity, and clusters are matched to unknown classes. In 3 and 7 the
labelled classes have names as well; in 4 and 5 they have none, except in a column of its own.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import feature_sets as sets
import numpy as np
import torch
from discovery_baselines import CLUSTERING, COUNTING, NAMED_AND_UNKNOWN, OUTLIERS, THIRDS
from feature_baselines import FEW_SHOT, HALF, NAMES_ONLY, Method
from feature_sets import FeatureSet, Task
from open_world_metrics import accuracy, auroc, clusters, counted, parts
from open_world_speed import speed_table
from result_tables import Metrics, Results, table
from ship_companions import SHIP

Count = int | Literal["auto"]
"""Number of unknown classes, or that it is to be estimated."""

OURS = "open-world"
"""Column of the estimator."""

GIVEN = f"{OURS}, labelled rows alone"
"""The estimator without the unlabelled rows."""

WITHOUT = f"{OURS}, without nouns"
"""The estimator without the texts of other nouns."""

CALIBRATION = 8
"""Number of the summary of calibration."""

SPEED = 10
"""Number of the table of seconds and memory, which needs no feature files."""

IMAGENET = ("random100", "dogs", "imagenet1000")
STARTER = ("clothing", "grocery", "cifar10")
WITH_TEXT = ("caltech72", *IMAGENET, *STARTER)
WITHOUT_TEXT = ("caltech100", "flowers102", "aircraft100", "dtd47")

ONE_SEED = {"imagenet1000"}
"""Sets with a single draw of labels, for time."""

SHOTS = (1, 2, 4, 8, 16)
"""k of situation 2; sets of ImageNet classes have five training rows per class: 1, 2, 4."""


@dataclass(frozen=True)
class Situation:
    """What is known of the classes, and what methods are measured by."""

    title: str
    """Heading of its tables."""
    names: Sequence[str]
    """Sets."""
    task: Callable[[FeatureSet, int, int], Task]
    """From set, k and seed to what is known."""
    baselines: Mapping[str, Method]
    """Baselines by name."""
    ours: Mapping[str, Method]
    """The estimator and its variants by name."""
    measure: Callable[[Task, np.ndarray], Metrics]
    """Figures of an answer."""
    metrics: Sequence[str]
    """Figures to show, a table each."""
    shots: Sequence[int] = (0,)
    """Values of k."""
    named: bool = False
    """Whether sets without class texts are left out."""


def estimator(
    task: Task,
    unknown: Count = 0,
    given: bool = False,
    text: bool = True,
    nouns: bool = True,
    part: int | None = None,
) -> Any:
    """The fitted estimator.

    Args:
        task: what is known.
        unknown: number of unknown classes, or "auto".
        given: fit on the labelled rows alone.
        text: use the names of the known classes, if the set has any.
        nouns: use the texts of other nouns, if the set has any.
        part: learn from one in so many unlabelled rows; None: from all.
    """
    from anyclass.estimators.open_world import OpenWorldClassifier

    data = task.data
    rows = task.y >= 0 if given else np.ones(len(task.y), dtype=bool)
    class_text = np.full((task.known, data.train_x.shape[1]), np.nan, np.float32)
    if text and task.text is not None:
        class_text = task.text
    h = None if data.train_h is None else data.train_h[rows]
    most = None if part is None else int((task.y < 0).sum()) // part
    classifier = OpenWorldClassifier(unknown, random_state=task.seed, max_unlabelled=most)
    return classifier.fit(
        data.train_x[rows],
        task.y[rows],
        class_text=class_text,
        logit_scale=data.scale,
        extra=h,
        negative_text=data.negatives if nouns else None,
    )


def probabilities(task: Task, unknown: Count | None = None, **how: Any) -> np.ndarray:
    """Probabilities of the test images; as many unknown classes as there are, unless given."""
    count = task.unknown if unknown is None else unknown
    fitted = estimator(task, count, **how)
    columns = np.asarray(fitted.predict_proba(task.data.test_x, extra=task.data.test_h))
    table = np.zeros_like(columns)
    table[:, np.asarray(fitted.classes_)] = columns
    return table


def outlier_score(task: Task, nouns: bool = True) -> np.ndarray:
    """Score of the test images: high for none of the known classes."""
    fitted = estimator(task, nouns=nouns)
    return np.asarray(fitted.outlier_score(task.data.test_x, extra=task.data.test_h))


PARTS = {f"{OURS}, 1/{n} of the unlabelled rows": n for n in (2, 4, 8)}
"""Variants that learn from one in so many unlabelled rows."""

SITUATIONS = {
    1: Situation(
        "Names only",
        ("caltech72", "random100", "dogs", "dogs-single", "imagenet1000", *STARTER),
        lambda data, k, seed: sets.names_only(data, seed),
        NAMES_ONLY,
        {OURS: Method(probabilities)},
        accuracy,
        ("accuracy", "ece"),
        named=True,
    ),
    2: Situation(
        "k labels for every class",
        (*WITH_TEXT, *WITHOUT_TEXT),
        sets.few_shot_labels,
        FEW_SHOT,
        {OURS: Method(probabilities), GIVEN: Method(partial(probabilities, given=True))},
        accuracy,
        ("accuracy", "ece"),
        SHOTS,
    ),
    3: Situation(
        "4 labels for half of the classes, names for the rest",
        WITH_TEXT,
        sets.half_labels,
        HALF | SHIP,
        {OURS: Method(probabilities)},
        parts,
        ("H", "labelled", "named", "ece"),
        (4,),
        named=True,
    ),
    4: Situation(
        "Labels for half of the classes, the rest unknown, number given",
        (*WITHOUT_TEXT, *STARTER),
        lambda data, k, seed: sets.gcd_labels(data, seed),
        CLUSTERING,
        {
            OURS: Method(partial(probabilities, text=False)),
            f"{OURS}, with names": Method(probabilities, "text"),
        },
        clusters,
        ("all", "old", "new"),
    ),
    5: Situation(
        "Labels for half of the classes, the rest unknown, number unknown",
        (*WITHOUT_TEXT, *STARTER),
        lambda data, k, seed: sets.gcd_labels(data, seed),
        COUNTING,
        {OURS: Method(partial(probabilities, unknown="auto", text=False))},
        counted,
        ("all", "k", "factor"),
    ),
    6: Situation(
        "Names for half of the classes, no label, the rest unknown, number given",
        ("caltech72", "random100", "dogs", *STARTER),
        lambda data, k, seed: sets.half_names(data, seed),
        NAMED_AND_UNKNOWN,
        {
            OURS: Method(probabilities),
            WITHOUT: Method(partial(probabilities, nouns=False), "negatives"),
        },
        clusters,
        ("all", "old", "new"),
        named=True,
    ),
    7: Situation(
        "A third each labelled, named and unknown, number given",
        ("caltech72", "random100", "dogs", *STARTER),
        lambda data, k, seed: sets.thirds(data, seed),
        THIRDS,
        {
            OURS: Method(probabilities),
            WITHOUT: Method(partial(probabilities, nouns=False), "negatives"),
        },
        parts,
        ("H", "labelled", "named", "unknown"),
        named=True,
    ),
    9: Situation(
        'Half of the classes left out at fit: AUROC of the score "none of the classes"',
        ("caltech72", "random100", "dogs", *STARTER, *WITHOUT_TEXT),
        lambda data, k, seed: sets.left_out(data, seed),
        OUTLIERS,
        {
            OURS: Method(outlier_score),
            WITHOUT: Method(partial(outlier_score, nouns=False), "negatives"),
        },
        auroc,
        ("auroc",),
    ),
    11: Situation(
        "Names only, few of the unlabelled rows",
        ("caltech72", "dogs"),
        lambda data, k, seed: sets.names_only(data, seed),
        {},
        {OURS: Method(probabilities)}
        | {name: Method(partial(probabilities, part=n)) for name, n in PARTS.items()},
        accuracy,
        ("accuracy",),
    ),
    12: Situation(
        "Labels for half of the classes, the rest unknown, few of the unlabelled rows",
        ("flowers102", "dtd47"),
        lambda data, k, seed: sets.gcd_labels(data, seed),
        {},
        {OURS: Method(partial(probabilities, text=False))}
        | {name: Method(partial(probabilities, text=False, part=n)) for name, n in PARTS.items()},
        clusters,
        ("all", "old", "new"),
    ),
}
"""What is measured, by number."""


class Row(NamedTuple):
    """A row of the tables of a situation."""

    label: str
    """Set, and k if there are several."""
    key: str
    """Its name in the results."""
    kind: str
    """The row of means it belongs to."""


def measure(number: int, asked: argparse.Namespace, known: Results, fresh: Results) -> list[Row]:
    """Fit and score all methods of a situation; sets without a file are left out."""
    situation = SITUATIONS[number]
    rows = []
    for name, k in _columns(situation, asked.sets):
        suffix = f", k = {k}" if len(situation.shots) > 1 else ""
        row = ""
        for seed in range(1 if name in ONE_SEED else asked.seeds):
            try:
                data = sets.load(name, *asked.features, seed=seed)
            except FileNotFoundError as error:
                print(f"{name} is left out: {error}", flush=True)
                break
            if situation.named and data.text is None:
                break
            kind = "without text" if data.text is None else "with text"
            row = f"{number} {name}{suffix}"
            _fit_all(situation, situation.task(data, k, seed), row, asked, known, fresh)
        if row:
            rows.append(Row(f"{name}{suffix}", row, f"mean, {kind}{suffix}"))
    return rows


def _columns(situation: Situation, chosen: Sequence[str] | None) -> Iterator[tuple[str, int]]:
    """Sets and values of k; sets of one's own take part in every situation."""
    own = [name for name in chosen or () if name not in EVERY]
    for name in (*situation.names, *own):
        for k in situation.shots:
            if (not chosen or name in chosen) and (k <= 4 or name not in IMAGENET):
                yield name, k


def _fit_all(
    situation: Situation,
    task: Task,
    row: str,
    asked: argparse.Namespace,
    known: Results,
    fresh: Results,
) -> None:
    """Fit and score all methods on one task; baselines of the cache are not fitted again."""
    for method, baseline in situation.baselines.items():
        if not baseline.applies(task.data):
            continue
        found = known.get(row, method, task.seed)
        if found is None and method in SHIP and not asked.ship:
            continue
        if found is None:
            found = _scored(situation, task, row, method, baseline.run)
            known.put(row, method, task.seed, found)
            known.write(asked.cache)
        fresh.put(row, method, task.seed, found)
    if asked.baselines_only:
        return
    for method, variant in situation.ours.items():
        if variant.applies(task.data):
            found = _scored(situation, task, row, method, variant.run)
            fresh.put(row, method, task.seed, found)


def _scored(
    situation: Situation, task: Task, row: str, method: str, run: Callable[[Task], np.ndarray]
) -> Metrics:
    """Figures and seconds of one fit."""
    start = time.perf_counter()
    answer = run(task)
    seconds = round(time.perf_counter() - start, 2)
    figures = {key: round(value, 5) for key, value in situation.measure(task, answer).items()}
    first = figures[situation.metrics[0]]
    print(f"{row} seed {task.seed} {method}: {100 * first:.1f}, {seconds} s", flush=True)
    return figures | {"seconds": seconds}


def report(number: int, rows: Sequence[Row], results: Results) -> str:
    """Tables of a situation."""
    situation = SITUATIONS[number]
    methods = [*situation.baselines, *situation.ours]
    text = [f"## {number}. {situation.title}"]
    for metric in situation.metrics:
        ece = metric in ("ece", "k", "factor")
        labels = {row.label: row.key for row in rows}
        shown = table(results, labels, methods, metric, "" if ece else OURS, _means(rows), ece)
        text.append(f"{TITLES.get(metric, metric)}\n\n{shown}")
    text.append(gaps(results, rows, situation))
    return "\n\n".join(text)


TITLES = {
    "ece": "Expected calibration error, points (lower is better)",
    "k": "Estimated number of classes",
    "factor": "Estimated to true number of classes or the inverse, whichever is above 1",
}
"""Headings of figures that are not called by their name."""


def _means(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Rows of means, with the rows that they average."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.kind, []).append(row.key)
    return found


EVERY = {name for situation in SITUATIONS.values() for name in situation.names}
"""Sets that the situations name."""


def calibration_report(rows: Mapping[int, Sequence[Row]], results: Results) -> str:
    """Situation 8: expected calibration error, means over sets."""
    means = {
        f"{number}. {SITUATIONS[number].title}: {name}": several
        for number in rows
        for name, several in _means(rows[number]).items()
    }
    shown = table(
        results, {}, ["zero-shot", "logistic regression", OURS, GIVEN], "ece", "", means, True
    )
    return f"## 8. {TITLES['ece']}\n\n{shown}"


def gaps(results: Results, rows: Sequence[Row], situation: Situation) -> str:
    """Least and mean difference of the estimator to the best baseline, and to zero-shot."""
    metric = situation.metrics[0]
    lines = []
    for other in ("best baseline", "zero-shot"):
        found: dict[str, float] = {}
        for label, row, _ in rows:
            ours = results.mean(row, OURS, metric)
            names = situation.baselines if other == "best baseline" else [other]
            values = [results.mean(row, name, metric) for name in names]
            known = [value for value in values if value is not None]
            if ours is not None and known:
                found[label] = 100 * (ours - max(known))
        if found:
            worst = min(found, key=lambda label: found[label])
            mean = sum(found.values()) / len(found)
            lines.append(f"{OURS} - {other}: least {found[worst]:+.1f} ({worst}), mean {mean:+.1f}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=Path, nargs="+", required=True, help="feature files")
    parser.add_argument("--starter", type=Path, help="one more folder of feature files")
    parser.add_argument("--only", type=int, nargs="+", default=[*SITUATIONS, CALIBRATION, SPEED])
    parser.add_argument(
        "--sets", nargs="+", help="only these sets, or sets of your own: NAME for NAME.npz"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--baselines-only", action="store_true", help="do not fit the estimator")
    parser.add_argument("--ship", action="store_true", help="SHIP's companions as well: slow")
    parser.add_argument("--cache", type=Path, help="file of baseline results, read and written")
    parser.add_argument("--out", type=Path, help="file of all results")
    asked = parser.parse_args()
    asked.features += [asked.starter] if asked.starter else []
    torch.set_num_threads(1)
    known = Results.read(asked.cache)
    fresh = Results()
    tables = []
    rows: dict[int, list[Row]] = {}
    for number in asked.only:
        if number in (CALIBRATION, SPEED):
            continue
        rows[number] = measure(number, asked, known, fresh)
        tables.append(report(number, rows[number], fresh))
        fresh.write(asked.out)
    if CALIBRATION in asked.only:
        tables.append(calibration_report(rows, fresh))
    print("\n\n".join(tables))
    if SPEED in asked.only:
        print(f"\n## {SPEED}. Seconds and memory\n")
        speed_table()


if __name__ == "__main__":
    main()
