"""Questions into files, answers out of files; the files of answers are hostile."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anyclass.captioning import BatchFiles, CaptionContext, CaptionRequest, image, jpeg
from anyclass.errors import RequestError

Row = dict[str, Any]


@pytest.fixture
def batch(tmp_path: Path) -> BatchFiles:
    return BatchFiles(model="seer", folder=str(tmp_path / "batch"), size=24)


def refused(
    batch: BatchFiles, requests: Sequence[CaptionRequest], context: CaptionContext, log: Any
) -> str:
    """What is said when questions have no answer yet."""
    with pytest.raises(RequestError) as caught:
        batch.describe(requests, context, log)
    return str(caught.value)


def asked(batch: BatchFiles) -> list[Row]:
    """The questions in all files of them."""
    files = sorted(Path(batch.folder).glob("requests-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def reply(row: Row, text: Any, status: int = 200) -> Row:
    """A line of OpenAI's batch output."""
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    response = {"status_code": status, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": row["custom_id"], "response": response, "error": None}


def put(batch: BatchFiles, name: str, *rows: Row | str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path(batch.folder, name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_describe__there_and_back(
    batch: BatchFiles, requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    said = refused(batch, requests, context, log)
    assert said.startswith(
        f"13 questions have no answer yet; they are in {batch.folder}/requests-1.jsonl (13). Have"
    )
    assert "run the same command again" in said
    rows = asked(batch)
    for row, request in zip(rows, requests, strict=True):
        assert (row["method"], row["url"]) == ("POST", "/v1/chat/completions")
        body = row["body"]
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("seer", 77, 0.0)
        shown, question = body["messages"][0]["content"]
        assert question == {"type": "text", "text": request.question}
        kind, _, data = shown["image_url"]["url"].partition(",")
        assert kind == "data:image/jpeg;base64"
        sent = base64.b64decode(data, validate=True)
        assert sent == jpeg(image(request, context.dataset, 24))
        size = Image.open(io.BytesIO(sent)).size
        assert size == ((672, 672) if len(request.rows) == 2 else size)
        assert len(request.rows) == 2 or size[0] == 24
    texts = [f"Text {i}." for i in range(13)]
    put(batch, "x.answers.jsonl", *[reply(rows[i], texts[i]) for i in range(9)])
    put(batch, "output_7.jsonl", *[reply(rows[i], f' "{texts[i]}"\n') for i in range(12, 8, -1)])
    assert batch.describe(requests, context, log) == texts
    assert log.warnings == []
    for file in Path(batch.folder).iterdir():
        file.unlink()
    assert batch.describe(requests, context, log) == texts, "the journal has them"
    assert list(Path(batch.folder).iterdir()) == []


def test_describe__only_what_is_missing_is_asked_for(
    batch: BatchFiles, requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    refused(batch, requests, context, log)
    rows = asked(batch)
    put(batch, "a.jsonl", *[reply(row, "Some text.") for row in rows[:4]])
    assert "9 questions have no answer yet" in refused(batch, requests, context, log)
    assert asked(batch) == rows[4:]
    Path(batch.folder, "a.jsonl").unlink()
    assert "9 questions have no answer yet" in refused(batch, requests, context, log)
    other = BatchFiles(model="other", folder=batch.folder, size=24)
    assert "13 questions" in refused(other, requests, context, log)


def test_describe__the_same_files_twice(
    batch: BatchFiles, requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    refused(batch, requests, context, log)
    before = Path(batch.folder, "requests-1.jsonl").read_bytes()
    refused(batch, requests, context, log)
    assert Path(batch.folder, "requests-1.jsonl").read_bytes() == before
    assert [path.name for path in Path(batch.folder).iterdir()] == ["requests-1.jsonl"]


@pytest.mark.parametrize(("limit", "value"), [("MOST_LINES", 5), ("MOST_BYTES", 5500)])
def test_describe__files_of_limited_size(
    batch: BatchFiles,
    requests: list[CaptionRequest],
    context: CaptionContext,
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: int,
) -> None:
    requests = requests[:12]
    refused(batch, requests, context, log)
    whole = asked(batch)
    monkeypatch.setattr(f"anyclass.captioning.batch.{limit}", value)
    said = refused(batch, requests, context, log)
    files = sorted(Path(batch.folder).glob("*.jsonl"))
    assert len(files) == 3
    assert asked(batch) == whole
    for file in files:
        lines = file.read_text().count("\n")
        assert f"{file} ({lines})" in said
        size = lines if limit == "MOST_LINES" else file.stat().st_size
        assert value * 0.7 < size <= value or file == files[-1]
    Path(batch.folder, "requests-mine.jsonl").write_text("")
    monkeypatch.undo()
    monkeypatch.setenv("ANYCLASS_CACHE", str(Path(batch.folder).parent / "cache"))
    refused(batch, requests, context, log)
    left = sorted(path.name for path in Path(batch.folder).iterdir())
    assert left == ["requests-1.jsonl", "requests-mine.jsonl"]


def test_describe__a_question_larger_than_a_file(
    batch: BatchFiles,
    requests: list[CaptionRequest],
    context: CaptionContext,
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anyclass.captioning.batch.MOST_BYTES", 10)
    refused(batch, requests[:3], context, log)
    assert len(asked(batch)) == len(list(Path(batch.folder).iterdir())) == 3


def test_describe__hostile_answers(
    batch: BatchFiles,
    requests: list[CaptionRequest],
    context: CaptionContext,
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anyclass.captioning.batch.LONGEST", 4000)
    refused(batch, requests, context, log)
    rows = asked(batch)
    good = [reply(row, f"Text {i}.") for i, row in enumerate(rows)]
    expired = {**good[3], "response": None, "error": {"code": "batch_expired"}}
    put(
        batch,
        "a.jsonl",
        "no json",
        "[" * 3000,
        "\x00\x01",
        '"text"',
        "[1]",
        "{}",
        "",
        json.dumps({**good[0], "custom_id": [1]}),
        json.dumps({**good[0], "response": "text"}),
        json.dumps({**good[0], "response": {"status_code": 200, "body": {"choices": []}}}),
        reply(rows[0], {"a": 1}),
        reply(rows[0], "x" * 20_000),
        good[0],
        reply(rows[0], "Another text."),
        {**good[1], "custom_id": "of another run"},
        reply(rows[2], "It failed.", status=500),
        expired,
        reply(rows[4], ""),
        reply(rows[5], None),
        reply(rows[6], "\u202e \u200b"),
        reply(rows[7], "a\x1b[2Jb\nc"),
        reply(rows[8], "y" * 1000),
    )
    Path(batch.folder, "b.jsonl").write_bytes(b"\xff\xfe\n" + b"z" * 9000)
    Path(batch.folder, "c.jsonl").mkdir()
    (Path(batch.folder, "d.jsonl")).symlink_to(Path(batch.folder, "nowhere"))
    said = refused(batch, requests, context, log)
    assert said.startswith("10 questions have no answer yet")
    wanted = [rows[i]["custom_id"] for i in range(13) if i not in (0, 7, 8)]
    assert [row["custom_id"] for row in asked(batch)] == wanted
    assert log.warnings == [
        f"unused lines in {batch.folder}/*.jsonl: 13 cannot be read, 1 repeat an answer, "
        "1 answer other questions, 5 contain an error or no text"
    ]
    put(batch, "e.jsonl", *[good[i] for i in range(13) if i not in (0, 7, 8)])
    texts = batch.describe(requests, context, log)
    assert texts[:4] == ["Text 0.", "Text 1.", "Text 2.", "Text 3."]
    assert texts[7:9] == ["a[2Jb c", "y" * 500]


def test_describe__errors_are_put_again_or_left_out(
    batch: BatchFiles, requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    refused(batch, requests, context, log)
    rows = asked(batch)
    put(batch, "a.jsonl", *[reply(row, "Text.") for row in rows[:12]], reply(rows[12], "", 400))
    assert "1 questions have no answer" in refused(batch, requests, context, log)
    patient = BatchFiles(model="seer", folder=batch.folder, size=24, max_failures=0.08)
    assert patient.describe(requests, context, log) == [*["Text."] * 12, None]
    assert "1 of 13 questions have no answer" in log.warnings[-1]
    Path(batch.folder, "a.jsonl").unlink()
    assert "1 questions have no answer" in refused(patient, requests, context, log), "never put"


def test_describe__a_image_that_cannot_be_used(
    batch: BatchFiles, requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    context.dataset.path(2).write_bytes(b"torn")
    assert "12 questions" in refused(batch, requests, context, log)
    put(batch, "a.jsonl", *[reply(row, "Text.") for row in asked(batch)])
    texts = batch.describe(requests, context, log)
    assert [i for i, text in enumerate(texts) if text is None] == [2]


def test_describe__nothing_asked(batch: BatchFiles, context: CaptionContext, log: Any) -> None:
    assert batch.describe([], context, log) == []
    assert not Path(batch.folder).exists()


def test_estimate__when_is_not_known(batch: BatchFiles) -> None:
    cost = BatchFiles("seer", folder="out", size=280, price_in=2.0, price_out=3.0).estimate(1000)
    assert cost[:3] == (130_000, 77_000, None)
    assert cost.megabytes_sent == pytest.approx(26.13, abs=0.01)
    assert cost.sent_to == "the service that you give the files in out"
    assert cost.dollars == pytest.approx(0.26 + 0.231)
    assert batch.estimate(5).dollars is None
