"""Frame times of the review page while it scrolls through 10,000 images, in headless Chromium.

    python benchmarks/review_page.py [--images 10000] [--chromium PROGRAM]

The images are links to 200 JPEGs of two megapixels, the predictions are random. The thumbnails are
not cached at first. A frame that takes more than 50 ms is one that a person sees.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from anyclass.data import Classes
from anyclass.errors import AnyclassError
from anyclass.files import write_json, write_manifest
from anyclass.review.app import create_app
from anyclass.review.session import Session, Tools
from anyclass.review.thumbnails import Thumbnails
from anyclass.run.columns import COMPARED

FILES = 200
"""Different images."""
CLASSES = 40
SLOW = 50
"""Milliseconds of a frame that a person sees."""
TOKEN = "benchmark"

WATCH = """() => {
  window.frames_ = [];
  let last = performance.now();
  const step = (now) => { frames_.push(now - last); last = now; requestAnimationFrame(step); };
  requestAnimationFrame(step);
}"""
SCROLL = """async ([pixels, frames]) => {
  const grid = document.getElementById("grid");
  frames_.length = 0;
  for (let i = 0; i < frames; i++) {
    grid.scrollTop += pixels;
    await new Promise(requestAnimationFrame);
  }
  return frames_.slice();
}"""
LOADED = """() => {
  const grid = document.getElementById("grid").getBoundingClientRect();
  const seen = [...document.querySelectorAll(".tile")].filter((tile) => {
    const box = tile.getBoundingClientRect();
    return box.bottom > grid.top && box.top < grid.bottom;
  });
  const images = seen.map((tile) => tile.querySelector("img"));
  return images.length && images.every((i) => i.getAttribute("src") && i.complete);
}"""


def main() -> None:
    """Print the frame times."""
    parser = argparse.ArgumentParser(description="Frame times of the review page.")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = synthetic_run(Path(name), arguments.images)
        session = Session(run, Tools(no_model, lambda *_, **__: {}), Thumbnails(Path(name) / "t"))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=arguments.chromium, args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            measure(page, serving(session))
            browser.close()
        session.close()


def measure(page: Page, address: str) -> None:
    """Print how fast the page opens and scrolls."""
    started = time.perf_counter()
    page.goto(address)
    until_loaded(page)
    print(f"first view with thumbnails   {time.perf_counter() - started:6.2f} s")
    page.evaluate(WATCH)
    page.wait_for_timeout(500)
    for name, pixels, frames in (
        ("slowly: 30 pixels a frame", 30, 300),
        ("fast: 300 pixels a frame", 300, 300),
        ("dragged: 4,000 pixels a frame", 4000, 100),
    ):
        page.evaluate("document.getElementById('grid').scrollTop = 0")
        found = np.array(page.evaluate(SCROLL, [pixels, frames]))
        slow = (found > SLOW).mean()
        print(
            f"{name:30} {len(found):4} frames, median {np.median(found):5.1f} ms, "
            f"over {SLOW} ms {slow:6.2%}, longest {found.max():6.1f} ms"
        )
    started = time.perf_counter()
    page.evaluate("document.getElementById('grid').scrollTop = 1e6")
    page.wait_for_timeout(100)
    until_loaded(page)
    print(f"thumbnails after a jump      {time.perf_counter() - started:6.2f} s")
    print(f"tiles in the page            {page.locator('.tile').count():6}")


def until_loaded(page: Page) -> None:
    """Wait until every visible tile has its thumbnail."""
    for _ in range(3000):
        if page.evaluate(LOADED):
            return
        time.sleep(0.01)
    raise SystemExit("the thumbnails do not arrive")


def no_model(run: Path) -> Any:
    """The page works without its model."""
    raise AnyclassError("this benchmark has no model")


def serving(session: Session) -> str:
    """Address of a server of the session."""
    config = uvicorn.Config(
        create_app(session, TOKEN, ["127.0.0.1"]), port=0, log_level="error", lifespan="off"
    )
    server = uvicorn.Server(config)
    Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    return f"http://127.0.0.1:{port}/?token={TOKEN}"


def synthetic_run(folder: Path, count: int) -> Path:
    """A run folder with random predictions of links to a few images."""
    draw = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir()
    for i in range(min(FILES, count)):
        pixels = draw.integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((1600, 1200)).save(images / f"{i:05}.jpg", quality=90)
    for i in range(FILES, count):
        (images / f"{i:05}.jpg").hardlink_to(images / f"{i % FILES:05}.jpg")
    names = [f"class {c}" for c in range(CLASSES)]
    label = [names[c] for c in draw.integers(0, CLASSES, count)]
    score = draw.random(count).astype(np.float32)
    cells: dict[str, Any] = {
        "file_name": [f"{i:05}.jpg" for i in range(count)],
        "label": label,
        "score": score,
        "status": ["ok"] * count,
        "zero_shot_label": label,
        "zero_shot_score": score,
    }
    columns = [cells.get(field.name, [None] * count) for field in COMPARED]
    arrays = [pa.array(cell, field.type) for cell, field in zip(columns, COMPARED, strict=True)]
    run = folder / "run"
    run.mkdir()
    pq.write_table(pa.table(arrays, schema=COMPARED), run / "predictions.parquet")
    config = {"images": str(images), "method": "open-world", "version": 1}
    write_json(run / "config.json", config | {"asked": "auto", "fields": {}})
    write_json(run / "classes.json", Classes.of(names).to_json())
    write_manifest(run)
    return run


if __name__ == "__main__":
    main()
