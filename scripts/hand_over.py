"""Give exports to the programs they are made for, and compare what comes back.

    pip install cleanlab fiftyone
    python scripts/hand_over.py FOLDER --work DIR

FOLDER holds images in class folders. One label in ten is changed on purpose; a run that was fitted
on half of the labels is exported with the other half.

cleanlab      `find_label_issues` on the arrays: how many of the changed labels it finds
fiftyone      the samples by FiftyOne's own classes: labels and confidences as in the predictions
label studio  tasks out, answered as the interface exports them, and read back as labels
"""

import argparse
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from anyclass.commands.export import export
from anyclass.commands.fit import fit
from anyclass.data import ImageDataset

CHANGED = 0.1
"""Share of the labels that are changed."""


def main() -> None:
    """Export, hand over, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything written")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    truth, given = changed_labels(asked.images)
    first = asked.work / "first.csv"
    second = asked.work / "second.csv"
    files = list(given)
    write_labels(first, {file: given[file] for file in files[::2]})
    write_labels(second, {file: given[file] for file in files[1::2]})
    run = asked.work / "run"
    names = sorted(set(truth.values()))
    fit("open-world", run, overwrite=run.exists(), images=asked.images, labels=first, classes=names)
    with_cleanlab(asked, run, second, truth)
    with_label_studio(asked, run)
    with_fiftyone(asked, run)


def changed_labels(images: Path) -> tuple[dict[str, str], dict[str, str]]:
    """True labels by file, and the same with some changed, in random order."""
    dataset = ImageDataset.read(images, labels="folders")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(dataset))
    names = dataset.classes.names
    truth = {dataset.files[i]: names[dataset.labels[i]] for i in order}
    given = dict(truth)
    for file in rng.permutation(list(truth))[: round(CHANGED * len(truth))].tolist():
        given[file] = str(rng.choice([name for name in names if name != truth[file]]))
    return truth, given


def write_labels(path: Path, labels: dict[str, str]) -> None:
    """A label table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerows([("file_name", "label"), *labels.items()])


def with_cleanlab(
    asked: argparse.Namespace, run: Path, labels: Path, truth: dict[str, str]
) -> None:
    """Find changed labels that the run was not trained on."""
    from cleanlab.filter import find_label_issues

    folder = fresh(asked.work / "arrays")
    export(run, cleanlab=folder, images=asked.images, labels=str(labels))
    p = np.load(folder / "pred_probs.npy")
    y = np.load(folder / "labels.npy")
    trained = np.load(folder / "trained_on.npy")
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = np.array([truth[row["file_name"]] != row["label"] for row in rows])
    found = find_label_issues(labels=y, pred_probs=p)
    hits = int((found & wrong).sum())
    print(
        f"cleanlab: {len(y)} labels, {int(trained.sum())} trained on, {int(wrong.sum())} changed; "
        f"{int(found.sum())} reported, {hits} of them changed"
    )


def with_label_studio(asked: argparse.Namespace, run: Path) -> None:
    """Accept each pre-annotation, as the interface exports it, and read it back."""
    folder = fresh(asked.work / "label_studio")
    folder.mkdir()
    export(run, label_studio=folder / "tasks.json")
    tasks = json.loads((folder / "tasks.json").read_text("utf-8"))
    answers = [
        task | {"annotations": [{"result": task["predictions"][0]["result"]}]}
        for task in tasks
        if task.get("predictions")
    ]
    back = folder / "answers.json"
    back.write_text(json.dumps(answers), encoding="utf-8")
    again = ImageDataset.read(asked.images, labels=str(back))
    predicted = pq.read_table(run / "predictions.parquet").to_pylist()
    ours = {row["file_name"]: row["label"] for row in predicted if row["status"] == "ok"}
    names = again.classes.names
    known = {f: names[c] for f, c in zip(again.files, again.labels, strict=True) if c >= 0}
    same = sum(known.get(file) == label for file, label in ours.items())
    print(
        f"label studio: {len(tasks)} tasks, {len(answers)} accepted, "
        f"{same} of {len(ours)} predictions read back"
    )


def with_fiftyone(asked: argparse.Namespace, run: Path) -> None:
    """Read each sample by FiftyOne's own classes."""
    import fiftyone

    path = asked.work / "samples.json"
    path.unlink(missing_ok=True)
    export(run, fiftyone=path)
    dataset = fiftyone.Dataset.from_json(str(path))
    print(f"fiftyone: {len(dataset)} samples, {dataset.count_values('prediction.label')}")


def fresh(folder: Path) -> Path:
    """A folder that does not exist."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    main()
