"""Write into the guides what their commands print, and take the screenshots of reports.

    python scripts/refresh_docs.py [--tables] [--chromium PROGRAM]

All guides share one empty folder. The `text` block behind a `sh` or `python` block gets its output.
The comment `screenshot: RUN/report.html#SECTION WIDTHxHEIGHT` before an image says what it shows.
Tables of captioner flags and of methods are written from their classes; `--tables` does no more.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = (
    "index",
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
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```\n(\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
SCREENSHOT = re.compile(
    r"^<!-- screenshot: (\S+)#(\w+) (\d+)x(\d+) -->\n!\[[^]]*\]\(([^)\s]+)\)$", re.M
)
TABLE = re.compile(r"<!-- ([\w ]+) -->\n\|.*?<!-- end -->", re.DOTALL)
COLOURS = 256
"""Colours of a screenshot: enough for a report, and a third of the bytes."""
MARGIN = 16
"""Pixels left around what a screenshot shows."""


def main() -> None:
    """Refresh the pages."""
    parser = argparse.ArgumentParser(description="Refresh what docs/ shows of the program.")
    parser.add_argument("--tables", action="store_true", help="only the tables")
    parser.add_argument("--chromium", default="chromium", help="the browser for screenshots")
    arguments = parser.parse_args()
    for name in ("captioners.md", "methods/index.md", "guides/many_processes.md"):
        page = DOCS / name
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    if arguments.tables:
        return
    with tempfile.TemporaryDirectory() as folder:
        tour = Tour(Path(folder), arguments.chromium)
        for name in GUIDES:
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

    def refreshed(self, page: Path) -> str:
        """The text of a page with new output; its screenshots are taken on the way."""
        parts = re.compile(f"{BLOCK.pattern}|{SCREENSHOT.pattern}", re.MULTILINE | re.DOTALL)

        def refresh(part: re.Match[str]) -> str:
            if block := BLOCK.fullmatch(part.group()):
                return self.with_output(block)
            if shot := SCREENSHOT.fullmatch(part.group()):
                report, section, width, height, target = shot.groups()
                image = (page.parent / target).resolve()
                size = (int(width), int(height))
                screenshot(self.folder / report, section, size, image, self.chromium)
            return part.group()

        return parts.sub(refresh, page.read_text(encoding="utf-8"))

    def with_output(self, block: re.Match[str]) -> str:
        """A block of code, and behind it what it prints."""
        language, code, output = block.groups()
        if code.startswith("pip "):
            return block.group()
        program = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}[language]
        done = subprocess.run(
            [*program, code],
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


def screenshot(
    report: Path, section: str, size: tuple[int, int], image: Path, chromium: str
) -> None:
    """One section of a report as a small PNG, cut off at `size`; `top` is what one sees first."""
    from PIL import Image

    parts = ["header", "#scores", "#gallery"] if section == "top" else [f"#{section}"]
    shown = ", ".join(f"body {part}" for part in parts)
    style = f"""
        main > *, header, nav, footer {{ display: none !important }}
        {shown} {{ display: block !important }}
    """
    draft = report.with_name("screenshot.html")
    page = report.read_text(encoding="utf-8")
    draft.write_text(page.replace("</style>", f"{style}</style>", 1), encoding="utf-8")
    photo = report.with_name("screenshot.png")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    window = f"--window-size={size[0]},{size[1]}"
    command = [chromium, *flags, window, f"--screenshot={photo}", draft.as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    with Image.open(photo) as taken:
        cut = trimmed(taken.convert("RGB"))
        image.parent.mkdir(exist_ok=True)
        cut.quantize(COLOURS, dither=Image.Dither.NONE).save(image, optimize=True)
    draft.unlink()
    photo.unlink()


def trimmed(image: Any) -> Any:
    """The image without the empty page around what it shows, but for a margin.

    Raises:
        ValueError: it shows nothing.
    """
    from PIL import Image, ImageChops

    page = Image.new("RGB", image.size, image.getpixel((0, 0)))
    shown = ImageChops.difference(image, page).getbbox()
    if shown is None:
        raise ValueError("the screenshot is an empty page: open the report in chromium to see why")
    left, top, right, bottom = shown
    width, height = image.size
    return image.crop(
        (
            max(left - MARGIN, 0),
            max(top - MARGIN, 0),
            min(right + MARGIN, width),
            min(bottom + MARGIN, height),
        )
    )


def with_tables(page: str) -> str:
    """The page with its tables of captioner flags and of methods written anew."""

    def table(found: re.Match[str]) -> str:
        of_methods = {"methods": methods_table, "methods that share a batch": shared_table}
        name = found[1]
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
    why = "there is no encoder to train, and one process is enough"
    return "\n".join([*rows, f"| all others, and `--tune head` | refused: {why} |"])


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
