"""ImageDataset: folders, names and tables become one table, or a sentence that says why not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from anyclass.data import Classes, ImageDataset
from anyclass.errors import RequestError

FILES = ("b dog/2.png", "b dog/10.JPG", "cat/é.webp", "cat/deep/x", "top.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five candidates, whose content nobody looks at here."""
    for name in FILES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"1")
    return tmp_path / "images"


def add(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")


def labels_of(dataset: ImageDataset) -> dict[str, str | None]:
    names = [dataset.classes.names[c] if c >= 0 else None for c in dataset.labels]
    return dict(zip(dataset.files, names, strict=True))


def test_read__walks_the_folder_in_code_point_order(root: Path) -> None:
    dataset = ImageDataset.read(root)
    assert dataset.files == ("b dog/10.JPG", "b dog/2.png", "cat/deep/x", "cat/é.webp", "top.jpg")
    assert dataset.root == root
    assert dataset.path(1) == root / "b dog" / "2.png"
    assert len(dataset) == 5
    assert dataset.labels.tolist() == [-1] * 5
    assert dataset.labels.dtype == np.int64
    assert len(dataset.classes) == 0
    assert dataset.skipped == ()


def test_read__the_order_of_the_listing_is_irrelevant(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ImageDataset.read(root, labels="folders")
    walk = os.walk

    def shuffled(*arguments, **options):
        for folder, folders, names in walk(*arguments, **options):
            folders.reverse()
            yield folder, folders, names[::-1]

    monkeypatch.setattr(os, "walk", shuffled)
    dataset = ImageDataset.read(root, labels="folders")
    assert dataset.files == expected.files
    assert dataset.labels.tolist() == expected.labels.tolist()


def test_read__says_what_it_leaves_out(root: Path) -> None:
    add(root, ".git/a.jpg", "cat/.ipynb_checkpoints/b.jpg", "cat/._2.jpg", "Thumbs.db")
    add(root, "notes.TXT", "x.csv", "y.json")
    (root / "empty").write_bytes(b"")
    (root / "linked").symlink_to(root / "cat", target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    dataset = ImageDataset.read(root)
    assert set(dataset.files) == set(FILES)
    assert dataset.skipped == (
        "skipped files that are not images (5): 1 .csv, 1 .db, 1 .json, 1 .txt, 1 no ending.",
        "skipped hidden files (1): 'cat/._2.jpg'.",
        "skipped hidden folders (2): '.git', 'cat/.ipynb_checkpoints'.",
        "skipped linked folders (2): 'linked', 'loop'; set ANYCLASS_LINKS to a folder to follow "
        "links that stay below it.",
    )


def test_read__says_which_folder_it_may_not_enter(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def denying(path):
        if Path(path).name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denying)
    assert ImageDataset.read(root).skipped == ("skipped unreadable folders (1): 'cat'.",)


def test_read__folders_and_files_without_permission(tmp_path: Path) -> None:
    """In a process without root's rights: the one of the tests may have them."""
    code = """
import os, sys, tempfile
from pathlib import Path
from anyclass.data import ImageDataset, open_image
from anyclass.errors import ImageError
if os.geteuid() == 0:
    os.setuid(65534)
with tempfile.TemporaryDirectory() as name:
    root = Path(name)
    for folder in ("open", "closed", "listed", "listed/sub"):
        (root / folder).mkdir()
    for file in ("open/a.jpg", "closed/b.jpg", "listed/c", "listed/sub/d.jpg"):
        (root / file).write_bytes(b"1")
    (root / "open/a.jpg").chmod(0)
    (root / "closed").chmod(0)
    (root / "listed").chmod(0o444)
    photos = ImageDataset.read(root)
    print(*photos.files, *photos.skipped, sep=chr(10))
    for i in range(2):
        try:
            open_image(photos.path(i), root)
        except ImageError as error:
            print(error.reason)
    (root / "closed").chmod(0o777)
    (root / "listed").chmod(0o777)
"""
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "listed/c",
        "open/a.jpg",
        "skipped unreadable folders (2): 'closed', 'listed/sub'.",
        "unreadable",
        "unreadable",
    ]


def test_read__names_that_are_no_utf8_are_left_out(root: Path) -> None:
    for name in (b"caf\xe9.jpg", b"d\xe9/a.jpg"):
        path = os.fsencode(root) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 (bytes)
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(b"1")
    dataset = ImageDataset.read(root, labels="folders")
    assert set(dataset.files) == set(FILES)
    assert dataset.skipped == (
        "skipped files whose names are not UTF-8 (1): 'caf\\udce9.jpg'.",
        "skipped folders whose names are not UTF-8 (1): 'd\\udce9'.",
    )


def test_read__links_to_files_are_candidates(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.jpg").write_bytes(b"1")
    (root / "cat" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    assert "cat/link.jpg" in ImageDataset.read(root).files


def test_read__root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert ImageDataset.read(tmp_path / "link").root == root


def test_read__nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no image in"):
        ImageDataset.read(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(RequestError, match=r"no image in .*skipped files .*a\.txt"):
        ImageDataset.read(tmp_path)
    with pytest.raises(RequestError, match="is a file, not a folder"):
        ImageDataset.read(tmp_path / "a.txt")
    with pytest.raises(RequestError, match="does not exist"):
        ImageDataset.read(tmp_path / "gone")


def test_folders__the_parent_folder_is_the_label(root: Path) -> None:
    (root / "zebra" / "none yet").mkdir(parents=True)
    dataset = ImageDataset.read(root, labels="folders")
    assert dataset.classes.names == ("b dog", "cat", "deep", "none yet")
    assert dataset.classes.kinds == ("labelled", "labelled", "labelled", "named")
    assert labels_of(dataset) == {
        "b dog/10.JPG": "b dog",
        "b dog/2.png": "b dog",
        "cat/deep/x": "deep",
        "cat/é.webp": "cat",
        "top.jpg": None,
    }


def test_folders__names_are_compared_as_nfc(tmp_path: Path) -> None:
    add(tmp_path, "cafe\u0301 /a.jpg", "dog/b.jpg")
    dataset = ImageDataset.read(tmp_path, ["dog", "caf\u00e9"], labels="folders")
    assert dataset.labels.tolist() == [1, 0]


def test_classes__given_ones_keep_their_order_and_prompts(root: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"a pup": "b dog", "a cow": "cow", "a cat": "cat", "depth": "deep"}')
    dataset = ImageDataset.read(root, names, labels="folders", unknown=3)
    assert dataset.classes == Classes(
        names=("b dog", "cow", "cat", "deep"),
        kinds=("labelled", "named", "labelled", "labelled"),
        prompts=("a pup", "a cow", "a cat", "depth"),
        unknown=3,
    )
    assert dataset.labels.tolist() == [0, 0, 3, 2, -1]


def test_classes__labels_that_are_not_among_them_are_listed(root: Path) -> None:
    with pytest.raises(RequestError, match=r"these labels .*: 'b dog', 'deep'\. 3 images.*Add"):
        ImageDataset.read(root, ["cat", "cow"], labels="folders")


def test_classes__an_empty_folder_that_is_no_class_is_ignored(root: Path) -> None:
    (root / "notes").mkdir()
    dataset = ImageDataset.read(root, ["deep", "cat", "b dog"], labels="folders")
    assert dataset.classes.names == ("deep", "cat", "b dog")


SPLITS = ("train/dog/1.jpg", "train/cat/2.jpg", "train/3.jpg", "Val/dog/4.jpg", "test/cow/5.jpg")


def test_split__fit_never_sees_the_test_images(tmp_path: Path) -> None:
    add(tmp_path, *SPLITS)
    dataset = ImageDataset.read(tmp_path, labels="folders", split="fit")
    assert dataset.files == ("Val/dog/4.jpg", "train/3.jpg", "train/cat/2.jpg", "train/dog/1.jpg")
    assert dataset.classes.names == ("cat", "dog")
    assert dataset.labels.tolist() == [1, -1, 0, 1]
    assert dataset.skipped == ("skipped images of the test split (1).",)


def test_split__all_takes_every_image(tmp_path: Path) -> None:
    add(tmp_path, *SPLITS)
    dataset = ImageDataset.read(tmp_path, labels="folders", split="all")
    assert len(dataset) == 5
    assert dataset.classes.names == ("cat", "cow", "dog")
    assert dataset.skipped == ()


@pytest.mark.parametrize("more", ["cow/6.jpg", "training/6.jpg"])
def test_split__other_folders_beside_make_them_classes(tmp_path: Path, more: str) -> None:
    add(tmp_path, "train/1.jpg", "test/2.jpg", more)
    dataset = ImageDataset.read(tmp_path, labels="folders", split="fit")
    assert len(dataset) == 3
    assert set(dataset.classes.names) == {"test", "train", more.split("/")[0]}


def test_split__test_alone_is_no_split(tmp_path: Path) -> None:
    add(tmp_path, "test/1.jpg")
    assert len(ImageDataset.read(tmp_path, split="fit")) == 1


def test_split__only_test_images_leave_nothing_to_fit(tmp_path: Path) -> None:
    add(tmp_path, "test/1.jpg")
    (tmp_path / "train").mkdir()
    with pytest.raises(RequestError, match=r"no image .*test split \(1\)"):
        ImageDataset.read(tmp_path, split="fit")


def test_table__csv_of_some_images(root: Path) -> None:
    table = root / "labels.csv"
    table.write_text(
        "\ufefffile_name,label,other\n"
        'cat/é.webp,"cat, small",1\n'
        "b dog/10.JPG,dog,2,3\n"
        "top.jpg,,3\n"
        "./b dog/../b dog/2.png, dog ,4\n"
        "b dog/2.png,dog\n",
        encoding="utf-8",
    )
    dataset = ImageDataset.read(root, labels=table)
    assert dataset.classes.names == ("cat, small", "dog")
    assert labels_of(dataset) == {
        "b dog/10.JPG": "dog",
        "b dog/2.png": "dog",
        "cat/deep/x": None,
        "cat/é.webp": "cat, small",
        "top.jpg": None,
    }


def test_table__other_columns_and_absolute_paths(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(f"path,species,label\n{root}/top.jpg,cow,x\nimages/cat/é.webp,cat,x\n")
    dataset = ImageDataset.read(root, labels=table, file_column="path", label_column="species")
    assert labels_of(dataset)["top.jpg"] == "cow"
    assert labels_of(dataset)["cat/é.webp"] == "cat"


def test_table__paths_are_relative_to_the_table_first(tmp_path: Path) -> None:
    add(tmp_path, "1.jpg", "sub/1.jpg")
    table = tmp_path / "sub" / "labels.csv"
    table.write_text("image_path,label\n1.jpg,below\n../1.jpg,above\n")
    assert labels_of(ImageDataset.read(tmp_path, labels=table)) == {
        "1.jpg": "above",
        "sub/1.jpg": "below",
    }


def test_table__cells_that_csv_had_to_quote_come_back(tmp_path: Path) -> None:
    add(tmp_path, "=1.jpg", "'=1.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\n'=1.jpg,'-dog\n''=1.jpg,cat\n")
    assert labels_of(ImageDataset.read(tmp_path, labels=table)) == {
        "=1.jpg": "-dog",
        "'=1.jpg": "cat",
    }


def test_table__jsonl(root: Path) -> None:
    table = root / "labels.jsonl"
    table.write_text(
        '{"image_path": "top.jpg", "label": 7}\n\n{"image_path": "cat/deep/x"}\n'
        '{"image_path": "cat/é.webp", "label": null}\n',
        encoding="utf-8",
    )
    dataset = ImageDataset.read(root, ["07", "7"], labels=table)
    assert dataset.labels.tolist() == [-1, -1, -1, -1, 1]


def test_table__parquet(root: Path) -> None:
    columns = {
        "file_name": ["top.jpg", "cat/é.webp", "cat/deep/x", "b dog/2.png"],
        "label": pa.array(["cow", None, "007", "cow"]).dictionary_encode(),
        "pixels": [b"1", b"2", b"3", b"4"],
    }
    parquet.write_table(pa.table(columns), root / "labels.parquet")
    dataset = ImageDataset.read(root, labels=root / "labels.parquet")
    assert dataset.classes.names == ("007", "cow")
    assert dataset.labels.tolist() == [-1, 1, 0, -1, 1]


def test_table__says_which_rows_name_no_image(root: Path) -> None:
    table = root / "labels.csv"
    table.write_text("file_name,label\ntop.jpg,cow\ngone.jpg,cow\ncat,cow\n")
    dataset = ImageDataset.read(root, labels=table)
    said = "skipped rows of labels.csv without an image (2): 'gone.jpg', 'cat'."
    assert said in dataset.skipped


def test_table__rows_of_the_test_split_label_nothing_in_fit(tmp_path: Path) -> None:
    add(tmp_path, *SPLITS)
    table = tmp_path / "labels.csv"
    table.write_text("file_name,label\ntrain/3.jpg,dog\ntest/cow/5.jpg,cow\n")
    dataset = ImageDataset.read(tmp_path, labels=table, split="fit")
    assert dataset.classes.names == ("dog",)
    assert dataset.skipped == (
        "skipped files that are not images (1): 'labels.csv'.",
        "skipped images of the test split (1).",
    )


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "cat/../../../x", "../images2/a"])
def test_table__paths_stay_in_the_folder(root: Path, tmp_path: Path, path: str) -> None:
    add(tmp_path, "secret.jpg", "images2/a")
    table = root / "labels.csv"
    table.write_text(f"file_name,label\ntop.jpg,cow\n{path},cow\n")
    with pytest.raises(RequestError, match=r"labels\.csv, row 2: .* is outside of"):
        ImageDataset.read(root, labels=table)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "t.csv",
            "file_name,label\ntop.jpg,cow\n./top.jpg,cat\n",
            "row 2.* two labels, 'cow', 'cat'",
        ),
        ("t.csv", "file_name,label\ngone.jpg,cow\n", "labels no image in .*'gone.jpg'"),
        (
            "t.csv",
            "file_name,size,month\ntop.jpg,1,2\n",
            "no column 'label', see --label-column; found: 'file_name', 'size', 'month'",
        ),
        (
            "t.csv",
            "where,label\nhere,cow\n",
            "no column 'file_name', see --file-column; found: 'where', 'label'",
        ),
        ("t.csv", "", "t.csv is empty: write the columns file_name,label and a row per image"),
        ("t.csv", "file_name,label\n", "a header .*and no row: .* such as b dog/10.JPG,CLASS"),
        ("t.csv", b"file_name,label\ncaf\x81\x01,x\n", "is damaged: it is neither UTF-8 nor"),
        ("t.csv", "file_name,label\n" + "x" * 200_000 + ",x\n", "is damaged: field larger"),
        ("t.csv", "file_name,label\ntop.jpg,a\0b\n", "control characters"),
        ("t.csv", 'file_name,label\ntop.jpg,"a\nb"\n', "control characters"),
        ("t.jsonl", "{", "is damaged: "),
        ("t.jsonl", "[" * 200_000, "is damaged: "),
        ("t.jsonl", "3", "is damaged: each line must be an object"),
        ("t.jsonl", '{"file_name": "top.jpg", "label": ["x"]}', r"text or a number, not \['x'\]"),
        ("t.jsonl", "[1]", "is damaged: "),
        ("t.jsonl", '{"file_name": "\\ud800", "label": "x"}', "labels no image"),
        ("t.parquet", b"PAR1 nonsense PAR1", "is damaged: "),
        ("t.parquet", b"", "is damaged: "),
        ("t.xlsx", "x", "is damaged: it is no Excel file"),
        ("t.xls", "x", ".xls is not read; save it as .xlsx or as CSV"),
        ("t.doc", "x", "its ending is '.doc'; give .csv"),
    ],
)
def test_table__refused(root: Path, name: str, content: str | bytes, words: str) -> None:
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=words):
        ImageDataset.read(root, labels=root / name)


def test_table__missing(root: Path) -> None:
    for name in ("gone.csv", "gone.jsonl", "gone.parquet"):
        with pytest.raises(RequestError, match=f"{name} cannot be read: "):
            ImageDataset.read(root, labels=root / name)


def test_getitem__masks_and_places(root: Path) -> None:
    dataset = ImageDataset.read(root, labels="folders")
    assert dataset[[4, 0]].files == ("top.jpg", "b dog/10.JPG")
    assert dataset[np.array([3, 3])].labels.tolist() == [1, 1]
    assert dataset[dataset.labels == 0].files == ("b dog/10.JPG", "b dog/2.png")
    assert dataset[1:3].files == ("b dog/2.png", "cat/deep/x")
    assert len(dataset[[]]) == 0
    assert dataset[[1]].classes is dataset.classes
    assert dataset.labelled.files == dataset.files[:4]
    assert dataset.unlabelled_copy().labels.tolist() == [-1] * 5
    assert dataset.unlabelled_copy().classes is dataset.classes
    assert dataset.labels.tolist() == [0, 0, 2, 1, -1]


def test_labels__are_read_only(root: Path) -> None:
    for dataset in (ImageDataset.read(root), ImageDataset.read(root)[[1, 2]]):
        with pytest.raises(ValueError, match="read-only"):
            dataset.labels[0] = 1


def test_of__keeps_the_given_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "cat")
    dataset = ImageDataset.of([root / "top.jpg", "deep/x", "../b dog/2.png"], ["dog", "cat"])
    assert dataset.root == root
    assert dataset.files == ("top.jpg", "cat/deep/x", "b dog/2.png")
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert dataset.classes.names == ("dog", "cat")
    assert ImageDataset.of(["deep/x"], dataset.classes).classes is dataset.classes
    with pytest.raises(RequestError, match="at least one image"):
        ImageDataset.of([])


def test_of__reads_what_pil_wrote(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    assert ImageDataset.of([tmp_path / "a.png"]).path(0).read_bytes()[:4] == b"\x89PNG"


def test_naming_only__hides_the_labels_of_some_classes(images: Path, names: Path) -> None:
    everything = ImageDataset.read(images, names, "folders")
    some = everything.naming_only(everything.classes.second_half)
    assert some.classes.second_half == ["yellow kite", "green ring"]
    assert some.classes.kinds == ("labelled", "labelled", "named", "named")
    assert some.labels.tolist() == [c if c < 2 else -1 for c in everything.labels]
    assert everything.naming_only(everything.classes.names).classes.labelled == []


def test_second_half__of_an_odd_number_is_the_smaller_one() -> None:
    assert Classes.of("abcde").second_half == ["d", "e"]
