"""Thumbnails: made once, kept in bounded space, never of what is no image."""

import sqlite3
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyclass.errors import ImageError
from anyclass.review import thumbnails
from anyclass.review.thumbnails import Thumbnails, encoded


def noise(path: Path, seed: int, size: tuple[int, int] = (320, 200)) -> Path:
    draw = np.random.default_rng(seed)
    Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


def test_thumbnails__are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(image: Path, root: Path, side: int) -> bytes:
        made.append(image.name)
        return encoded(image, root, side)

    monkeypatch.setattr(thumbnails, "encoded", counted)
    image = noise(tmp_path / "a.png", 0)
    kept = Thumbnails(tmp_path / "kept")
    data = kept.get(image, tmp_path)
    with Image.open(BytesIO(data)) as small:
        assert (small.size, small.format) == ((256, 160), "JPEG")
    assert Thumbnails(tmp_path / "kept").get(image, tmp_path) == data
    assert made == ["a.png"]
    noise(image, 1, (64, 90))  # the file changes: another thumbnail
    with Image.open(BytesIO(kept.get(image, tmp_path))) as small:
        assert small.size == (64, 90)
    assert made == ["a.png", "a.png"]


def test_thumbnails__take_bounded_space(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    size = len(encoded(noise(tmp_path / "0.png", 0), tmp_path, thumbnails.SIDE))
    kept = Thumbnails(folder, most_bytes=5 * size)
    for i in range(12):
        kept.get(noise(tmp_path / f"{i}.png", i), tmp_path)
        assert sum(map(len, jpegs(folder))) <= 5.2 * size
    assert len(jpegs(folder)) >= 3
    assert kept.get(tmp_path / "11.png", tmp_path) == jpegs(folder)[-1], "the oldest went"
    kept.close()
    again = Thumbnails(folder, most_bytes=5 * size)  # it counts what is there
    for i in range(12, 15):
        again.get(noise(tmp_path / f"{i}.png", i), tmp_path)
    assert sum(map(len, jpegs(folder))) <= 5.2 * size
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {thumbnails.FILE}


def jpegs(folder: Path) -> list[bytes]:
    database = sqlite3.connect(folder / thumbnails.FILE)
    rows = database.execute("SELECT jpeg FROM images ORDER BY rowid").fetchall()
    database.close()
    return [row[0] for row in rows]


def test_thumbnails__a_damaged_file_is_made_again(tmp_path: Path) -> None:
    (tmp_path / thumbnails.FILE).write_bytes(b"no database" * 500)
    kept = Thumbnails(tmp_path)
    assert kept.get(noise(tmp_path / "a.png", 0), tmp_path) == jpegs(tmp_path)[0]


@pytest.mark.parametrize("opened", [True, False])
def test_thumbnails__damaged_inside_are_made_again(tmp_path: Path, opened: bool) -> None:
    images = [noise(tmp_path / f"{i}.png", i) for i in range(4)]
    file = tmp_path / "kept" / thumbnails.FILE
    kept = Thumbnails(file.parent)
    first = [kept.get(image, tmp_path) for image in images]
    kept._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = file.read_bytes()
    file.write_bytes(content[:4096] + bytes([0xA5]) * (len(content) - 4096))
    kept._database.execute("PRAGMA shrink_memory")
    if not opened:
        kept.close()
        kept = Thumbnails(file.parent)
    assert [kept.get(image, tmp_path) for image in images] == first


def test_thumbnails__are_shown_where_nothing_can_be_kept(tmp_path: Path) -> None:
    kept = Thumbnails(tmp_path)
    kept._database.execute("PRAGMA query_only = ON")
    assert kept.get(noise(tmp_path / "a.png", 0), tmp_path).startswith(b"\xff\xd8")
    assert jpegs(tmp_path) == []


def test_thumbnails__refuse_what_is_no_image_or_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    kept = Thumbnails(tmp_path / "kept")
    (root / "text.png").write_text("text")
    (root / "link.png").symlink_to(noise(tmp_path / "outside.png", 0))
    for name, reason in (("text.png", "not an image"), ("link.png", "outside"), ("no.png", "miss")):
        with pytest.raises(ImageError, match=reason):
            kept.get(root / name, root)
    assert jpegs(tmp_path / "kept") == []
