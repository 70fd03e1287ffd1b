"""Files that nobody should trust, in one folder: each keeps its row and its reason."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from anyclass.commands.predict import predict
from anyclass.errors import AnyclassError
from tests.data.test_image import bomb, encode, repeated_scans


def hostile(root: Path) -> dict[str, str | None]:
    """Files in `root` -> why they are rejected; None for a good image with an odd name."""
    good = encode(Image.new("RGB", (30, 20), (200, 30, 40)), "JPEG")
    eps = io.BytesIO()
    Image.new("RGB", (30, 20)).save(eps, "EPS")
    files: dict[str, tuple[bytes, str | None]] = {
        "cut.jpg": (good[: len(good) // 2], "truncated or damaged"),
        "empty.jpg": (b"", "not an image"),
        "eps.jpg": (eps.getvalue(), "not an image"),
        "bomb.png": (bomb(20_000, 20_000), "too many pixels"),
        "scans.jpg": (repeated_scans(400), "too many scans"),
        "parts.jpg": (good[:2] + b"\xff\xfe\0\2" * 5000 + good[2:], "too many parts"),
        "wrong ending.png": (good, None),
        "<img src=x onerror=alert(1)>.jpg": (good, None),
        '=cmd|\' "quoted".jpg': (good, None),
        "a\nb.jpg": (good, None),
        "\u202egnp.jpg": (good, None),
    }
    for name, (data, _) in files.items():
        (root / name).write_bytes(data)
    found = {name: reason for name, (_, reason) in files.items()}
    (root.parent / "outside.jpg").write_bytes(good)
    (root / "out.jpg").symlink_to(root.parent / "outside.jpg")
    return found | {"out.jpg": "outside the folder"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")
def test_predict__each_hostile_file_keeps_its_row_and_reason(fitted: Any, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    wanted = hostile(root)
    os.mkfifo(root / "pipe.jpg")
    out = tmp_path / "labels.parquet"
    share = sum(reason is not None for reason in wanted.values()) / len(wanted)
    with pytest.raises(AnyclassError, match="could not be read; the reasons are in"):
        predict(fitted.run, root, out, max_rejected=share - 0.1)
    rows = {row["file_name"]: row for row in pq.read_table(out).to_pylist()}
    for name, reason in wanted.items():
        row = rows[name]
        if reason is None:
            assert (row["status"], row["reason"]) == ("ok", None)
            assert 0 < row["score"] <= 1
        else:
            assert (row["status"], row["label"], row["score"]) == ("rejected", None, None)
            assert row["reason"].startswith(reason)
    rejected = predict(fitted.run, root, out, overwrite=True, max_rejected=share + 0.1)["rejected"]
    assert rejected in (7, 8)  # a pipe may be left out of the listing
