"""Every command and every table of docs/captioners.md: they work, and they are true."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anyclass.captioning import CAPTIONERS
from anyclass.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "captioners.md").read_text(encoding="utf-8")
OLLAMA = "http://127.0.0.1:11434/v1"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(
    tmp_path: Path,
    images: Path,
    names: Path,
    tiny_clip: Callable[..., str],
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """What the page takes for granted: images, names, and Ollama, which is the fake server."""
    shutil.copytree(images, tmp_path / "photos")
    starter = Path(tiny_clip().removeprefix("local-dir:"))
    monkeypatch.setattr("anyclass.backbone.starter.starter_folder", lambda: starter)
    monkeypatch.setattr("anyclass.backbone.engine._fastest", lambda clip: "torch")
    monkeypatch.setenv("ANYCLASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return server


def run(argv: list[str], server: Any) -> int:
    """A command of the page; where it names no other server, the fake one."""
    if "endpoint" in argv and "--captioner.url" not in argv:
        argv = [*argv, "--captioner.url", server.url]
    return main(argv)


def test_page__every_command_works(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert {argv[0] for argv in lines} == {"anyclass"}
    used = {argv[argv.index("--captioner") + 1] for argv in lines if "--captioner" in argv}
    assert used == set(CAPTIONERS) - {"vocabulary"}
    for argv in lines:
        later = "batch" in argv
        assert run(argv[1:], place) == (2 if later else 0), argv
        said = capsys.readouterr()
        assert said.out or later
        if "--allow-remote" in argv:
            assert "MB to api.example.com" in said.out
        if later:
            asked = Path("batch/requests-1.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in asked]
            body = {"choices": [{"message": {"content": "A kite."}}]}
            with Path("batch/answers-1.jsonl").open("w") as file:
                for row in rows:
                    response = {"status_code": 200, "body": body}
                    row = {"custom_id": row["custom_id"], "response": response, "error": None}
                    file.write(json.dumps(row) + "\n")
            assert run(argv[1:], place) == 0
    first = json.loads(Path("llava.jsonl").read_text().splitlines()[0])
    assert sorted(first) == ["captioner", "file_name", "question", "text"]
    assert f'"{first["question"]}"' in " ".join(PAGE.split())
    groups = [call.question for call in place.questions[14:]]
    assert groups, "the fit asked about groups"
    assert all(f'"{question}"' in " ".join(PAGE.split()) for question in groups)


def test_page__the_python_block_works(place: Any) -> None:
    for code in blocks("python"):
        exec(compile(code.replace(OLLAMA, place.url), "captioners.md", "exec"), {})
    assert Path("texts.jsonl").read_text().count("\n") == 14
    assert Path("run2/manifest.json").is_file()
    assert len([call for call in place.questions if "the bird in" in call.question]) == 14


@pytest.mark.parametrize("name", CAPTIONERS)
def test_page__has_every_flag(name: str) -> None:
    rows = ["| flag | default | |", "|---|---|---|"]
    for field, about in CAPTIONERS[name].__pydantic_fields__.items():  # type: ignore[attr-defined]
        flag = "--allow-remote" if field == "allow_remote" else f"--captioner.{field}"
        default = "required" if about.is_required() else about.default
        default = default if default in ("required", "", ()) else f"`{default}`"
        if field != "kind":
            text = " ".join(about.description.split())
            rows.append(f"| `{flag.replace('_', '-')}` | {default or ''} | {text} |")
    assert f"<!-- {name} -->\n" + "\n".join(rows) + "\n<!-- end -->" in PAGE


def test_page__ollama_is_the_default() -> None:
    assert CAPTIONERS["endpoint"]().url == OLLAMA  # type: ignore[operator]
