"""Thumbnails: made once, kept in bounded space, never of what is no image."""

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


def test_thumbnails__that_another_thread_is_writing_do_not_count(tmp_path: Path) -> None:
    """They are renamed at any moment: their size cannot be asked for."""
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / ".anyclass-0.tmp.jpg").symlink_to(folder / "renamed")
    assert Thumbnails(folder).get(tmp_path / "a.png", tmp_path).startswith(b"\xff\xd8")


def test_thumbnails__take_bounded_space(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    size = len(encoded(noise(tmp_path / "0.png", 0), tmp_path, thumbnails.SIDE))
    kept = Thumbnails(folder, most_bytes=5 * size)
    for i in range(12):
        kept.get(noise(tmp_path / f"{i}.png", i), tmp_path)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 5.2 * size
    assert len(list(folder.iterdir())) >= 3


def test_thumbnails__refuse_what_is_no_image_or_outside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    kept = Thumbnails(tmp_path / "kept")
    (root / "text.png").write_text("text")
    (root / "link.png").symlink_to(noise(tmp_path / "outside.png", 0))
    for name, reason in (("text.png", "not an image"), ("link.png", "outside"), ("no.png", "miss")):
        with pytest.raises(ImageError, match=reason):
            kept.get(root / name, root)
    assert list((tmp_path / "kept").glob("*")) == []
