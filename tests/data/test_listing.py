"""Folders as cameras, phones and systems leave them: what is an image, and what lies beside."""

from pathlib import Path

import pytest

from anyclass.data import ImageDataset
from anyclass.data.image import FORMATS
from anyclass.errors import RequestError


def add(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")


def test_walk__sidecars_are_skipped_and_counted_in_one_line(tmp_path: Path) -> None:
    for i in range(7):
        add(tmp_path, f"DSC_{i}.JPG", f"DSC_{i}.NEF", f"DSC_{i}.JPG.xmp", f"IMG_{i}.heic")
    for i in range(3):
        add(tmp_path, f"IMG_{i}.MOV", f"IMG_{i}.AAE")
    others = "a.docx b.xlsx c.mp4 d.zip e.gpx f.svg desktop.ini Thumbs.db"
    add(tmp_path, *others.split())
    dataset = ImageDataset.read(tmp_path)
    expected = {f"DSC_{i}.JPG" for i in range(7)} | {f"IMG_{i}.heic" for i in range(7)}
    assert set(dataset.files) == expected
    assert dataset.skipped == (
        "skipped files that are not images (28): 7 .nef, 7 .xmp, 3 .aae, 3 .mov, 1 .db, 1 .docx "
        "and 6 more endings.",
    )


def test_walk__raw_alone_is_told_to_be_exported(tmp_path: Path) -> None:
    add(tmp_path, "a.nef", "b/c.CR2", "d.nef", "d.jpg")
    assert (
        "camera RAW without a JPEG beside it (2): 'a.nef', 'b/c.CR2'; export JPEGs to use them."
        in (ImageDataset.read(tmp_path).skipped)
    )


def test_walk__heic_without_its_decoder_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyclass.data.listing.readable_formats", lambda: FORMATS)
    add(tmp_path, "a.HEIC", "b.heif", "c.avif")
    with pytest.raises(RequestError) as caught:
        ImageDataset.read(tmp_path)
    words = "HEIC images, which need pip install 'anyclass[heif]' (2): 'a.HEIC', 'b.heif'"
    assert words in str(caught.value)
    assert "AVIF images" in str(caught.value)


def test_walk__a_class_folder_with_desktop_ini_alone_is_not_labelled(tmp_path: Path) -> None:
    add(tmp_path, "cat/1.jpg", "cat/desktop.ini", "dog/desktop.ini", "cow/2.jpg")
    classes = ImageDataset.read(tmp_path, labels="folders").classes
    assert dict(zip(classes.names, classes.kinds, strict=True)) == {
        "cat": "labelled",
        "cow": "labelled",
        "dog": "named",
    }


def test_walk__folders_of_the_system_are_left_out(tmp_path: Path) -> None:
    add(tmp_path, "cat/1.jpg", "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "__MACOSX/cat/1.jpg")
    dataset = ImageDataset.read(tmp_path, labels="folders")
    assert dataset.files == ("cat/1.jpg",)
    assert dataset.skipped == ("skipped folders of the system (2): '@eaDir', '__MACOSX'.",)


@pytest.mark.parametrize("more", ["__MACOSX/train/1.jpg", "annotations/a.xml", "empty/x/y.txt"])
def test_walk__folders_without_an_image_do_not_undo_the_split(tmp_path: Path, more: str) -> None:
    add(tmp_path, "Train/cat/1.jpg", "test/cat/2.jpg", more)
    dataset = ImageDataset.read(tmp_path, labels="folders", split="fit")
    assert dataset.files == ("Train/cat/1.jpg",)
    assert dataset.classes.names[0] == "cat"


def test_walk__folders_called_like_splits_are_mentioned(tmp_path: Path) -> None:
    add(tmp_path, "training/cat/1.jpg", "testing/cat/2.jpg")
    dataset = ImageDataset.read(tmp_path, split="fit")
    assert len(dataset) == 2
    assert "'testing', 'training' are not taken as splits" in dataset.skipped[0]
    add(tmp_path, "cat/1.jpg")
    assert ImageDataset.read(tmp_path).skipped == ()
