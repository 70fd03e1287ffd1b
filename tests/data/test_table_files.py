"""Label tables as other people's programs write them: each is read, or refused with a reason."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from anyclass.data import ImageDataset
from anyclass.errors import RequestError

FILES = ("blume/1.jpg", "blume/2.jpg", "baum/3.jpg", "baum/Straße.jpg", "oben.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "fotos"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")
    return root


def labels_of(root: Path, table: Path, **columns: str) -> dict[str, str]:
    dataset = ImageDataset.read(root, labels=table, **columns)
    names = zip(dataset.files, dataset.labels.tolist(), strict=True)
    return {file: dataset.classes.names[c] for file, c in names if c >= 0}


def said(root: Path, table: Path) -> str:
    return " ".join(ImageDataset.read(root, labels=table).skipped)


GERMAN = {"blume/1.jpg": "Gänseblümchen", "baum/3.jpg": "Weißdorn", "oben.jpg": "Rose, rot"}
AS_CSV = (
    "Datei;Klasse\r\nblume\\1.jpg;Gänseblümchen\r\nbaum\\3.jpg;Weißdorn\r\n"
    'oben.jpg;"Rose, rot"\r\n;\r\n'
)


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_excel_of_windows(root: Path, tmp_path: Path, encoding: str) -> None:
    table = tmp_path / "Etiketten.csv"
    table.write_bytes(AS_CSV.encode(encoding))
    assert labels_of(root, table) == GERMAN
    words = said(root, table)
    assert "Etiketten.csv is separated by semicolons." in words
    assert "took the column 'Datei' as file_name (--file-column) and 'Klasse' as label" in words
    assert ("read as Windows-1252 ('Gänseblümchen')" in words) == (encoding == "cp1252")


@pytest.mark.parametrize(
    ("separator", "start"), [(",", ""), (";", ""), ("\t", ""), ("|", ""), (";", "sep=;\r\n")]
)
def test_separators(root: Path, tmp_path: Path, separator: str, start: str) -> None:
    table = tmp_path / "t.csv"
    lines = [["file_name", "size", "label"], ["blume/1.jpg", "1", "a"], ["oben.jpg", "2", "b"]]
    table.write_text(start + "\n".join(separator.join(line) for line in lines))
    assert labels_of(root, table) == {"blume/1.jpg": "a", "oben.jpg": "b"}


def test_a_comma_in_a_label_is_no_separator_of_semicolons(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file_name;label\noben.jpg;rose, red\nblume/1.jpg;daisy, white\n")
    assert labels_of(root, table)["oben.jpg"] == "rose, red"


def test_excel_file(root: Path, tmp_path: Path) -> None:
    rows = [{"File Name": file, "Class": label} for file, label in GERMAN.items()]
    rows.append({"File Name": None, "Class": None})
    table = tmp_path / "labels.xlsx"
    with pd.ExcelWriter(table) as book:
        pd.DataFrame().to_excel(book, sheet_name="notes")
        pd.DataFrame(rows).to_excel(book, sheet_name="labels", index=False)
    assert labels_of(root, table) == GERMAN
    assert "labels.xlsx: read sheet 'labels' of 2 sheets." in said(root, table)


def test_excel_file__without_the_extra(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(RequestError, match=r"t\.xlsx: Excel files need pip install 'anyclass\[tab"):
        labels_of(root, tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    "cell",
    [
        "blume/1.jpg",
        " blume/1.jpg ",
        "blume\\1.jpg",
        ".\\blume\\1.jpg",
        "1.jpg",
        "BLUME/1.JPG",
        "C:\\Users\\Jörg\\Bilder\\fotos\\blume\\1.jpg",
        "/home/jörg/fotos/blume/1.jpg",
        "fotos/blume/1.jpg",
    ],
)
def test_names_of_an_image(root: Path, tmp_path: Path, cell: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f'file_name,label\n"{cell}",rose\n', encoding="utf-8")
    assert labels_of(root, table) == {"blume/1.jpg": "rose"}


def test_names_of_an_image__absolute_at_the_top_of_the_folder(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    for cell in ("D:\\fotos\\oben.jpg", "/elsewhere/oben.jpg", "fotos/oben.jpg"):
        table.write_text(f"file_name,label\n{cell},rose\n")
        assert labels_of(root, table) == {"oben.jpg": "rose"}
    table.write_text("file_name,label\nblume/oben.jpg,rose\n")  # of a folder that lacks it
    with pytest.raises(RequestError, match="labels no image in .*is called 'baum/3.jpg'"):
        labels_of(root, table)


def test_names_of_an_image__that_several_have(root: Path, tmp_path: Path) -> None:
    (root / "baum" / "1.jpg").write_bytes(b"1")
    table = tmp_path / "t.csv"
    table.write_text("file_name,label\n1.jpg,rose\n2.jpg,daisy\n")
    assert labels_of(root, table) == {"blume/2.jpg": "daisy"}
    words = said(root, table)
    assert "skipped rows of t.csv that fit several images (1): '1.jpg'" in words
    assert "found 1 image of t.csv by the end of its path, such as '2.jpg': 'blume/2.jpg'" in words


def test_names_of_an_image__nfd_on_the_disk_and_nfc_in_the_table(
    root: Path, tmp_path: Path
) -> None:
    (root / "blume" / "Bla\u0308tter.jpg").write_bytes(b"1")
    table = tmp_path / "t.csv"
    table.write_text("file_name,label\nblume/Bl\u00e4tter.jpg,leaf\nbaum/Strasse.jpg,x\n")
    assert labels_of(root, table) == {"blume/Bla\u0308tter.jpg": "leaf", "baum/Straße.jpg": "x"}


def test_names_of_an_image__through_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    (tmp_path / "home").symlink_to(tmp_path, target_is_directory=True)
    table = tmp_path / "t.csv"
    for cell in ("link/oben.jpg", f"{tmp_path}/link/oben.jpg", "home/fotos/oben.jpg"):
        table.write_text(f"file_name,label\n{cell},rose\n")
        assert labels_of(tmp_path / "link", table) == {"oben.jpg": "rose"}


def test_blank_rows_are_no_rows(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file_name,label\noben.jpg,rose\n,\n\n , \n")
    assert labels_of(root, table) == {"oben.jpg": "rose"}
    assert "without an image" not in said(root, table)


def test_a_table_without_a_header(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("oben.jpg,rose\nblume/1.jpg,daisy\n")
    assert labels_of(root, table) == {"oben.jpg": "rose", "blume/1.jpg": "daisy"}
    assert "t.csv has no header: took 'oben.jpg' as the name of an image" in said(root, table)
    table.write_text("oben.jpg,rose,3\nblume/1.jpg,daisy,4\n")
    with pytest.raises(RequestError, match="has no header: write the names of its 3 columns"):
        labels_of(root, table)


def test_columns__by_their_content(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("which,what\noben.jpg,rose\nblume/1.jpg,daisy\n")
    assert labels_of(root, table) == {"oben.jpg": "rose", "blume/1.jpg": "daisy"}
    table.write_text("FileName,LABEL,class\noben.jpg,rose,x\n")
    assert labels_of(root, table) == {"oben.jpg": "rose"}
    with pytest.raises(RequestError, match="no column 'pth', see --file-column; found: 'FileName'"):
        labels_of(root, table, file_column="pth")


def test_numbers__beside_empty_cells_have_no_decimals(root: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"file_name": FILES[:3], "label": [1, None, 2]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert "1.0" in (tmp_path / "t.csv").read_text()
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    for name in ("t.csv", "t.parquet", "t.xlsx"):
        assert labels_of(root, tmp_path / name) == {"blume/1.jpg": "1", "baum/3.jpg": "2"}
    (tmp_path / "t.csv").write_text("file_name,label\noben.jpg,1.0\n")  # a version: as it is
    assert labels_of(root, tmp_path / "t.csv") == {"oben.jpg": "1.0"}


def test_parquet__columns_of_other_types(root: Path, tmp_path: Path) -> None:
    files = [*FILES[:3]]
    words = ["cat", "dog", "cat"]
    expected = dict(zip(files, words, strict=True))
    columns = {
        "text": pa.array(words),
        "dictionary": pa.array(words).dictionary_encode(),
        "bytes": pa.array([word.encode() for word in words]),
        "large": pa.array(words, pa.large_string()),
    }
    for name, column in columns.items():
        table = {"file_name": pa.array(files).dictionary_encode(), "label": column}
        parquet.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        assert labels_of(root, tmp_path / f"{name}.parquet") == expected
    frame = pd.DataFrame({"file_name": files, "label": pd.Categorical(words)})
    frame.to_parquet(tmp_path / "categories.parquet")
    assert labels_of(root, tmp_path / "categories.parquet") == expected
    frame.assign(label=np.array([1, 2, 1], np.int8)).to_parquet(tmp_path / "numbers.parquet")
    assert labels_of(root, tmp_path / "numbers.parquet")["blume/2.jpg"] == "2"


def test_text__that_stays_text(root: Path, tmp_path: Path) -> None:
    words = ["NA", "None", "True", "007", "1e3"]
    table = tmp_path / "t.csv"
    lines = [f"{file},{word}" for file, word in zip(FILES, words, strict=True)]
    table.write_text("\n".join(["file_name,label", *lines]), encoding="utf-8")
    assert labels_of(root, table) == dict(zip(FILES, words, strict=True))
