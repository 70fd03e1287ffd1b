"""What `plan` says of the questions to a captioner, before one is asked."""

from pathlib import Path
from typing import Any

import pytest

from anyclass.captioning import BatchFiles, Endpoint, Transformers
from anyclass.commands.duration import trained_texts
from anyclass.commands.plan import plan
from anyclass.commands.plan_output import plan_lines
from anyclass.data import ImageDataset
from anyclass.errors import RequestError
from anyclass.methods import METHODS
from anyclass.methods.few_shot import FewShot
from anyclass.methods.gda import Gda
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning

LATTECLIP = METHODS["latteclip"]
HEAD = Tuning("head")
NOBODY = "http://127.0.0.1:9/v1"


def calls(shapes: dict[str, Any], **fields: Any) -> int:
    method = LATTECLIP(tuning=HEAD, captioner=Endpoint(url=NOBODY), **fields)
    result = plan(method, **shapes)
    assert result["language_model_calls"] == result["language_model"]["calls"]
    return int(result["language_model_calls"])


def test_plan__counts_the_questions(shapes: dict[str, Any]) -> None:
    """14 images in 4 classes: groups are at most one per image, or `groups` per class."""
    assert calls(shapes) == 14 + 14
    assert calls(shapes, groups=3) == 14 + 12
    assert calls(shapes, groups=2, image_captions=3) == 42 + 8
    assert calls(shapes, groups=2, texts=("class", "group")) == 8
    assert calls(shapes, texts=("image",)) == 14
    assert calls(shapes, texts=("class",)) == 0


def test_plan__never_fewer_than_a_fit_asks(
    shapes: dict[str, Any], server: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyclass.commands.fit import fit

    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    method = LATTECLIP(
        tuning=Tuning("head", steps=1, views=1),
        captioner=Endpoint(url=server.url, model="llava"),
        groups=2,
        group_size=2,
    )
    most = plan(method, **shapes)["language_model_calls"]
    assert server.calls == [], "no connection is made"
    fit(method, tmp_path / "run", **shapes)
    assert 14 < len(server.questions) <= most == 14 + 8


@pytest.mark.parametrize("method", ["auto", "latteclip", "zero-shot"])
def test_plan__the_vocabulary_costs_nothing(shapes: dict[str, Any], method: str) -> None:
    result = plan(method, **shapes)
    assert result["language_model_calls"] == 0
    assert not any(result["language_model"].values())


def test_plan__says_what_leaves_the_machine_and_what_it_costs(shapes: dict[str, Any]) -> None:
    host = "api.example.com"
    away = Endpoint(url=f"https://{host}/v1", allow_remote=host, price_in=0.5, price_out=2.0)
    cost = plan(LATTECLIP(tuning=HEAD, captioner=away, groups=1), **shapes)["language_model"]
    assert cost == away.estimate(18)._asdict()
    assert (cost["sent_to"], cost["calls"]) == (host, 18)
    with pytest.raises(RequestError, match=f"--allow-remote {host}"):
        plan(LATTECLIP(tuning=HEAD, captioner=Endpoint(url=f"https://{host}/v1")), **shapes)
    here = plan(LATTECLIP(tuning=HEAD, captioner=Transformers()), **shapes)["language_model"]
    assert (here["megabytes_sent"], here["sent_to"], here["dollars"]) == (0.0, "", 0.0)
    later = plan(LATTECLIP(tuning=HEAD, captioner=BatchFiles("m")), **shapes)["language_model"]
    assert (later["minutes"], later["dollars"]) == (None, None)


@pytest.mark.slow
def test_plan__time_of_texts_and_training(images: Path, tmp_path: Path) -> None:
    """14 images: 126 embeddings at 3,600 a minute, 82 + 4,061 texts at 10,000, pairs at 12,800."""
    files = [path.relative_to(images).as_posix() for path in sorted(images.glob("red square/*"))]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["file_name,label", *(f"{file},red" for file in files)]) + "\n")
    asked = {"images": images, "labels": str(table), "device": "cpu"}
    found = plan("get", **asked, unknown=3)
    assert (found["embeddings"], found["texts"]) == (14 * 9, 81 + 4061)
    expected = 14 * 9 / 3600 + (81 + 4061) / 10_000 + 400 * 14 / 12_800
    assert found["minutes"] == round(expected, 1)
    many = tmp_path / "names.txt"
    many.write_text("\n".join(["red", *(f"thing number {i} of many" for i in range(4999))]))
    assert plan("auto", **asked, classes=many)["minutes"] == round(5000 * 81 / 10_000, 1)
    unlabelled = plan("auto", images=images, classes=many, device="cpu")
    assert unlabelled["texts"] == 5000, "nothing scores the ensemble"


@pytest.mark.parametrize("method", ["get", "simgcd", "gcd"])
@pytest.mark.parametrize(
    ("tuning", "why"),
    [
        (TwoViewTuning(views=1), "use two or more cached views"),
        (TwoViewTuning(lr=0.0, backbone_lr=0.1), "with --backbone-lr, --lr must not be 0"),
    ],
    ids=["views", "lr"],
)
def test_plan__refuses_settings_as_fit_does(
    images: Path, tmp_path: Path, method: str, tuning: TwoViewTuning, why: str
) -> None:
    file = min(images.glob("red square/*")).relative_to(images).as_posix()
    labels = tmp_path / "labels.csv"
    labels.write_text(f"file_name,label\n{file},red\n")
    asked = {"images": images, "labels": str(labels), "unknown": 3, "device": "cpu"}
    with pytest.raises(RequestError, match=why):
        plan(METHODS[method](tuning=tuning), **asked)


@pytest.mark.parametrize(
    ("method", "views", "trained"),
    [
        (METHODS["tip-adapter"](), 10, 0),
        (METHODS["clip-adapter"](data=FewShot(views=0), epochs=7), 7, 0),
        (METHODS["coop"](), 10, 200 * 1 * 3),  # 5 images are one step, 3 classes a text each
        (METHODS["coop"](batch_size=2, epochs=60), 10, 60 * 3 * 3),
        (METHODS["coop"](data=FewShot(shots=3), batch_size=2), 10, 200 * 2 * 3),
        (METHODS["cocoop"](epochs=90), 10, 90 * 5 * 3),
        (METHODS["ship"](then=Gda()), 10, 50 * 5),
        (METHODS["ship"](then=Gda(), synthetic="text"), 10, 0),
        (METHODS["ship"](pool=8), 10, 50 * 5 + 200 * 3),
        (METHODS["ship"](controls=True), 10, 50 * 5 + 200 * 5 + 3 * 200 * 3),
    ],
    ids=lambda value: getattr(value, "kind", None) or str(value)[:20],
)
def test_plan__counts_views_of_labelled_images_and_trained_texts(
    images: Path, tmp_path: Path, method: Any, views: int, trained: int
) -> None:
    files = [path.relative_to(images).as_posix() for path in sorted(images.glob("red square/*"))]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["file_name,label", *(f"{file},red" for file in files)]) + "\n")
    asked = {"images": images, "labels": str(table), "device": "cpu", "prompt_ensemble": False}
    found = plan(method, **asked, classes=("red", "blue", "green"))
    used = 3 if getattr(method, "data", FewShot()).shots else len(files)
    assert len(files) == 5
    assert found["embeddings"] == 14 + used * views
    expected = found["embeddings"] / 3600 + 3 / 10_000 + trained / 4000
    assert found["minutes"] == round(expected, 1)
    dataset = ImageDataset.read(images, ("red", "blue", "green"), table)
    assert trained_texts(dataset, method.workload(14, 3)) == trained


def test_plan_lines__of_many_classes(images: Path) -> None:
    names = [f"kind {i}" for i in range(300)]
    lines = plan_lines(plan("auto", images=images, classes=tuple(names), device="cpu"))
    classes = "300: kind 0 (named), kind 1 (named), kind 2 (named) ... and 297 more"
    assert lines[1] == f"classes    {classes}"
    assert max(map(len, lines)) < 200
