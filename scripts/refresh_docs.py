"""Write into the guides what their commands print, and take the screenshots of reports.

    python scripts/refresh_docs.py [--tables] [--chromium PROGRAM]

All guides share one empty folder. The `text` block behind a `sh` or `python` block gets its output.
The comment `screenshot: RUN/report.html#SECTION WIDTHxHEIGHT` before an image says what it shows;
`serve#page` is the review page. `anyclass serve` runs until the end of its page; what it says then
goes below the comment `at the end`. Tables of captioner flags, of methods and of bytes, hours and
dollars are written from their sources; `--tables` does no more.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from screenshots import ReviewServer, of_report

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GUIDES = (
    "index",
    "audit",
    "your_files",
    "names_only",
    "labels_and_names",
    "labels_and_unknown",
    "nothing_known",
    "correct_and_repeat",
    "features",
    "export",
    "python",
)
"""Pages of docs/guides, in the order in which their commands are run."""
SERVED = ("review",)
"""Pages whose first command is a server; they are run after the others."""
TABLES = ("captioners.md", "methods/index.md", "guides/many_processes.md", "guides/scale.md")
"""Pages with tables that are written from their sources."""
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```\n(\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
SCREENSHOT = re.compile(
    r"^<!-- screenshot: (\S+)#(\w+) (\d+)x(\d+) -->\n!\[[^]]*\]\(([^)\s]+)\)$", re.M
)
TABLE = re.compile(r"<!-- ([\w ]+) -->\n\|.*?<!-- end -->", re.DOTALL)
AT_THE_END = re.compile(r"^<!-- at the end -->\n```text\n.*?^```\n", re.MULTILINE | re.DOTALL)
PRICES = ("--price-in", "0.15", "--price-out", "0.6")
"""Dollars per million tokens in the table of dollars."""
SCALE = ("bytes", "hours", "dollars")
"""Tables of benchmarks/scale.py."""


def main() -> None:
    """Refresh the pages."""
    parser = argparse.ArgumentParser(description="Refresh what docs/ shows of the program.")
    parser.add_argument("--tables", action="store_true", help="only the tables")
    parser.add_argument("--chromium", default="chromium", help="the browser for screenshots")
    arguments = parser.parse_args()
    for name in TABLES:
        page = DOCS / name
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    if arguments.tables:
        return
    with tempfile.TemporaryDirectory() as folder:
        tour = Tour(Path(folder), arguments.chromium)
        for name in (*GUIDES, *SERVED):
            page = DOCS / "guides" / f"{name}.md"
            page.write_text(tour.refreshed(page), encoding="utf-8")


class Tour:
    """A folder in which the commands of all guides are run, one after the other."""

    def __init__(self, folder: Path, chromium: str) -> None:
        self.folder = folder
        self.chromium = chromium
        self.environment = os.environ | {"HOME": str(folder)}
        for variable in ("ANYCLASS_CACHE", "XDG_CACHE_HOME"):
            self.environment.pop(variable, None)
        programs = Path(sys.executable).parent
        self.environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self.server: ReviewServer | None = None

    def refreshed(self, page: Path) -> str:
        """The text of a page with new output; its screenshots are taken on the way."""
        parts = re.compile(f"{BLOCK.pattern}|{SCREENSHOT.pattern}", re.MULTILINE | re.DOTALL)

        def refresh(part: re.Match[str]) -> str:
            if block := BLOCK.fullmatch(part.group()):
                return self.with_output(block)
            if shot := SCREENSHOT.fullmatch(part.group()):
                source, section, width, height, target = shot.groups()
                image = (page.parent / target).resolve()
                self.take(source, section, (int(width), int(height)), image)
            return part.group()

        text = parts.sub(refresh, page.read_text(encoding="utf-8"))
        if self.server is None:
            return text
        said = self.server.close()
        self.server = None
        return AT_THE_END.sub(lambda _: f"<!-- at the end -->\n```text\n{said}```\n", text)

    def take(self, source: str, section: str, size: tuple[int, int], image: Path) -> None:
        """Take a screenshot of a report, or of the review page."""
        if source != "serve":
            of_report(self.folder / source, section, size, image, self.chromium)
        elif self.server is not None:
            self.server.screenshot(size, image, self.chromium)

    def with_output(self, block: re.Match[str]) -> str:
        """A block of code, and behind it what it prints."""
        language, code, output = block.groups()
        if code.startswith("pip "):
            return block.group()
        if code.startswith("anyclass serve "):
            self.server = ReviewServer(shlex.split(code), self.folder, self.environment)
            return f"```{language}\n{code}```\n\n```text\n{self.server.said}```\n"
        token = ReviewServer.TOKEN if self.server is None else self.server.token
        program = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}[language]
        done = subprocess.run(
            [*program, code.replace(ReviewServer.TOKEN, token)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        if output is None:
            return block.group()
        printed = done.stdout.replace(str(self.folder), "~")
        return f"```{language}\n{code}```\n\n```text\n{printed}```\n"


def with_tables(page: str) -> str:
    """The page with its tables written anew."""

    def table(found: re.Match[str]) -> str:
        of_methods = {"methods": methods_table, "methods that share a batch": shared_table}
        name = found[1]
        if name in SCALE:
            lines = scale_tables()[name]
        else:
            lines = of_methods[name]() if name in of_methods else flag_table(name)
        return f"<!-- {name} -->\n{lines}\n<!-- end -->"

    return TABLE.sub(table, page)


def methods_table() -> str:
    """Methods by what is known of the classes, with links, as a Markdown table."""
    from anyclass.methods import METHODS, Situation

    rows = ["| you have | methods |", "|---|---|"]
    for situation in Situation:
        kinds = [kind for kind in METHODS.values() if situation in kind.info.situations]
        links = [f"[{kind.info.title}]({kind.__module__.rpartition('.')[2]}.md)" for kind in kinds]
        rows.append(f"| {situation.words} | {', '.join(links)} |")
    return "\n".join(rows)


def shared_table() -> str:
    """Methods that several processes can train together, by the part of the model they train."""
    from anyclass.methods import METHODS

    names: dict[tuple[str, ...], list[str]] = {}
    for name, kind in METHODS.items():
        names.setdefault(kind.info.divisible, []).append(f"`{name}`")
    names.pop((), None)
    rows = ["| method | with torchrun |", "|---|---|"]
    for parts, methods in sorted(names.items(), key=lambda row: -len(row[0])):
        rows.append(f"| {', '.join(methods)} | `--tune {'` or `'.join(parts)}` |")
    trained = {name for name, kind in METHODS.items() if kind().workload(1, 1).trains}
    alone = [
        f"`{name}`" for name in METHODS if name in trained and not METHODS[name].info.divisible
    ]
    rows.append(f"| {', '.join(alone)} | refused: the training is not shared |")
    why = "there is no encoder to train, and one process is enough"
    return "\n".join([*rows, f"| all others, and `--tune head` | refused: {why} |"])


@cache
def scale_tables() -> dict[str, str]:
    """Tables of benchmarks/scale.py by their names: bytes, hours and dollars."""
    command = [sys.executable, str(ROOT / "benchmarks" / "scale.py"), *PRICES]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    tables = done.stdout.split("\n\n")[:3]
    return dict(zip(SCALE, tables, strict=True))


def flag_table(captioner: str) -> str:
    """Flags of one captioner with defaults and texts, as a Markdown table."""
    return "\n".join(["| flag | default | |", "|---|---|---|", *_rows(captioner)])


def _rows(captioner: str) -> Iterator[str]:
    from anyclass.captioning import CAPTIONERS

    for field, about in vars(CAPTIONERS[captioner])["__pydantic_fields__"].items():
        if field == "kind":
            continue
        flag = "--allow-remote" if field == "allow_remote" else f"--captioner.{field}"
        default = "required" if about.is_required() else about.default
        if default not in ("required", "", ()):
            default = f"`{default}`"
        text = " ".join(about.description.split())
        yield f"| `{flag.replace('_', '-')}` | {default or ''} | {text} |"


if __name__ == "__main__":
    main()
