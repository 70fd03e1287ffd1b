"""The documentation: its links lead somewhere, its commands work, its tables are true."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs_hooks import on_config, on_page_markdown
from refresh_docs import AT_THE_END, BLOCK, GUIDES, SCREENSHOT, SERVED, Tour, with_tables

import anyclass
from anyclass.captioning import CAPTIONERS
from anyclass.cli import COMMANDS, main
from anyclass.commands.emoji import draw
from anyclass.methods import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "anyclass"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
CAPTIONERS_PAGE = (DOCS / "captioners.md").read_text(encoding="utf-8")
OLLAMA = "http://127.0.0.1:11434/v1"


def blocks(language: str) -> list[str]:
    """Code blocks of the page of captioners."""
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, CAPTIONERS_PAGE, re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What `page#...` may name: its headings, as GitHub and the site make anchors of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def broken(page: Path) -> list[str]:
    """Relative links and images of a page that lead nowhere."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.DOTALL)
    found = []
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target = "".join(target)
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not re.match(r"\w+:", target):
            lost = not file.exists() or (anchor and anchor not in anchors(file))
            found += [f"{page.relative_to(ROOT)}: {target}"] if lost else []
    return found


def test_pages__every_relative_link_and_image_exists() -> None:
    assert [link for page in PAGES for link in broken(page)] == []


def test_pages__every_image_is_shown_and_small() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for image in sorted((DOCS / "images").iterdir()):
        assert f"images/{image.name})" in text, f"no page shows {image.name}"
        assert image.stat().st_size < 150_000, image


def test_install_lines__name_extras_that_exist() -> None:
    """In the pages, and in what the program says where a library is missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    sources = [*PAGES, *SOURCE.rglob("*.py"), *SOURCE.rglob("*.html")]
    text = "".join(path.read_text("utf-8") for path in sources)
    named = {
        name for some in re.findall(r"anyclass\[([\w,-]+)\]", text) for name in some.split(",")
    }
    assert named == set(project["optional-dependencies"]) - {"dev", "docs"}


def test_site__has_every_page_in_its_navigation() -> None:
    config = on_config(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    linked = re.findall(r"'([\w/]+\.md)'", str(config["nav"]))
    assert len(linked) == len(set(linked))
    assert set(linked) == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


def test_site__loads_nothing_from_elsewhere() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config
    assert "strict: true" in config
    assert "http" not in config


def test_methods__those_for_torchrun_are_written_from_their_classes() -> None:
    page = (DOCS / "guides" / "many_processes.md").read_text(encoding="utf-8")
    assert with_tables(page) == page, "methods have changed: make help-pages"
    for name, kind in METHODS.items():
        assert (f"`{name}`" in page) >= bool(kind.info.divisible)


def test_methods__index_is_written_from_their_classes() -> None:
    index = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    assert with_tables(index) == index, "methods have changed: make help-pages"
    assert set(re.findall(r"\((\w+)\.md\)", index)) == {key.replace("-", "_") for key in METHODS}


def test_pages__equations_and_names_are_where_they_say() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    for page in [*sorted((DOCS / "methods").glob("*.md")), ROOT / "CONTRIBUTING.md"]:
        for file, name in re.findall(r"`([\w/]+\.py): ([\w.]+)`", page.read_text("utf-8")):
            found = [text for path, text in sources.items() if path.as_posix().endswith(f"/{file}")]
            assert found, f"{page.name}: there is no {file}"
            for part in name.split("."):
                here = any(re.search(rf"\b(def|class) {part}\b", text) for text in found)
                assert here, f"{page.name}: {file} has no {part}"


def test_api__has_every_public_name() -> None:
    page = on_page_markdown((DOCS / "api.md").read_text(encoding="utf-8"))
    shown = set(re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE))
    kinds = [*METHODS.values(), *CAPTIONERS.values()]
    estimators = {f"anyclass.estimators.{path.stem}" for path in estimator_files()}
    public = {f"anyclass.{name}" for name in anyclass.__all__ if name != "__version__"}
    assert public | estimators <= shown
    for kind in kinds:
        package = kind.__module__.rpartition(".")[0]
        assert {f"{kind.__module__}.{kind.__name__}", f"{package}.{kind.__name__}"} & shown, kind


def estimator_files() -> list[Path]:
    return sorted((SOURCE / "estimators").glob("[a-z]*.py"))


def test_command_line__shows_every_command() -> None:
    page = (DOCS / "command_line.md").read_text(encoding="utf-8")
    shown = {line.split()[0] for line in re.findall(r"<!-- help: (.+) -->", page)}
    assert shown | {"plan"} == set(COMMANDS)
    assert "## plan" in page


def test_command_line__shows_help_of_the_program_itself() -> None:
    page = on_page_markdown("<!-- help: report -->\n\ntext")
    assert page.startswith("```text\nusage: anyclass report")
    assert "--run" in page
    assert page.endswith("\n```\n\ntext")


@pytest.fixture
def folder(tmp_path: Path, tiny_clip: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; the starter is a tiny model, and the demo draws little."""
    starter = Path(tiny_clip().removeprefix("local-dir:"))
    monkeypatch.setattr("anyclass.backbone.starter.starter_folder", lambda: starter)
    monkeypatch.setattr("anyclass.backbone.engine._fastest", lambda clip: "torch")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ANYCLASS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few_emoji(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four classes instead of sixteen."""
    few = {"bird": "🐓🐔🐤🐥🐦", "insect": "🐛🐜🐝🐞", "fruit": "🍇🍈🍉🍊🍋", "shoe": "👞👟👠👡"}
    monkeypatch.setattr("anyclass.commands.emoji.IMAGES", few)
    monkeypatch.setattr("anyclass.commands.demo.IMAGES", few)


@pytest.mark.slow
def test_guides__every_block_works(
    folder: Path, few_emoji: None, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in GUIDES:
        page = (DOCS / "guides" / f"{name}.md").read_text(encoding="utf-8")
        assert not [block for block in BLOCK.findall(page) if block[2] == "\n```text\n```\n"], name
        for language, code, _ in BLOCK.findall(page):
            if language == "python":
                exec(compile(code.replace("80", "9"), f"{name}.md", "exec"), {})
            else:
                run_shell(code)
        for report, section, *_ in SCREENSHOT.findall(page):
            assert section == "top" or f'id="{section}"' in Path(report).read_text(), section


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
def test_guides__of_a_server_are_written_from_what_it_says(
    name: str, few_emoji: None, tmp_path: Path, tiny_clip: Callable[..., str]
) -> None:
    emoji = draw(tmp_path / "emoji")
    (tmp_path / "names.txt").write_text("bird\ninsect\nfruit\n", encoding="utf-8")
    about = {"classes": tmp_path / "names.txt", "model": tiny_clip()}
    anyclass.fit(emoji, out=tmp_path / "found_run", prompt_ensemble=False, **about)
    page = tmp_path / "docs" / "guides" / f"{name}.md"
    page.parent.mkdir(parents=True)
    shutil.copy(DOCS / "guides" / page.name, page)
    text = Tour(tmp_path, shutil.which("chromium") or "chromium").refreshed(page)
    assert "?token=TOKEN\nCtrl-C ends it" in text
    assert '"status": "rejected"' in text
    said = AT_THE_END.search(text)
    assert said is not None and "3 labels corrected or confirmed" in said[0]
    assert (tmp_path / "docs" / "images" / "review.png").is_file()


@pytest.mark.slow
def test_scale__tables_are_those_of_the_benchmark() -> None:
    page = (DOCS / "guides" / "scale.md").read_text("utf-8")
    assert with_tables(page) == page


def run_shell(code: str) -> None:
    """Lines of a guide: the program in this process, anything else by bash."""
    for line in code.splitlines():
        command = line.partition("|")[0]
        if command.startswith("anyclass "):
            argv = shlex.split(command.replace("--unknown 16", "--unknown 3"))
            argv = ["2" if word == "8" else word for word in argv]
            assert main(argv[1:]) == 0, line
        elif not command.startswith("pip "):
            subprocess.run(["bash", "-euc", line], check=True, capture_output=True)


@pytest.fixture
def place(folder: Path, images: Path, names: Path, server: Any) -> Any:
    """What the page of captioners takes for granted: images, names, Ollama (a fake server)."""
    shutil.copytree(images, folder / "photos")
    return server


def run(argv: list[str], server: Any) -> int:
    """A command of the page; where it names no other server, the fake one."""
    if "endpoint" in argv and "--captioner.url" not in argv:
        argv = [*argv, "--captioner.url", server.url]
    return main(argv)


def test_captioners__every_command_works(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
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
            answer_batch(Path("batch"))
            assert run(argv[1:], place) == 0
    first = json.loads(Path("llava.jsonl").read_text().splitlines()[0])
    assert sorted(first) == ["captioner", "file_name", "model", "question", "text"]
    text = " ".join(CAPTIONERS_PAGE.split())
    assert f'"{first["question"]}"' in text
    groups = [call.question for call in place.questions[14:]]
    assert groups, "the fit asked about groups"
    assert all(f'"{question}"' in text for question in groups)


def answer_batch(folder: Path) -> None:
    """What a batch service would write."""
    rows = [json.loads(row) for row in (folder / "requests-1.jsonl").read_text().splitlines()]
    body = {"choices": [{"message": {"content": "A kite."}}]}
    with (folder / "answers-1.jsonl").open("w") as file:
        for row in rows:
            response = {"status_code": 200, "body": body}
            row = {"custom_id": row["custom_id"], "response": response, "error": None}
            file.write(json.dumps(row) + "\n")


def test_captioners__the_python_block_works(place: Any) -> None:
    for code in blocks("python"):
        exec(compile(code.replace(OLLAMA, place.url), "captioners.md", "exec"), {})
    assert Path("texts.jsonl").read_text().count("\n") == 14
    assert Path("run2/manifest.json").is_file()
    assert len([call for call in place.questions if "the bird in" in call.question]) == 14


def test_captioners__tables_list_every_flag() -> None:
    for name in CAPTIONERS:
        assert f"<!-- {name} -->\n| flag " in CAPTIONERS_PAGE
    current = with_tables(CAPTIONERS_PAGE) == CAPTIONERS_PAGE
    assert current, "python scripts/refresh_docs.py --tables writes the tables of flags anew"


def test_captioners__ollama_is_the_default() -> None:
    assert CAPTIONERS["endpoint"]().url == OLLAMA  # type: ignore[operator]


def test_methods__their_commands_and_blocks_can_be_read() -> None:
    for stem in {key.replace("-", "_") for key in METHODS}:
        page = (DOCS / "methods" / f"{stem}.md").read_text(encoding="utf-8")
        for language, code, _ in BLOCK.findall(page):
            if language == "python":
                ast.parse(code)
            else:
                words = [shlex.split(line)[:2] for line in code.splitlines()]
                assert all(word == ["anyclass", "fit"] for word in words), code
