"""Screenshots for docs/: sections of a report, the notebook, the review page."""

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = 256
"""Colours of a screenshot: enough for a report, and a third of the bytes."""
MARGIN = 16
"""Pixels left around what a screenshot shows."""
LABELS = 3
"""Number of images that are labelled before the review page is shown."""
NOTEBOOK = """
body { margin: 16px; font: 14px system-ui, sans-serif; background: #fff; color: #212121 }
pre { margin: 14px 0 8px; padding: 8px 10px; background: #f5f5f5; border: 1px solid #e0e0e0 }
pre.out { margin: 0 0 8px; background: none; border: 0 }
table { border-collapse: collapse; border: 0; font-size: 13px }
th, td { padding: 3px 12px 3px 6px; border: 0; text-align: right }
tbody tr:nth-child(odd) { background: #f5f5f5 }
"""
"""Style of a notebook: that of JupyterLab, in short."""


def of_report(
    report: Path, section: str, size: tuple[int, int], image: Path, chromium: str
) -> None:
    """One section of a report as a small PNG, cut off at `size`; `top` is what one sees first."""
    parts = ["header", "#scores", "#gallery"] if section == "top" else [f"#{section}"]
    shown = ", ".join(f"body {part}" for part in parts)
    style = f"""
        main > *, header, nav, footer {{ display: none !important }}
        {shown} {{ display: block !important }}
    """
    page = report.read_text(encoding="utf-8").replace("</style>", f"{style}</style>", 1)
    _of_html(page, report.with_name("screenshot.html"), size, image, chromium)


def of_notebook(cells: list[Any], size: tuple[int, int], image: Path, chromium: str) -> None:
    """Cells of code of a notebook that was run, and what they show, as a small PNG."""
    parts = [f"<!DOCTYPE html><meta charset='utf-8'><style>{NOTEBOOK}</style>"]
    for cell in cells:
        parts.append(f"<pre>{_escaped(cell.source)}</pre>")
        parts += [_shown(output) for output in cell.outputs]
    _of_html("\n".join(parts), image.with_name("screenshot.html"), size, image, chromium)


def _shown(output: Any) -> str:
    """What a cell shows, as HTML."""
    data = output.get("data", {})
    if "text/html" in data:
        return str(data["text/html"])
    return f"<pre class='out'>{_escaped(data.get('text/plain', output.get('text', '')))}</pre>"


def _escaped(text: str) -> str:
    """Text for an HTML page."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _of_html(page: str, draft: Path, size: tuple[int, int], image: Path, chromium: str) -> None:
    """A page as a small PNG; `draft` is where the page lies meanwhile."""
    draft.write_text(page, encoding="utf-8")
    photo = draft.with_suffix(".png")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    window = f"--window-size={size[0]},{size[1]}"
    command = [chromium, *flags, window, f"--screenshot={photo}", draft.as_uri()]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    _write_small(photo, image, trim=True)
    draft.unlink()
    photo.unlink()


def _write_small(photo: Path, image: Path, trim: bool) -> None:
    """Write a screenshot with few colours, without the empty page around it if `trim`."""
    from PIL import Image

    image.parent.mkdir(exist_ok=True)
    with Image.open(photo) as taken:
        shown = taken.convert("RGB")
    if trim:
        shown = _trimmed(shown)
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(image, optimize=True)


def _trimmed(image: Any) -> Any:
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


class ReviewServer:
    """`anyclass serve` in a process of its own, from its first line to its last one."""

    TOKEN = "TOKEN"
    """What stands for the token in all texts."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [*command, "--no-browser"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines: list[str] = []
        for line in self.process.stdout or ():
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        text = "".join(lines[-2:])  # before them, what is loaded
        found = re.search(r"(http://\S+/)\?token=(\S+)", text)
        if found is None:
            raise RuntimeError(f"no address: {text}")
        self.address = found[0]
        self.token = found[2]
        self.said = text.replace(self.token, self.TOKEN)

    def screenshot(self, size: tuple[int, int], image: Path, chromium: str) -> None:
        """The page with a few labels that are given by keys, as a small PNG."""
        from playwright.sync_api import sync_playwright

        photo = image.with_name("screenshot.png")
        image.parent.mkdir(exist_ok=True)
        with sync_playwright() as playwright:
            started = playwright.chromium.launch(
                executable_path=_program(chromium), args=["--no-sandbox"]
            )
            page = started.new_page(viewport={"width": size[0], "height": size[1]})
            page.goto(self.address)
            page.locator("#top li").first.wait_for()
            for _ in range(LABELS):
                page.keyboard.press("1")
                page.locator("#status").filter(has_text="image").wait_for()
                page.wait_for_timeout(500)
            page.locator("#top li").nth(2).wait_for()  # the model is loaded
            page.wait_for_timeout(5000)  # until the last message is gone
            page.screenshot(path=photo)
            started.close()
        _write_small(photo, image, trim=False)
        photo.unlink()

    def close(self) -> str:
        """End it as Ctrl-C does; what it says then."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=60)
        return str(said).replace("stopping\n", "")


def _program(name: str) -> str:
    """The full path of a program."""
    import shutil

    return shutil.which(name) or os.fspath(name)
