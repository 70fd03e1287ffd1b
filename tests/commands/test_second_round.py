"""The second round: a table corrected by hand goes back in, and counts."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression

from anyclass import Backbone, ImageDataset, load
from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.predict import predict
from anyclass.commands.second_round import inherited_flags
from anyclass.errors import RequestError
from anyclass.features.store import FeatureStore

NAMES = ["red square", "blue disc", "yellow kite", "green ring"]
COLOURS = {"red square": 0, "blue disc": 160, "yellow kite": 40, "green ring": 90}
IMAGES = 120
CORRECTED = 45
Table = list[dict[str, str]]


class Round(NamedTuple):
    """Images, their true labels and a first run from names alone; not to be changed."""

    run: Path
    images: Path
    truth: dict[str, str]
    model: str


def noisy_shapes(folder: Path) -> dict[str, str]:
    """Discs of a noisy colour on noise, in one folder; returns the class of each."""
    folder.mkdir()
    draw = np.random.default_rng(3)
    truth = {}
    for i in range(IMAGES):
        name = NAMES[int(draw.integers(4) * draw.random())]  # uneven classes
        width, height = int(draw.integers(40, 70)), int(draw.integers(40, 60))
        image = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        hue = int(COLOURS[name] + draw.normal(0, 22)) % 256
        colour = Image.new("HSV", (1, 1), (hue, 150, 200)).convert("RGB").getpixel((0, 0))
        ImageDraw.Draw(image).ellipse((6, 6, 34, 32), fill=colour)
        image.save(folder / f"{i:03d}.png")
        truth[f"{i:03d}.png"] = name
    return truth


@pytest.fixture(scope="module")
def first(tiny_clip: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Round:
    """`anyclass fit open-world` with names alone."""
    folder = tmp_path_factory.mktemp("first")
    truth = noisy_shapes(folder / "photos")
    (folder / "names.txt").write_text("\n".join(NAMES))
    known = ["--images", str(folder / "photos"), "--classes", str(folder / "names.txt")]
    options = [
        "--model",
        tiny_clip("huggingface"),
        "--engine",
        "torch",
        "--seed",
        "7",
        "--no-prompt-ensemble",
    ]
    assert main(["fit", "open-world", *known, *options, "--out", str(folder / "run")]) == 0
    return Round(folder / "run", folder / "photos", truth, tiny_clip("huggingface"))


def rows_of(run: Path, name: str = "predictions.csv") -> Table:
    with (run / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metrics_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "metrics.json").read_text()))


def write(path: Path, rows: Table) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def corrected(
    rows: Table, truth: dict[str, str], count: int, wrong: int = 0, names: Sequence[str] = NAMES
) -> set[str]:
    """What a person does to some rows: confirm or correct them, a few of them wrongly."""
    chosen = random.Random(5).sample(range(len(rows)), count)
    for at, i in enumerate(chosen):
        row = rows[i]
        label = truth[row["file_name"]]
        if at < wrong:
            label = names[(names.index(label) + 1) % len(names)]
        if row["label"] == label:
            row["confirmed"] = "yes"
        row["label"] = label
    return {rows[i]["file_name"] for i in chosen}


def right(rows: Table, truth: dict[str, str], files: set[str]) -> float:
    return float(
        np.mean([r["label"] == truth[r["file_name"]] for r in rows if r["file_name"] in files])
    )


def probe(images: Path, model: str, truth: dict[str, str], trained_on: set[str]) -> float:
    """Accuracy of logistic regression on the same labels, on the other images."""
    dataset = ImageDataset.read(images)
    x = FeatureStore(Backbone.load(model, engine="torch"), dataset).image_features("head", ignore)
    y = np.array([truth[file] for file in dataset.files])
    mine = np.isin(dataset.files, list(trained_on))
    learned = LogisticRegression(max_iter=1000, C=10).fit(x[mine], y[mine])
    return float(learned.score(x[~mine], y[~mine]))


def ignore(**numbers: Any) -> None:
    """A log that nobody reads."""


@pytest.fixture(scope="module")
def second(first: Round, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The run after 45 of 120 rows were corrected, three of them wrongly, and what was said."""
    folder = tmp_path_factory.mktemp("second")
    rows = rows_of(first.run)
    trained_on = corrected(rows, first.truth, CORRECTED, wrong=3)
    edited = write(folder / "edited.csv", rows)
    again = ["--from", str(first.run), "--labels", str(edited), "--out", str(folder / "run")]
    assert main(["fit", "open-world", *again]) == 0
    yield folder / "run", trained_on, edited


@pytest.mark.slow
def test_second_round__helps_as_much_as_a_probe(first: Round, second: Any) -> None:
    run, trained_on, _ = second
    others = set(first.truth) - trained_on
    before = right(rows_of(first.run), first.truth, others)
    after = right(rows_of(run), first.truth, others)
    assert after - before >= probe(first.images, first.model, first.truth, trained_on) - before
    assert after > before + 0.1


def test_second_round__corrections_stay(first: Round, second: Any) -> None:
    run, trained_on, edited = second
    wanted = {row["file_name"]: row["label"] for row in rows_of(edited.parent, "edited.csv")}
    given = [row for row in rows_of(run) if row["status"] == "given"]
    assert {row["file_name"] for row in given} == trained_on
    for row in given:
        assert row["label"] == row["true_label"] == wanted[row["file_name"]]
        assert (row["score"], row["predicted_label"], row["kind"]) == ("1", "", "labelled")
        assert row["opinion"] in NAMES
        assert 0 <= float(row["label_quality"]) <= float(row["opinion_score"]) <= 1
    for row in rows_of(run):
        if row["status"] == "ok":
            assert row["label"] == row["predicted_label"]
            assert row["true_label"] == row["opinion"] == row["label_quality"] == ""
            assert 0 <= float(row["familiarity"]) <= 1


def test_second_round__is_scored_on_no_label_that_was_trained_on(second: Any) -> None:
    run, trained_on, _ = second
    metrics = metrics_of(run)
    given = [row for row in rows_of(run) if row["file_name"] in trained_on]
    agree = np.mean([row["opinion"] == row["label"] for row in given])
    assert metrics["scored_on"] == "cross-fitted labels"
    assert metrics["adapted"]["accuracy"] == pytest.approx(agree)
    assert metrics["scored"] == metrics["adapted"]["n"] == CORRECTED
    most = max(NAMES, key=[row["label"] for row in given].count)
    assert metrics["majority"]["name"] == most
    assert "training scores" not in str(metrics["warnings"])
    change = metrics["second_round"]
    assert (change["kept"], change["new"], change["unseen"]) == (0, CORRECTED, None)
    assert change["corrected"]["n"] == CORRECTED
    assert change["corrected"]["after"] == pytest.approx(agree)


def test_second_round__takes_the_request_of_the_first(first: Round, second: Any) -> None:
    before = json.loads((first.run / "config.json").read_text())
    after = json.loads((second[0] / "config.json").read_text())
    own = {"labels", "from_run", "again"}
    assert {k: v for k, v in after.items() if k not in own} == {
        k: v for k, v in before.items() if k not in own
    }
    assert (after["seed"], after["prompt_ensemble"]) == (7, False)
    assert (after["labels"], after["from_run"]) == (str(second[2]), str(first.run))


def test_second_round__wrong_labels_are_suspicious(first: Round, second: Any) -> None:
    run, trained_on, edited = second
    rows = rows_of(run, "suspicious.csv")
    assert list(rows[0]) == ["file_name", "label", "opinion", "opinion_score", "label_quality"]
    assert metrics_of(run)["suspicious"] == len(rows)
    quality = [float(row["label_quality"]) for row in rows]
    assert quality == sorted(quality)
    wrong = {
        row["file_name"]
        for row in rows_of(edited.parent, "edited.csv")
        if row["file_name"] in trained_on and row["label"] != first.truth[row["file_name"]]
    }
    assert len(wrong) == 3
    assert len(wrong & {row["file_name"] for row in rows}) >= 2
    page = (run / "report.html").read_text()
    assert '<section id="suspicious">' in page
    assert "Suspicious labels" in page
    assert f"{len(rows)} of the labels that you gave are contradicted" in page
    assert "of 45 labels, each predicted by a fit without it (cross-fitted)" in page
    assert "Share of each source in the decision" in page
    assert "new labels, each predicted without itself" in page


def test_third_round__labels_stay_and_one_is_taken_back(
    first: Round, second: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, trained_on, _ = second
    rows = rows_of(run, "suspicious.csv")
    rows[0]["label"] = first.truth[rows[0]["file_name"]]
    table = write(tmp_path / "suspicious.csv", rows)
    fit("open-world", tmp_path / "third", from_run=run, labels=str(table))
    given = [row for row in rows_of(tmp_path / "third") if row["status"] == "given"]
    assert {row["file_name"] for row in given} == trained_on
    label_of = {row["file_name"]: row["label"] for row in given}
    assert label_of[rows[0]["file_name"]] == rows[0]["label"]
    rows = rows_of(run)
    emptied = next(row for row in rows if row["status"] == "given")
    emptied["label"] = ""
    table = write(tmp_path / "edited.csv", rows)
    again = ["--from", str(run), "--labels", str(table), "--out", str(tmp_path / "fourth")]
    assert main(["fit", "open-world", *again]) == 0
    said = capsys.readouterr().err
    assert "0 of 120 rows of edited.csv were changed or confirmed, 44 given: these are" in said
    given = [row for row in rows_of(tmp_path / "fourth") if row["status"] == "given"]
    assert {row["file_name"] for row in given} == trained_on - {emptied["file_name"]}


def test_predictions__that_nobody_touched_are_no_labels(
    first: Round, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ["--images", str(first.images), "--model", first.model, "--classes", *NAMES]
    table = first.run / "predictions.csv"
    assert main(["plan", "open-world", *request, "--labels", str(table)]) == 0
    said = capsys.readouterr().out
    assert "images     120, 0 labelled" in said
    assert "none of the 120 rows of predictions.csv was changed or confirmed" in said
    assert "red square (named), blue disc (named)" in said
    rows = rows_of(first.run)
    rows[0]["label"] = next(name for name in NAMES if name != rows[0]["label"])
    rows[1]["confirmed"] = "x"
    write(tmp_path / "edited.csv", rows)
    assert main(["plan", "open-world", *request, "--labels", str(tmp_path / "edited.csv")]) == 0
    said = capsys.readouterr().out
    assert "2 of 120 rows of edited.csv were changed or confirmed: these are labels" in said
    assert "images     120, 2 labelled" in said
    assert f"{rows[0]['label']} (1 labelled)" in said


def test_holdout__stays_held_out_and_compares_the_runs(first: Round, tmp_path: Path) -> None:
    files = sorted(first.truth)
    labels = [f"{file},{first.truth[file]}" for file in files[:60]]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label", *labels]))
    request = {"images": first.images, "model": first.model, "engine": "torch", "holdout": 0.4}
    request |= {"classes": tuple(NAMES), "prompt_ensemble": False}
    fit("open-world", tmp_path / "one", labels=str(tmp_path / "labels.csv"), **request)
    rows = rows_of(tmp_path / "one")
    held = {row["file_name"] for row in rows if row["true_label"] and row["status"] == "ok"}
    assert len(held) == 24
    one = metrics_of(tmp_path / "one")
    assert (one["scored_on"], one["scored"]) == ("labels that were not trained on", 24)
    more = [row for row in rows if not row["true_label"]][:30]
    for row in more:
        row["label"] = first.truth[row["file_name"]]
        row["confirmed"] = "yes"
    write(tmp_path / "edited.csv", rows)
    fit(
        "open-world",
        tmp_path / "two",
        from_run=tmp_path / "one",
        labels=str(tmp_path / "edited.csv"),
    )
    now = rows_of(tmp_path / "two")
    assert {row["file_name"] for row in now if row["true_label"] and row["status"] == "ok"} == held
    assert sum(row["status"] == "given" for row in now) == 36 + 30
    change = metrics_of(tmp_path / "two")["second_round"]
    assert (change["kept"], change["new"]) == (60, 30)
    assert change["unseen"] == {
        "n": 24,
        "before": pytest.approx(right(rows, first.truth, held)),
        "after": pytest.approx(right(now, first.truth, held)),
    }
    assert "that neither run was trained on (24)" in (tmp_path / "two/report.html").read_text()


def test_evaluate__leaves_out_what_was_trained_on(
    first: Round, second: Any, tmp_path: Path
) -> None:
    run, trained_on, _ = second
    lines = [f"{file},{label}" for file, label in first.truth.items()]
    (tmp_path / "truth.csv").write_text("\n".join(["file_name,label", *lines]))
    found = evaluate(run, first.images, str(tmp_path / "truth.csv"), prompt_ensemble=False)
    assert found["n"] == IMAGES - CORRECTED
    assert found["accuracy"] == pytest.approx(
        right(rows_of(run), first.truth, set(first.truth) - trained_on)
    )
    assert found["warnings"][0] == "left out 45 labels that the run was trained on"
    shutil.copytree(first.images, tmp_path / "elsewhere")
    elsewhere = evaluate(run, tmp_path / "elsewhere", str(tmp_path / "truth.csv"))
    assert elsewhere["n"] == IMAGES - CORRECTED, "copies in another folder are the same images"


def test_predict__abstains_from_what_is_unlike_the_training_images(
    first: Round, second: Any, tmp_path: Path
) -> None:
    shutil.copytree(first.images, tmp_path / "new")
    for i in range(6):
        grey = Image.new("RGB", (60, 44), (40 * i, 40 * i, 40 * i))
        grey.save(tmp_path / "new" / f"grey {i}.png")
    out = tmp_path / "table.csv"
    found = predict(second[0], tmp_path / "new", out, min_score=0.3, engine="torch")
    rows = rows_of(tmp_path, "table.csv")
    assert found["unsure"] == sum(row["status"] == "unsure" for row in rows) > 0
    for row in rows:
        trusted = float(row["score"]) * min(1, float(row["familiarity"]) / 0.05)
        assert (row["status"] == "ok") == (trusted >= 0.3)
        unlike = row["reason"].startswith("unlike the training images")
        assert unlike == (row["status"] == "unsure" and float(row["score"]) >= 0.3)
    again = rows_of(second[0])
    usual = {row["file_name"]: float(row["familiarity"]) for row in again if row["familiarity"]}
    here = {row["file_name"]: float(row["familiarity"]) for row in rows}
    assert all(here[file] == pytest.approx(usual[file], abs=0.02) for file in usual)


def test_inherited_flags__those_that_are_not_given(first: Round) -> None:
    words = inherited_flags(
        ["--from", str(first.run), "--seed=3", "--out", "x", "--prompt-ensemble"]
    )
    assert words[:5] == ["--from", str(first.run), "--seed=3", "--out", "x"]
    assert words[words.index("--images") + 1] == str(first.images)
    assert words[words.index("--model") + 1] == first.model
    assert "--seed" not in words
    assert "--no-prompt-ensemble" not in words
    assert inherited_flags([f"--from={first.run}"])[-2:] != [f"--from={first.run}"]
    assert inherited_flags(["--seed", "3"]) == ["--seed", "3"]


def test_from__the_number_of_unknown_classes_and_what_was_named_since(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A labelled class and 3 unknown ones; then "discovered 1" is called "mug"."""
    draw = np.random.default_rng(0)
    truth = np.arange(40) % 4
    rows = draw.normal(size=(4, 16))[truth] + 0.1 * draw.normal(size=(40, 16))
    np.save(tmp_path / "x.npy", rows.astype(np.float32))
    labels = "".join(f"row {i},cup\n" for i in range(0, 20, 4))
    (tmp_path / "labels.csv").write_text(f"file_name,label\n{labels}")
    known = {"features": tmp_path / "x.npy", "labels": tmp_path / "labels.csv", "unknown": 3}
    fit("auto", tmp_path / "first", **known)
    table = (tmp_path / "first/predictions.csv").read_text()
    (tmp_path / "named.csv").write_text(table.replace(",discovered 1,", ",mug,", 3))
    again = {"from_run": tmp_path / "first", "labels": tmp_path / "named.csv"}
    said: list[str] = []
    for number, options in enumerate([again, again | {"unknown": 2}]):
        run = tmp_path / f"second{number}"
        fit("auto", run, **options)
        said.append(capsys.readouterr().err)
        assert json.loads((run / "config.json").read_text())["unknown"] == 3 - number
    assert "beside 'mug', known since: if that run discovered these, give --unknown 2" in said[0]
    assert "known since" not in said[1]


def test_from__a_folder_that_is_no_run(tmp_path: Path, first: Round) -> None:
    assert main(["fit", "open-world", "--from", str(tmp_path)]) == 2
    with pytest.raises(RequestError, match="contains no run"):
        fit("open-world", tmp_path / "x", from_run=tmp_path)


def child(code: str, *words: str) -> str:
    """What a Python process of its own prints; its workers read images."""
    command = [sys.executable, "-c", code, *words]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return done.stdout


COMMAND = "import sys; from anyclass.cli import main; sys.exit(main())"
PROBE = """if True:
    import json, sys
    from pathlib import Path
    from tests.commands.test_second_round import probe
    images, model, truth, trained_on = json.loads(sys.argv[1])
    print(probe(Path(images), model, truth, set(trained_on)))
"""


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif("ANYCLASS_DATA" not in os.environ, reason="needs $ANYCLASS_DATA/clothing")
@pytest.mark.timeout(900)
def test_second_round__of_400_photographs(tmp_path: Path) -> None:
    """The starter from names alone, then with 150 of 400 rows corrected or confirmed."""
    source = Path(os.environ["ANYCLASS_DATA"]) / "clothing" / "train"
    files = sorted(source.glob("*/*.jpg"))
    random.Random(0).shuffle(files)
    truth = {}
    (tmp_path / "photos").mkdir()
    for i, file in enumerate(files[:400]):
        shutil.copy(file, tmp_path / "photos" / f"{i:03d}.jpg")
        truth[f"{i:03d}.jpg"] = file.parent.name
    names = sorted(set(truth.values()))
    request = ["--images", str(tmp_path / "photos"), "--classes", *names]
    first_run = tmp_path / "first"
    child(COMMAND, "fit", "auto", *request, "--out", str(first_run))
    rows = rows_of(first_run)
    trained_on = corrected(rows, truth, 150, names=names)
    table = write(tmp_path / "edited.csv", rows)
    again = ["--from", str(first_run), "--labels", str(table), "--out", str(tmp_path / "second")]
    child(COMMAND, "fit", "auto", *again)
    others = set(truth) - trained_on
    after = rows_of(tmp_path / "second")
    assert right(after, truth, trained_on) == 1
    asked = [str(tmp_path / "photos"), "starter", truth, sorted(trained_on)]
    learned = float(child(PROBE, json.dumps(asked)))
    assert right(after, truth, others) >= learned
    assert right(after, truth, others) > right(rows_of(first_run), truth, others) + 0.05


def test_label_next__a_filled_table_is_read_back(first: Round, tmp_path: Path) -> None:
    run = load(first.run)
    table = run.label_next(12, tmp_path / "twelve.csv")
    rows = rows_of(tmp_path, "twelve.csv")
    assert [row["file_name"] for row in rows] == table["file_name"].to_pylist()
    assert len({row["file_name"] for row in rows}) == 12
    assert set(table["label"].to_pylist()) == {None}
    margins = {row["file_name"]: row["margin"] for row in run.predictions.table.to_pylist()}
    chosen = np.mean([margins[row["file_name"]] for row in rows])
    assert chosen < np.mean(list(margins.values()))
    with pytest.raises(RequestError, match="twelve.csv exists already: give another path to out="):
        run.label_next(12, tmp_path / "twelve.csv")
    with pytest.raises(RequestError, match="not 0: give at least 1"):
        run.label_next(0)


def test_label_next__of_the_command_line_starts_a_second_round(
    first: Round, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_label = tmp_path / "label_next.csv"
    assert main(["export", "--run", str(first.run), "--label-next", str(to_label)]) == 0
    assert f"label-next    {to_label}: 30 images to label" in capsys.readouterr().out
    rows = rows_of(tmp_path, to_label.name)
    assert list(rows[0]) == ["file_name", "label", "predicted", "score"]
    for row in rows:
        row["label"] = first.truth[row["file_name"]]
    write(to_label, rows)
    again = ["--from", str(first.run), "--labels", str(to_label), "--out", str(tmp_path / "second")]
    assert main(["fit", "auto", *again]) == 0
    predictions = pq.read_table(tmp_path / "second" / "predictions.parquet").to_pylist()
    given = {row["file_name"]: row["label"] for row in predictions if row["status"] == "given"}
    assert given == {row["file_name"]: row["label"] for row in rows}
    left = load(tmp_path / "second").label_next(500)["file_name"].to_pylist()
    assert len(left) == IMAGES - 30
    assert not set(left) & set(given)
