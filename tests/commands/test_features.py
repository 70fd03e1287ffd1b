"""Features in the place of images: embed, fit, predict and evaluate without a model."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import anyclass
from anyclass.classifier.classifier import Classifier
from anyclass.cli import main
from anyclass.commands.evaluate import evaluate
from anyclass.commands.fit import fit
from anyclass.commands.plan import plan
from anyclass.commands.predict import predict
from anyclass.data.feature_tables import read_features
from anyclass.data.nouns import some_nouns
from anyclass.errors import ModelError, RequestError
from anyclass.estimators.open_world_model import OpenWorldModel
from anyclass.files import check_manifest
from anyclass.methods import METHODS
from tests.conftest import SHAPES

Screen = pytest.CaptureFixture[str]
C, D, H, N = 4, 12, 7, 60
CLASSES = ["kite", "disc", "ring", "square"]
FILES = {
    "config.json",
    "environment.json",
    "classes.json",
    "metrics.json",
    "log.jsonl",
    "predictions.parquet",
    "predictions.csv",
    "rejected.csv",
    "descriptions.jsonl",
    "map.parquet",
    "report.html",
    "manifest.json",
    "suspicious.csv",
    "model/classifier.safetensors",
    "model/classifier.json",
    "model/README.md",
    "controls/linear_probe/classifier.json",
    "controls/linear_probe/classifier.safetensors",
}


class Blobs:
    """Features of 60 images in 4 classes, apart, with class texts near their means."""

    def __init__(self) -> None:
        draw = np.random.default_rng(5)
        self.text = draw.normal(size=(C, D)).astype(np.float32)
        middle = draw.normal(size=(C, H))
        self.truth = draw.permutation(np.arange(N) % 7 % C)
        self.x = (self.text[self.truth] + 0.6 * draw.normal(size=(N, D))).astype(np.float32)
        self.extra = (middle[self.truth] + 0.6 * draw.normal(size=(N, H))).astype(np.float32)
        self.labels = np.where(np.arange(N) < 24, self.truth, -1)


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs()


class Run:
    """A run fitted on arrays, with all that is known; not to be changed."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self.path = folder / "run"
        self.metrics = fit(
            out=self.path,
            features=blobs.x,
            extra=blobs.extra,
            class_text=blobs.text,
            classes=CLASSES,
            labels=blobs.labels,
        ).metrics


@pytest.fixture(scope="module")
def run(blobs: Blobs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(blobs, tmp_path_factory.mktemp("features"))


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text(encoding="utf-8"))


def test_predict__a_model_is_refused_where_there_is_none(run: Run, blobs: Blobs) -> None:
    for command in (predict, evaluate):
        with pytest.raises(RequestError, match="fitted on features and has no model: leave out"):
            command(run.path, features=blobs.x, extra=blobs.extra, model="starter")


def right(run: Path, blobs: Blobs) -> float:
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    assert [row["file_name"] for row in rows] == [f"row {i}" for i in range(N)]
    predicted = np.array([CLASSES.index(row["label"]) for row in rows])
    return float((predicted == blobs.truth).mean())


def test_fit__leaves_a_whole_run(run: Run, blobs: Blobs) -> None:
    found = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    assert {name for name in found if not name.startswith(".")} == FILES
    assert check_manifest(run.path) == []
    assert right(run.path, blobs) > 0.95
    assert run.metrics["zero_shot"]["accuracy"] > 0.8
    assert run.metrics["zero_shot_ensemble"] is None
    config = read(run.path, "config.json")
    assert (config["images"], config["model"], config["method"]) == (None, None, "open-world")
    assert config["features"] == f"array of {N} x {D}"
    assert read(run.path, "environment.json")["model"]["id"] == "features"
    report = (run.path / "report.html").read_text(encoding="utf-8")
    assert "there are no images to show" in report
    assert "data:image" not in report
    assert "<span>--features</span> NEW" in report
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert "predict_proba(features)" in card


def test_fit__equals_the_estimator(run: Run, blobs: Blobs) -> None:
    estimator = anyclass.OpenWorldClassifier()
    estimator.fit(blobs.x, blobs.labels, blobs.text, 100.0, extra=blobs.extra)
    wanted = estimator.predict_proba(blobs.x, blobs.extra)
    classifier = Classifier.load(run.path / "model")
    assert np.allclose(classifier.predict_proba(blobs.x, blobs.extra), wanted, atol=1e-5)
    tensors = torch.from_numpy(blobs.x), torch.from_numpy(blobs.extra)
    assert np.allclose(classifier.predict_proba(*tensors), wanted, atol=1e-5)
    names = classifier.predict(blobs.x, blobs.extra)
    assert names == [CLASSES[c] for c in wanted.argmax(1)]


def test_fit__zero_shot_is_that_of_the_texts(run: Run, blobs: Blobs) -> None:
    x, t = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (blobs.x, blobs.text))
    wanted = torch.from_numpy(100 * x @ t.T).softmax(1)
    rows = pq.read_table(run.path / "predictions.parquet").to_pylist()
    assert [row["zero_shot_label"] for row in rows] == [CLASSES[c] for c in wanted.argmax(1)]
    assert np.allclose([row["zero_shot_score"] for row in rows], wanted.amax(1), atol=1e-4)


def test_predict__row_for_row_in_blocks(
    run: Run, blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyclass.data.feature_tables.BLOCK", 7)
    np.save(tmp_path / "x.npy", blobs.x)
    np.save(tmp_path / "h.npy", blobs.extra)
    out = tmp_path / "p.parquet"
    said = anyclass.predict(
        run.path, features=tmp_path / "x.npy", extra=tmp_path / "h.npy", out=out
    )
    rows = pq.read_table(out).to_pylist()
    wanted = pq.read_table(run.path / "predictions.parquet").to_pylist()
    assert said["n"] == N
    assert [row["label"] for row in rows] == [row["label"] for row in wanted]
    assert np.allclose([row["score"] for row in rows], [row["score"] for row in wanted], atol=1e-5)


def test_evaluate__beside_zero_shot(run: Run, blobs: Blobs) -> None:
    said = anyclass.evaluate(run.path, features=blobs.x, extra=blobs.extra, labels=blobs.truth)
    assert said["n"] == N
    assert said["accuracy"] == pytest.approx(right(run.path, blobs))
    assert said["zero_shot_accuracy"] > 0.8
    assert said["zero_shot_ensemble_accuracy"] is None


KNOWN: dict[str, dict[str, Any]] = {
    "names only": {"labels": None},
    "labels only": {"class_text": None},
    "names for two of four": {"class_text": "half"},
}


@pytest.mark.parametrize("known", KNOWN)
def test_fit__whatever_is_known(known: str, blobs: Blobs, tmp_path: Path) -> None:
    half = blobs.text.copy()
    half[2:] = np.nan
    texts = {"half": half, "all": blobs.text}
    options = {"class_text": "all", "classes": CLASSES, "labels": blobs.labels} | KNOWN[known]
    options["class_text"] = texts.get(options["class_text"])
    metrics = fit(features=blobs.x, out=tmp_path / "run", **options).metrics
    assert right(tmp_path / "run", blobs) > 0.85
    assert (metrics["adapted"] is None) == (options["labels"] is None)
    assert metrics["changed"] is None or known != "labels only"
    assert Classifier.load(tmp_path / "run" / "model").predict(blobs.x)


def test_fit__the_same_again_and_other_features(run: Run, blobs: Blobs) -> None:
    given = {"extra": blobs.extra, "class_text": blobs.text, "classes": CLASSES}
    given |= {"labels": blobs.labels, "out": run.path}
    with pytest.raises(RequestError, match="is finished"):
        fit(features=blobs.x, **given)
    with pytest.raises(RequestError, match="belongs to another request: features_sha256"):
        fit(features=2 + blobs.x, **given)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"features": None}, r"give images \(--images DIR\) or their features"),
    ({"images": "photos"}, "or features .*, not both"),
    ({"method": "latteclip"}, "latteclip needs --images: with --features use auto or open-world"),
    ({"classes": ["a", "b"], "labels": None}, "has 4 class texts and there are 2 classes"),
    ({"class_text": np.ones((4, 3))}, "class texts of width 3, image features have width 12"),
    ({"labels": None, "class_text": None}, "nothing is known of 'kite', 'disc'"),
    ({"extra": np.ones((3, 7))}, "has 60 rows of features, but extra of 3 x 7"),
    ({"logit_scale": -1}, "--logit-scale: .*greater than 0"),
    ({"features": np.zeros((60, 12))}, "the features of 'row 0' are all zero"),
    ({"features": np.full((60, 12), np.nan)}, "a value that is not finite"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_fit__refuses_before_a_folder_is_made(
    change: dict[str, Any], said: str, blobs: Blobs, tmp_path: Path
) -> None:
    given = {"features": blobs.x, "class_text": blobs.text, "classes": CLASSES}
    given |= {"labels": blobs.labels}
    with pytest.raises(RequestError, match=said) as refused:
        fit(out=tmp_path / "run", **(given | change))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_fit__takes_nouns_from_the_file_of_class_texts(blobs: Blobs, tmp_path: Path) -> None:
    nouns = np.random.default_rng(4).normal(size=(20, 12)).astype(np.float32)
    texts = {"class_text": blobs.text, "class_names": np.array(CLASSES), "logit_scale": 20.0}
    given = {"features": blobs.x, "class_text": tmp_path / "texts.npz"}
    np.savez(tmp_path / "texts.npz", **texts, negative_text=nouns)
    fit(out=tmp_path / "run", **given)
    head = Classifier.load(tmp_path / "run" / "model").head
    assert isinstance(head, OpenWorldModel)
    assert head.nouns.shape == (17, 12)
    for bad in (nouns[:, :5], 0 * nouns, np.inf * nouns):
        np.savez(tmp_path / "texts.npz", **texts, negative_text=bad)
        with pytest.raises(RequestError, match="negative_text must have 12 columns"):
            fit(out=tmp_path / "other", **given)
        assert not (tmp_path / "other").exists()


def test_predict__refuses_other_features(run: Run, blobs: Blobs, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    for given, said in (
        ({"features": blobs.x[:, :5]}, "width 5, the run was fitted on features of width 12"),
        ({"features": blobs.x}, "needs the features before the projection, of width 7; they are"),
        ({"features": blobs.x, "extra": blobs.x}, "of width 7; they are of width 12"),
        ({"images": tmp_path}, "has no model that reads images"),
        ({}, "give images"),
    ):
        with pytest.raises(RequestError, match=said):
            anyclass.predict(run.path, out=out, **given)
        assert not out.exists()
    with pytest.raises(RequestError, match="has no model that reads images"):
        anyclass.evaluate(run.path, tmp_path)
    with pytest.raises(RequestError, match="has no model that reads images"):
        _ = Classifier.load(run.path / "model").clip


def test_load__refuses_a_changed_file(run: Run, tmp_path: Path) -> None:
    from shutil import copytree

    settings = run.path / "model" / "classifier.json"
    for change in (
        {"features": None},
        {"features": {"width": 5, "extra": 7, "logit_scale": 100.0}},
        {"features": {"width": 12, "extra": 6, "logit_scale": 100.0}},
        {"features": {"width": 12, "extra": 7, "logit_scale": -1.0}},
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        copytree(run.path / "model", folder)
        text = json.dumps(json.loads(settings.read_text()) | change)
        (folder / "classifier.json").write_text(text)
        with pytest.raises(ModelError):
            Classifier.load(folder)


def test_plan__of_features(blobs: Blobs) -> None:
    said = plan(features=blobs.x, class_text=blobs.text, classes=CLASSES, labels=blobs.labels)
    assert (said["images"], said["labelled"], said["method"]) == (N, 24, "open-world")
    assert said["embeddings"] == 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Path, names: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def embed(model: str, *flags: str) -> list[str]:
    return ["embed", "--model", model, "--device", "cpu", "--engine", "torch", *flags]


@pytest.mark.parametrize("ending", ["npz", "safetensors", "parquet", "npy"])
def test_embed__and_fit_on_the_command_line(
    place: Path, tiny_clip: Callable[..., str], capsys: Screen, ending: str
) -> None:
    file, more = f"x.{ending}", [] if ending == "npy" else ["--extra"]
    (place / "images" / "blue disc" / "9.png").write_bytes(b"no image")
    given = ["--images", "images", "--labels", "folders", "--classes", "names.txt"]
    assert main(embed(tiny_clip(), *given, *more, "--out", file)) == 0
    said = capsys.readouterr()
    assert "14 images, 1 rejected; width 24" in said.out
    assert "rejected blue disc/9.png" in said.err
    texts: list[str] = []
    if ending in ("npy", "parquet"):
        assert "holds no class texts: leave --images out and write them" in said.err
        assert main(embed(tiny_clip(), "--classes", "names.txt", "--out", "t.npz")) == 0
        texts = ["--class-text", "t.npz"]
    assert main(["fit", "auto", "--features", file, *texts, "--out", "run"]) == 0
    assert main(["predict", "--run", "run", "--features", file, "--out", "p.csv"]) == 0
    with Path("p.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["file_name"] for row in rows] == list(read_features(Path(file)).names)
    assert {row["label"] for row in rows} <= set(SHAPES)
    capsys.readouterr()
    assert main(["evaluate", "--run", "run", "--features", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 14


def test_embed__is_what_the_model_computes(
    place: Path, tiny_backbone: Callable[..., Any], tiny_clip: Callable[..., str]
) -> None:
    clip = tiny_backbone()
    given = {"model": tiny_clip(), "engine": "torch", "device": "cpu"}
    said = anyclass.embed("images", "names.txt", out="x.npz", extra=True, **given)
    assert (said["n"], said["width"], said["extra_width"], said["classes"]) == (14, 24, 32, 4)
    table = read_features(Path("x.npz"))
    with Image.open(Path("images") / table.names[3]) as image:
        pixels = clip.preprocessing.normalise(clip.preprocessing.view(image.convert("RGB")))[None]
    with torch.no_grad():
        hidden = clip.trunk(pixels, "head")
        assert np.allclose(table.x[3], clip.images(pixels)[0], atol=1e-5)
        assert np.allclose(table.extra[3], clip.pooled(hidden, "head")[0], atol=1e-4)
        texts = clip.texts([f"a photo of a {name}." for name in SHAPES])
        nouns = clip.texts([f"a photo of a {noun}." for noun in some_nouns(1000)[:7]])
    assert table.texts is not None
    assert np.allclose(table.texts.features, texts, atol=1e-5)
    assert np.allclose(table.texts.negatives[:7], nouns, atol=1e-5)
    assert table.texts.logit_scale == pytest.approx(float(clip.logit_scale.detach()))
    anyclass.embed("images", out="half.npy", half=True, **given)
    half = read_features(Path("half.npy"))
    assert half.x.dtype == np.float16
    assert np.allclose(half.x, table.x, atol=1e-3)


def test_run_on_images__takes_features_of_its_model(
    place: Path, shapes: dict[str, Any], tmp_path: Path
) -> None:
    given = {"model": shapes["model"], "engine": "torch", "device": "cpu"}
    anyclass.embed("images", out="x.npz", extra=True, **given)
    fit("open-world", "run", **shapes)
    anyclass.predict("run", "images", "images.parquet")
    anyclass.predict("run", features="x.npz", out="features.parquet")
    tables = [pq.read_table(name).to_pylist() for name in ("images.parquet", "features.parquet")]
    for one, other in zip(*tables, strict=True):
        assert (one["file_name"], one["label"]) == (other["file_name"], other["label"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    by_images = anyclass.evaluate("run", "images", prompt_ensemble=False)
    by_features = anyclass.evaluate("run", features="x.npz", labels="folders")
    for key in ("accuracy", "zero_shot_accuracy", "n"):
        assert by_images[key] == by_features[key]
    anyclass.embed("images", out="narrow.npz", **given)
    with pytest.raises(RequestError, match="needs the features before the projection"):
        anyclass.predict("run", features="narrow.npz", out="other.csv")


def test_run_that_trained_its_model__needs_images(fitted: Any, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the run trained the model"):
        anyclass.predict(fitted.run, features=np.ones((2, 24)), out=tmp_path / "p.csv")


EMBED_MISTAKES = {
    "": "give images (--images DIR), class names (--classes FILE), or both",
    "--images images --out x.csv": "the file name must end in .npy or .npz or .parquet or",
    "--images images --extra --out x.npy": "npy holds one array; with --extra use .npz",
    "--classes names.txt --out x.parquet": "class texts need .npz or .safetensors",
    "--images gone": "gone does not exist",
}


@pytest.mark.parametrize("line", EMBED_MISTAKES)
def test_embed__refuses_in_a_line(
    place: Path, tiny_clip: Callable[..., str], capsys: Screen, line: str
) -> None:
    assert main(embed(tiny_clip(), *line.split())) == 2
    said = capsys.readouterr()
    assert EMBED_MISTAKES[line] in said.err
    assert said.out == ""


def test_command_line__refuses_features_in_a_line(
    place: Path, blobs: Blobs, run: Run, capsys: Screen
) -> None:
    np.save("x.npy", blobs.x)
    Path("torn.npy").write_bytes(Path("x.npy").read_bytes()[:-100])
    bad = blobs.x.copy()
    bad[3, 4] = np.nan
    np.save("nan.npy", bad)
    lines = {
        "fit clip-adapter --features x.npy --classes names.txt": "clip-adapter needs --images",
        "fit auto --features torn.npy --unknown 2": "torn.npy is damaged or of another format",
        "fit auto --features nan.npy --unknown 2": "nan.npy: the features of 'row 3' have a value",
        "fit auto --features x.npy": "there is no information about the classes",
        "fit auto --images images --class-text x.npy": "belongs to --features FILE",
        "plan --features gone.npy": "gone.npy cannot be read: there is no such file",
        f"predict --run {run.path} --features x.npy --out p.csv": "needs the features before the",
        f"evaluate --run {run.path} --features x.npy": "of x.npy has a label",
    }
    for line, said in lines.items():
        assert main(line.split()) == 2, line
        shown = capsys.readouterr()
        assert said in shown.err
        assert len(shown.err.splitlines()) <= 2
        assert shown.out == ""


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


HEAVY = "{'open_clip', 'transformers', 'torchvision', 'timm'}"


def test_estimator__is_imported_without_models() -> None:
    code = f"""if True:
        import sys
        from anyclass import OpenWorldClassifier
        print(OpenWorldClassifier().get_params()["unknown"], sorted({HEAVY} & set(sys.modules)))
    """
    assert in_a_fresh_process(code) == "0 []"


@pytest.mark.slow
def test_fit__of_features_imports_no_model(blobs: Blobs, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=blobs.x, class_text=blobs.text, y=blobs.labels)
    code = f"""if True:
        import sys
        from anyclass.cli import main
        run = {str(tmp_path / "run")!r}
        x = {str(tmp_path / "x.npz")!r}
        codes = [main(["fit", "auto", "--features", x, "--out", run, "--json"])]
        codes += [main(["predict", "--run", run, "--features", x, "--out", run + ".csv", "--json"])]
        print(codes, sorted({HEAVY} & set(sys.modules)))
    """
    assert in_a_fresh_process(code).splitlines()[-1] == "[0, 0] []"


def test_methods__only_open_world_takes_features(blobs: Blobs, tmp_path: Path) -> None:
    given = {"features": blobs.x, "class_text": blobs.text, "classes": CLASSES}
    for name in set(METHODS) - {"open-world"}:
        with pytest.raises(RequestError, match=f"{name} needs --images"):
            fit(name, tmp_path / "run", **given)


@pytest.mark.parametrize("unknown", [2, "auto"])
def test_fit__discovers_classes(unknown: Any, blobs: Blobs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    known = np.where(blobs.truth < 2, blobs.labels, -1)
    given = {"class_text": blobs.text[:2], "classes": CLASSES[:2], "labels": known}
    metrics = fit(out=run, features=blobs.x, extra=blobs.extra, unknown=unknown, **given).metrics
    assert metrics["discovery"]["labelled"] == 2
    kinds = read(run, "classes.json")["kinds"]
    assert kinds[:3] == ["labelled", "labelled", "unknown"]
    truth = [CLASSES[c] for c in blobs.truth]
    said = anyclass.evaluate(run, features=blobs.x, extra=blobs.extra, labels=truth)
    assert said["all"] > 0.8 or unknown == "auto"
    assert set(said["controls"]) == {"kmeans", "kmeans_with_labels"}
    with (run / "classes.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [row["suggested"] for row in rows] == [""] * len(kinds)
    assert rows[2]["examples"].startswith("row ")
    text = (run / "classes.csv").read_text(encoding="utf-8")
    (run / "classes.csv").write_text(text.replace("discovered 1", "zebra"), encoding="utf-8")
    assert main(["rename", "--run", str(run)]) == 0
    again = anyclass.predict(run, features=blobs.x, extra=blobs.extra, out=tmp_path / "p.csv")
    assert "zebra" in again["classes"]


def test_rename__has_no_image_for_a_captioner(blobs: Blobs, tmp_path: Path, capsys: Screen) -> None:
    run = str(tmp_path / "run")
    fit(out=run, features=blobs.x, unknown=3)
    assert main(["rename", "--run", run, "--captioner", "vocabulary"]) == 2
    assert "was fitted on features: there is no image" in capsys.readouterr().err


def test_fit__from_an_earlier_run(blobs: Blobs, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=blobs.x, class_text=blobs.text, y=blobs.labels)
    first, second = tmp_path / "first", tmp_path / "second"
    fit(features=tmp_path / "x.npz", out=first)
    text = (first / "predictions.csv").read_text(encoding="utf-8").splitlines()
    row = text[31].split(",")  # row 30, whose label is not known
    assert row[0] == "row 30"
    row[1] = "class 3" if row[1] != "class 3" else "class 2"
    text[31] = ",".join(row)
    (first / "predictions.csv").write_text("\n".join(text) + "\n", encoding="utf-8")
    table = str(first / "predictions.csv")
    metrics = fit(from_run=first, labels=table, out=second).metrics
    assert (metrics["second_round"]["kept"], metrics["second_round"]["new"]) == (24, 1)
    rows = pq.read_table(second / "predictions.parquet").to_pylist()
    assert rows[30]["true_label"] == row[1]
    assert read(second, "config.json")["features"] == str(tmp_path / "x.npz")


def test_evaluate__labels_of_five_classes_on_a_run_that_knows_three(tmp_path: Path) -> None:
    """36 of 60 images are labelled, all in three classes: the advice finds the other two."""
    draw = np.random.default_rng(3)
    truth = np.repeat(np.arange(5), 12)
    x = 3 * draw.normal(size=(5, D))[truth] + 0.4 * draw.normal(size=(N, D))
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    names = ["kite", "disc", "ring", "square", "star"]
    lines = [f"row {i},{names[c]}" for i, c in enumerate(truth)]
    for name, some in (("some.csv", lines[:36]), ("all.csv", lines)):
        (tmp_path / name).write_text("\n".join(["file_name,label", *some]))
    request = {"features": tmp_path / "x.npy", "labels": tmp_path / "some.csv"}
    fit("auto", tmp_path / "run", **request)
    asked = {"features": tmp_path / "x.npy", "labels": str(tmp_path / "all.csv")}
    with pytest.raises(RequestError, match=r"not in the list.*'square', 'star'.*24 images") as told:
        anyclass.evaluate(tmp_path / "run", **asked)
    again = f"`anyclass fit auto --from {tmp_path / 'run'} --unknown N --out NEW_RUN`"
    assert again in str(told.value)
    assert "Add them to the list" not in str(told.value)
    command = again.strip("`").replace("unknown N", "unknown 2").replace("NEW_RUN", "{}")
    assert main(command.format(tmp_path / "found").split()[1:]) == 0
    found = anyclass.evaluate(tmp_path / "found", **asked)
    assert found["n"] == 24, "36 labels were trained on"
    assert found["new"] > 0.9
