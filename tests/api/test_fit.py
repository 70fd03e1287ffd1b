"""`anyclass.fit`: images and labels of any kind, one kind of answer."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import anyclass
from anyclass.errors import AnyclassError, RequestError
from anyclass.methods import METHODS

CLASSES = ["red square", "blue disc", "yellow kite"]

FIXED = ("adapted", "zero_shot")


@pytest.fixture
def there(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; `images` lies elsewhere."""
    place = tmp_path / "working"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def test_fit__keeps_nothing_in_the_working_folder(
    images: Path, there: Path, options: dict[str, Any]
) -> None:
    run = anyclass.fit(images, **options)
    assert run.predict(images).labels == run.predictions.labels
    folder = run.folder
    assert folder is not None
    assert (folder / "report.html").is_file()
    assert not list(there.iterdir())
    del run
    gc.collect()
    assert not folder.parent.exists()


def test_fit__a_failure_leaves_no_temporary_folder(
    images: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(RequestError, match="needs a name for every class"):
        anyclass.fit(images, method="zero-shot", unknown=2, **options)
    assert not list((tmp_path / "temporary").iterdir())


def test_fit__out_is_the_run_of_the_command_line(
    images: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    from anyclass.commands.fit import fit as command

    run = anyclass.fit(images, labels="folders", out=tmp_path / "python", **options)
    metrics = command("auto", tmp_path / "line", images=images, labels="folders", **options).metrics
    assert {key: run.metrics[key] for key in FIXED} == {key: metrics[key] for key in FIXED}
    for name in ("predictions.csv", "classes.json"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "line" / name).read_bytes()
    assert run.folder == tmp_path / "python"
    with pytest.raises(RequestError, match=r"is finished: .* use overwrite=True or another out"):
        anyclass.fit(images, labels="folders", out=tmp_path / "python", **options)
    again = anyclass.fit(
        images, labels="folders", out=tmp_path / "python", overwrite=True, **options
    )
    assert again.predictions.labels == run.predictions.labels


def test_fit__every_kind_of_input_gives_the_same_numbers(
    images: Path, options: dict[str, Any]
) -> None:
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    files = sorted(images.glob("*/*"))
    names = [file.parent.name for file in files]
    pictures = [Image.open(file).convert("RGB") for file in files]
    arrays = [np.asarray(picture) for picture in pictures]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=options["classes"])}
    )
    rows = {"image": [str(file) for file in files], "label": names}
    frame = pandas.DataFrame({"jpeg": [file.read_bytes() for file in files], "label": names})
    kinds: dict[str, tuple[Any, Any]] = {
        "folder": (images, "folders"),
        "files": (files, names),
        "Pillow": (pictures, [options["classes"].index(name) for name in names]),
        "arrays": (arrays, dict(enumerate(names))),
        "tensors": ([torch.from_numpy(a.transpose(2, 0, 1).copy()) for a in arrays], names),
        "pandas": (frame, "label"),
        "data set": (datasets.Dataset.from_dict(rows, features), "label"),
    }
    found = {}
    for kind, (given, labels) in kinds.items():
        run = anyclass.fit(given, labels=labels, **options)
        found[kind] = run.predict_proba(given)
        assert run.metrics["adapted"]["n"] == 14, kind
        assert [row["true_label"] for row in run.predictions.table.to_pylist()] == names
    for kind, probabilities in found.items():
        np.testing.assert_allclose(probabilities, found["folder"], atol=1e-5, err_msg=kind)


def test_fit__memory_with_a_bad_image_stays_aligned(fit: Any) -> None:
    table = fit.run.predictions.to_pandas()
    assert len(table) == 14
    assert fit.images[1] is None
    assert table.loc[1, "status"] == "rejected"
    assert "a value of type NoneType" in table.loc[1, "reason"]
    given = [(i, name) for i, name in enumerate(fit.labels) if name]
    for i, name in given:
        assert (table.loc[i, "label"], table.loc[i, "status"]) == (name, "given")
    config = json.loads((fit.run.folder / "config.json").read_text())
    assert config["images"] == "array of 14 images"
    assert config["labels"] == "array of 14 labels"
    assert "data:image/webp;base64" in (fit.run.folder / "report.html").read_text()


def test_fit__too_many_bad_images_are_said_in_python(fit: Any) -> None:
    with pytest.raises(AnyclassError, match=r"1 of 14 images .*, more than max_rejected allows"):
        anyclass.fit(fit.images, max_rejected=0.05, **fit.options)


def test_fit__a_list_of_files_keeps_their_place(
    images: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    files = sorted(images.glob("*/*"))[:9]
    run = anyclass.fit(files, out=tmp_path / "run", **options)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["images"] == str(images)
    assert config["listed"] == 9
    assert "data:image/webp;base64" in run.report.read_text()
    labels = {"blue disc/0.jpg": "blue disc"}
    with pytest.raises(RequestError, match=r"give images \(images=\.\.\.\)"):
        anyclass.fit(from_run=tmp_path / "run", labels=labels)
    assert anyclass.fit(from_run=run, labels=labels).metrics["n"] == 9
    second = anyclass.fit(files, from_run=run, labels=labels)
    assert second.metrics["second_round"]["new"] == 1


def test_fit__corrections_in_a_data_frame(
    images: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    first = anyclass.fit(images, out=tmp_path / "run", **options)
    table = first.predictions.to_pandas()
    wrong = table["label"] != table["file_name"].str.split("/").str[0]
    assert wrong.any()
    table.loc[wrong, "label"] = table["file_name"].str.split("/").str[0]
    second = anyclass.fit(from_run=first, labels=table)
    assert second.metrics["second_round"]["new"] == wrong.sum()
    given = pq.read_table(second.folder / "predictions.parquet").to_pandas()
    assert (given["status"] == "given").sum() == wrong.sum()


def test_fit__prompts_of_classes(images: Path, options: dict[str, Any], tmp_path: Path) -> None:
    prompts = {name: f"a {name} of paper" for name in options["classes"]}
    run = anyclass.fit(images, out=tmp_path / "run", **(options | {"classes": prompts}))
    assert run.classes_ == options["classes"]
    classes = json.loads((tmp_path / "run" / "classes.json").read_text())
    assert classes["prompts"] == list(prompts.values())
    assert anyclass.fit(from_run=run, labels={"blue disc/0.jpg": "blue disc"}).classes_ == [
        *prompts
    ]
    again = anyclass.fit(images, **(options | {"classes": run.classifier.classes}))
    assert again.predict(images).labels == run.predict(images).labels


def test_fit__features(options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).normal(size=(30, 7)) + 3 * np.eye(7)[np.arange(30) % 3]
    run = anyclass.fit(features=x, labels=np.arange(30) % 3, classes=["a", "b", "c"])
    assert run.predict(x).labels == run.predict(features=x).labels
    assert run.predict_proba(x).shape == (30, 3)
    with pytest.raises(RequestError, match="has no model that reads images"):
        run.predict(Path("images"))
    assert "precomputed features" in repr(run.classifier)


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (("auto",), {"images": "photos"}, r'fit\("photos", method=\'auto\', classes=\[...\]\)'),
        (("auto", "run"), {"images": "photos"}, "the images first and the method by name"),
        ((METHODS["zero-shot"](),), {"images": "a"}, r"method=ZeroShot\(...\)"),
        ((METHODS["ship"](), "run"), {}, r"method=Ship\(...\)"),
        (("photos", ["cat"]), {}, "only the images by position: write classes="),
        (("photos",), {"label": "folders"}, "no argument 'label': did you mean labels"),
        (("photos",), {"verbosity": 3}, "no argument 'verbosity': use images, features"),
        (("nowhere",), {"classes": ["a"]}, "nowhere does not exist. Give the folder"),
        ((), {"classes": ["a"]}, r"give images \(images=\.\.\.\) or their features"),
        ((3,), {"classes": ["a"]}, "images is of type int"),
        (("photos",), {"seed": -1, "classes": ["a"]}, "^seed: input should be greater"),
        (("photos",), {"classes": 3}, "classes is of type int"),
        (("photos",), {"classes": [3]}, "class names must be text, not int"),
        (("photos",), {}, r"give their names \(classes=\.\.\., one per line\)"),
        (("photos",), {"method": "autoo", "classes": ["a"]}, "there is no method 'autoo'"),
    ],
)
def test_fit__refuses_in_the_words_of_python(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    said: str,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(images.parent)
    images.rename("photos")
    with pytest.raises(RequestError, match=said) as refused:
        anyclass.fit(*args, **kwargs)
    assert "--" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names__are_public_and_no_others() -> None:
    assert dir(anyclass) == anyclass.__all__ == sorted(anyclass.__all__)
    assert {"Run", "Predictions", "fit", "load"} < set(dir(anyclass))
    with pytest.raises(AttributeError, match="no attribute 'Fit'"):
        _ = anyclass.Fit  # type: ignore[attr-defined]


SCRIPT = """
import multiprocessing
import sys
import numpy as np
import anyclass

multiprocessing.set_start_method("spawn")
images = [np.full((40, 30, 3), i, np.uint8) for i in range(130)]
run = anyclass.fit(sys.argv[1], classes=["red square", "disc"], **{options})
print(len(run.predictions), len(run.predict(sys.argv[1])), len(run.predict(images)))
"""


@pytest.mark.slow
def test_fit__a_script_without_a_guard_where_processes_are_spawned(
    tmp_path: Path, options: dict[str, Any], own_cache: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(130):
        Image.new("RGB", (30, 40), (i, 2 * i % 256, 9)).save(pictures / f"{i:03}.png")
    script = tmp_path / "script.py"
    given = {key: value for key, value in options.items() if key != "classes"}
    script.write_text(SCRIPT.replace("{options}", repr(given)))
    done = subprocess.run([sys.executable, script, pictures], capture_output=True, text=True)
    assert done.stdout == "130 130 130\n", done.stderr
    assert "killed" not in done.stderr


def test_fit__images_in_memory_keep_the_labels_of_their_own_content(fit: Any) -> None:
    good = [image for image in fit.images if image is not None]
    labels = [CLASSES[0], CLASSES[1], *[None] * (len(good) - 2)]
    first = anyclass.fit(good, labels=labels, **fit.options)
    again = anyclass.fit(good, from_run=first, labels={"2": CLASSES[2]}, **fit.options)
    truth = again.predictions.table["true_label"].to_pylist()
    assert truth[:4] == [*CLASSES[:3], None]
    table = first.label_next(1).to_pandas().assign(label=CLASSES[2])
    more = anyclass.fit(from_run=first, labels=table, **fit.options)
    assert more.metrics["second_round"]["kept"] == 2
    assert more.metrics["second_round"]["new"] == 1
    with pytest.raises(RequestError, match="image '0' is another one than image '0' of .*/run"):
        anyclass.fit(good[::-1], from_run=first, **fit.options)
