"""Sentences that people read use the words of the field: what earlier versions wrote is gone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source import nodes

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "anyclass"
HISTORY = {"CHANGELOG.md", "LOG.md"}
"""Pages that quote what was written before."""

REPLACED = {
    r"pictures?": "image",
    r"photo(graph)?s? shown": "labelled images",
    r"describers?": "captioner",
    r"(held|keeps?|kept) back": "held out, holdout",
    r"chances": "probabilities",
    r"rivals?": "baselines",
    r"surest": "most confident",
    r"put (right|wrong)": "fixed or broken by adaptation",
    r"mind this": "warning",
    r"taken for what": "confusion matrix",
    r"looking at images": "embedding",
    r"against its own kind": "among the labelled, among the unknown classes",
    r"further ones": "further classes",
    r"how-manieth": "index",
    r"over-guess\w*": "class prior",
    r"made features": "synthetic features",
    r"learned from": "trained on",
    r"1 (labels|images|classes|files) (are|have)": "the singular",
    r"inductive protocol": "on new images",
}
"""Words of version 0.1 -> what is written instead."""

INTERNAL = {
    r"towers?": "image encoder, text encoder",
    r"clustering accuracy v2": "clustering accuracy",
    r"transductive": "on the images of the fit",
    r"inductive": "on new images",
}
"""Words for readers of the source -> what errors, warnings and help pages say instead."""

PATTERN = re.compile(rf"\b({'|'.join(REPLACED)})\b", re.IGNORECASE)
READ = re.compile(r"INSERT OR IGNORE|TEXT PRIMARY KEY|^imagepath filename")
"""Columns of the databases and tables that users have."""


def sentences() -> Iterator[tuple[str, str]]:
    """Every page, help page and template, and every text with a space in the source."""
    pages = {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), PACKAGE / "commands" / "help.json"}
    templates = {*PACKAGE.rglob("*.html"), *PACKAGE.rglob("*.j2"), *PACKAGE.rglob("*.js")}
    for path in sorted(pages | templates):
        if path.name not in HISTORY:
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                if not READ.search(node.value):
                    yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", node.value


def messages() -> Iterator[tuple[str, str]]:
    """Every text in a raised error, a warning and the help pages."""
    yield "help.json", (PACKAGE / "commands" / "help.json").read_text("utf-8")
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in nodes(path):
            if isinstance(node, ast.Raise) or (
                isinstance(node, ast.keyword) and node.arg == "warning"
            ):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path.relative_to(ROOT).as_posix()}:{part.lineno}", part.value


def outdated(text: str, pattern: re.Pattern[str] = PATTERN) -> list[str]:
    """Words of a text that were replaced."""
    return [match.group() for match in pattern.finditer(text)]


def test_messages__have_no_word_for_readers_of_the_source() -> None:
    pattern = re.compile(rf"\b({'|'.join(INTERNAL)})\b", re.IGNORECASE)
    found = {place: words for place, text in messages() if (words := outdated(text, pattern))}
    assert found == {}
    assert len(list(messages())) > 500
    assert outdated("for the tower only", pattern) == ["tower"]


def test_sentences__have_no_word_that_was_replaced() -> None:
    found = {place: words for place, text in sentences() if (words := outdated(text))}
    assert found == {}


@pytest.mark.parametrize("text", ["3 pictures", "Mind this: a", "1 labels are not", "put right"])
def test_outdated__finds_words(text: str) -> None:
    assert outdated(text)
