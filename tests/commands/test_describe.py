"""`describe`: a line per image, and a fit that asks for none of them again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anyclass.bulk import Bulk
from anyclass.captioning import BatchFiles, CaptionFile, Endpoint, Vocabulary
from anyclass.commands.describe import describe
from anyclass.commands.fit import fit
from anyclass.commands.predict import load_classifier
from anyclass.errors import AnyclassError, RequestError
from anyclass.methods.latteclip import LatteClip
from anyclass.training.tuning import Tuning


@pytest.fixture
def model(shapes: dict[str, Any]) -> dict[str, Any]:
    """The images and the tiny model that looks at them."""
    return {key: shapes[key] for key in ("images", "model", "device", "engine")}


@pytest.fixture(autouse=True)
def own_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_describe__a_line_for_each_image(model: dict[str, Any], tmp_path: Path) -> None:
    torn = model["images"] / "blue disc" / "1.png"
    torn.write_bytes(b"torn")
    seen: list[Any] = []
    out = tmp_path / "texts.jsonl"
    result = describe(
        **model, out=out, domain="sign", callback=lambda **numbers: seen.append(numbers)
    )
    rows = lines(out)
    files = sorted(p for p in model["images"].rglob("*.*") if p != torn)
    assert [row["file_name"] for row in rows] == [
        path.relative_to(model["images"]).as_posix() for path in files
    ]
    question = "Describe the sign in the photo concisely, less than 20 words."
    for row in rows:
        assert (row["captioner"], row["question"]) == ("vocabulary", question)
        assert "sign" in row["text"]
    assert result == {
        "n": 14,
        "rejected": 1,
        "groups": 0,
        "without_text": 0,
        "out": str(out),
        "first": rows[:3],
    }
    assert {"stage": "embed", "done": 14, "total": 14} in seen


def test_describe__is_refused_before_anything_is_done(
    model: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "texts.jsonl"
    with pytest.raises(RequestError, match=r"must end in \.jsonl"):
        describe(**model, out=tmp_path / "texts.csv")
    with pytest.raises(RequestError, match="--max-rejected 2"):
        describe(**model, out=out, max_rejected=2.0)
    describe(**model, out=out)
    before = out.read_bytes()
    with pytest.raises(RequestError, match="exists already"):
        describe(**model, out=out, domain="sign")
    assert out.read_bytes() == before
    describe(**model, out=out, domain="sign", overwrite=True)
    assert out.read_bytes() != before


def test_describe__too_many_torn_images(model: dict[str, Any], tmp_path: Path) -> None:
    for path in (model["images"] / "blue disc").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(AnyclassError, match="3 of 14 images cannot be used"):
        describe(**model, out=tmp_path / "texts.jsonl")


def test_describe__a_later_fit_asks_for_no_image_again(
    model: dict[str, Any], shapes: dict[str, Any], server: Any, tmp_path: Path
) -> None:
    endpoint = Endpoint(url=server.url)
    out = tmp_path / "texts.jsonl"
    describe(**model, captioner=endpoint, out=out, domain="kite")
    rows = lines(out)
    assert len(server.questions) == 14
    assert {row["captioner"] for row in rows} == {"endpoint"}
    assert all(row["text"].startswith("Seen ") for row in rows)
    describe(**model, captioner=endpoint, out=out, domain="kite", overwrite=True)
    assert lines(out) == rows

    method = LatteClip(
        tuning=Tuning("head", steps=2, views=1), captioner=endpoint, domain="kite", groups=1
    )
    fit(method, tmp_path / "run", **shapes)
    asked = server.questions[14:]
    assert asked
    assert all("common visual attributes of the kites" in call.question for call in asked)
    texts = lines(tmp_path / "run/descriptions.jsonl")
    used = {r["file_name"]: r["text"] for r in texts[4:18]}
    assert used == {row["file_name"]: row["text"] for row in rows}
    assert {row["model"] for row in rows} == {"llava"}, "the server's only model, not named"
    assert {(row["kind"], row.get("model")) for row in texts} == {
        ("class", None),
        ("image", "llava"),
        ("group", "llava"),
    }
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["captioned_by"] == "llava"
    card = (tmp_path / "run/model/README.md").read_text(encoding="utf-8")
    assert "* captions of the training images: llava\n" in card
    with pytest.raises(RequestError, match="is finished"):
        fit(method, tmp_path / "run", **shapes)
    captioner = CaptionFile(path=str(tmp_path / "run/descriptions.jsonl"))
    imported = replace(method, captioner=captioner)
    fit(imported, tmp_path / "imported", **shapes)
    again = lines(tmp_path / "imported/descriptions.jsonl")
    assert [row["text"] for row in again] == [row["text"] for row in texts]


def test_describe__writes_the_groups_that_a_later_fit_asks_for(
    model: dict[str, Any], shapes: dict[str, Any], server: Any, tmp_path: Path
) -> None:
    endpoint = Endpoint(url=server.url)
    out = tmp_path / "texts.jsonl"
    names = shapes["classes"]
    groups = {"groups": 2, "group_size": 3, "seed": 5}
    result = describe(**model, captioner=endpoint, out=out, domain="kite", classes=names, **groups)
    rows = lines(out)
    written = [row for row in rows if "files" in row]
    assert [row.get("file_name") for row in rows[:14]] == [row["file_name"] for row in rows[:14]]
    assert result["groups"] == len(written) == len(rows) - 14 > 1
    assert all("common visual attributes of the kites" in row["question"] for row in written)
    assert all(2 <= len(row["files"]) <= 3 for row in written)
    asked = len(server.questions)
    method = LatteClip(
        tuning=Tuning("head", steps=2, views=1),
        captioner=endpoint,
        domain="kite",
        groups=2,
        group_size=3,
    )
    fit(method, tmp_path / "run", **shapes | {"seed": 5})
    assert len(server.questions) == asked, "every text of the fit was paid before"
    used = [row for row in lines(tmp_path / "run/descriptions.jsonl") if row["kind"] == "group"]
    assert [(row["class"], row["files"], row["text"]) for row in used] == [
        (row["class"], row["files"], row["text"]) for row in written
    ]


def test_describe__a_set_with_the_class_in_its_question_needs_no_names(
    model: dict[str, Any], server: Any, tmp_path: Path
) -> None:
    out = tmp_path / "texts.jsonl"
    describe(**model, captioner=Endpoint(url=server.url), out=out, domain="flowers102")
    question = "Describe the flower in the photo concisely, less than 20 words."
    assert {row["question"] for row in lines(out)} == {question}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"groups": 2}, r"give the class names \(--classes FILE\)"),
        ({"groups": -1, "classes": ("a", "b")}, "--groups -1 --group-size 4: give the number"),
        ({"group_size": 0}, "one image per group or more"),
        (
            {"groups": 2, "classes": ("a", "b"), "bulk": Bulk(on="ray")},
            "leave --classes and --groups out with --on ray",
        ),
    ],
)
def test_describe__refuses_groups_that_cannot_be_drawn(
    model: dict[str, Any], tmp_path: Path, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        describe(**model, out=tmp_path / "texts.jsonl", **how)
    assert not (tmp_path / "texts.jsonl").exists()


def test_describe__goes_on_after_a_stop(model: dict[str, Any], server: Any, tmp_path: Path) -> None:
    """What was answered before Ctrl-C is not asked again."""
    out = tmp_path / "texts.jsonl"
    endpoint = Endpoint(url=server.url, concurrency=1)

    def stop(**numbers: Any) -> None:
        if numbers.get("stage") == "describe" and numbers["done"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(**model, captioner=endpoint, out=out, callback=stop)
    assert not out.exists()
    before = len(server.questions)
    assert 5 <= before < 14
    describe(**model, captioner=endpoint, out=out)
    assert len(lines(out)) == 14
    assert len(server.questions) in (14, 15), "one more may have been under way"


def test_fit__a_describer_is_saved_with_the_run(
    shapes: dict[str, Any], server: Any, tmp_path: Path
) -> None:
    endpoint = Endpoint(url=server.url, model="llava", concurrency=2)
    method = LatteClip(tuning=Tuning("head", steps=1, views=1), captioner=endpoint, groups=1)
    fit(method, tmp_path / "run", **shapes)
    config = json.loads((tmp_path / "run/config.json").read_text())
    saved = config["fields"]["captioner"]
    assert (saved["kind"], saved["url"], saved["model"]) == ("endpoint", server.url, "llava")
    assert LatteClip(captioner=saved).captioner == endpoint
    assert config["captioned_by"] == "llava"
    classifier = load_classifier(tmp_path / "run")
    assert len(classifier.predict(shapes["images"])) == 14


@pytest.mark.parametrize(
    "captioner", [Vocabulary(most=2), Endpoint(size=9), BatchFiles("m", folder="f")]
)
def test_any_describer__is_told_apart_by_its_kind(captioner: Any) -> None:
    fields = json.loads(json.dumps(vars(LatteClip(captioner=captioner).captioner)))
    assert LatteClip(captioner=fields).captioner == captioner
