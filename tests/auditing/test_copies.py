"""Copies within a folder and across two, with equal bytes and without; labels that contradict."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyclass.auditing.copies import Images, copies_in_words, exact_findings, near_findings
from anyclass.auditing.findings import Finding
from anyclass.data import ImageDataset, content_hashes
from anyclass.data.inspection import inspect, joined
from anyclass.log import silent


def photograph(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    for side in (3, 7, 19):
        grid = draw.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
        image = Image.blend(image, Image.fromarray(grid).resize(size, 3), 0.55)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a/0 = a/1 = b/2 by bytes, b/3 links to b/4, a/5 ~ b/6; test/7 = a/0, test/8 ~ b/6."""
    for name in ("fit/a", "fit/b", "test"):
        (tmp_path / name).mkdir(parents=True)
    photograph(0).save(tmp_path / "fit/a/0.png")
    for copy in ("fit/a/1.png", "fit/b/2.png", "test/7.png"):
        shutil.copy(tmp_path / "fit/a/0.png", tmp_path / copy)
    photograph(1).save(tmp_path / "fit/b/4.png")
    (tmp_path / "fit/b/3.png").symlink_to(tmp_path / "fit/b/4.png")
    photograph(2).save(tmp_path / "fit/b/6.png")
    photograph(2).resize((60, 45)).save(tmp_path / "fit/a/5.png")
    photograph(2).crop((2, 0, 118, 87)).save(tmp_path / "test/8.png")
    photograph(3).save(tmp_path / "test/9.png")  # and its copies, in the second folder alone
    shutil.copy(tmp_path / "test/9.png", tmp_path / "test/again.png")
    photograph(3).resize((60, 45)).save(tmp_path / "test/half.png")
    return tmp_path


@pytest.fixture
def images(folder: Path) -> Images:
    fit = ImageDataset.read(folder / "fit", labels="folders")
    return Images.of(fit, ImageDataset.read(folder / "test"))


def by_issue(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.issue: finding for finding in findings}


def test_exact_findings__across_and_within(images: Images) -> None:
    found = by_issue(exact_findings(images))
    assert list(found) == ["in-evaluation", "conflicting-labels", "exact-copies"]
    assert found["in-evaluation"].rows == [{"file_name": "a/0.png", "label": "a", "other": "7.png"}]
    assert [(row["file_name"], row["label"]) for row in found["conflicting-labels"].rows] == [
        ("a/0.png", "a"),
        ("a/1.png", "a"),
        ("b/2.png", "b"),
    ]
    copies = found["exact-copies"]
    assert [(row["file_name"], row["other"], row["group"]) for row in copies.rows] == [
        ("a/1.png", "a/0.png", 1),
        ("b/2.png", "a/0.png", 1),
        ("b/4.png", "b/3.png", 2),
    ]
    assert [row.get("detail") for row in copies.rows] == [None, None, "link"]
    assert copies.summary == "3 files are copies of 2 other images, 1 of them through links"


def test_exact_findings__unlabelled_copies_contradict_nothing(folder: Path) -> None:
    images = Images.of(ImageDataset.read(folder / "fit"), None)
    assert [finding.issue for finding in exact_findings(images)] == ["exact-copies"]


def test_copies_in_words__for_a_fit(folder: Path) -> None:
    fit = ImageDataset.read(folder / "fit", labels="folders")
    words = copies_in_words(fit, content_hashes(fit))
    assert words.startswith(
        "3 files are copies of 2 other images, 1 of them through links; 1 image"
    )
    assert "different labels" in words
    assert "\n" not in words
    assert copies_in_words(fit[:1], content_hashes(fit[:1])) == ""


@pytest.mark.parametrize("with_features", [False, True])
def test_near_findings__across_and_within(images: Images, with_features: bool) -> None:
    distinct, of = np.unique(images.first, return_inverse=True)
    assert images.evaluation is not None
    size = len(images.fit)
    inner = inspect(images.fit[distinct[distinct < size]], silent)
    outer = inspect(images.evaluation[distinct[distinct >= size] - size], silent)
    features = torch.eye(len(distinct)) if with_features else None
    found = by_issue(near_findings(images, joined([inner, outer]), of, features, silent))
    (row,) = found["near-evaluation"].rows
    assert row["file_name"] in ("b/6.png", "a/5.png")
    assert (row["other"], row["value"] > 0.7) == ("8.png", True)
    near = found["near-copies"]
    assert [(row["file_name"], row["other"]) for row in near.rows] == [
        ("a/5.png", "b/6.png"),
        ("b/6.png", "a/5.png"),
    ]
    assert {row["detail"] for row in near.rows} == {"different labels"}
    assert near.summary.endswith("1 with different labels")
