"""Captions written elsewhere: found by the names of images, counted where they are missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from anyclass.captioning import CaptionContext, CaptionFile, CaptionRequest
from anyclass.errors import RequestError


def written(path: Path, *rows: Any) -> CaptionFile:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    return CaptionFile(path=str(path))


def test_caption_file__texts_of_images_groups_and_variants(
    requests: list[CaptionRequest], context: CaptionContext, tmp_path: Path, log: Any
) -> None:
    files = context.dataset.files
    rows = [{"file_name": files[i], "text": f"text {i}", "captioner": "x"} for i in range(11)]
    group = {"kind": "group", "files": [files[13], files[12]], "text": "both\u202e\n of them"}
    other = {"kind": "class", "class": "kite", "text": "a photo of a kite."}
    second = {"file_name": files[0], "text": "second"}
    captioner = written(tmp_path / "texts.jsonl", other, *rows, group, second)
    wanted = [*(f"text {i}" for i in range(11)), None, "both of them"]
    assert captioner.describe(requests, context, log) == wanted
    path = tmp_path / "texts.jsonl"
    assert log.warnings == [f"{path} has no text for 1 of 12 images; these have none"]
    again = requests[0]._replace(variant=1)
    assert captioner.describe([again], context, log) == ["second"]
    assert captioner.answered_by == "texts in texts.jsonl"
    assert captioner.estimate(9).calls == 0


def test_caption_file__a_folder_with_a_text_per_image(
    requests: list[CaptionRequest], context: CaptionContext, tmp_path: Path, log: Any
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    for i in (0, 1):
        (folder / Path(context.dataset.files[i]).with_suffix(".txt")).write_text(f"text {i}\nmore")
    (folder / Path(context.dataset.files[2]).with_suffix(".txt")).symlink_to("../secret.txt")
    captioner = CaptionFile(path=str(folder))
    said = captioner.describe(requests, context, log)
    assert said == ["text 0", "text 1", *[None] * 11], "no link out of the folder is followed"
    assert [line.split("texts ")[-1] for line in log.warnings] == [
        "has no text for 10 of 12 images; these have none",
        "has no text for 1 of 1 groups; these have none",
    ]
    assert captioner.describe([requests[0]._replace(variant=1)], context, log) == ["more"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"file_name": "x.png", "text": "a"}\n', "no text of any image: .* such as 00.png"),
        ('{"file_name": "x.png", "text": 3}\n', "line 1: .*valid string.* with file_name and text"),
        ('\n{"text": "a"}\n', "line 2: .*neither file_name nor files"),
        ("a cat\n", "line 1: Expecting value"),
        ("[" * 100_000, "line 1: "),
    ],
)
def test_caption_file__a_wrong_file_is_one_line(
    requests: list[CaptionRequest],
    context: CaptionContext,
    tmp_path: Path,
    log: Any,
    content: str,
    told: str,
) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(content)
    with pytest.raises(RequestError, match=told):
        CaptionFile(path=str(path)).describe(requests, context, log)
    path.unlink()
    with pytest.raises(RequestError, match="No such file"):
        CaptionFile(path=str(path)).describe(requests, context, log)
