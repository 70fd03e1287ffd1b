"""Features from files and arrays: what each format holds, and what is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from anyclass.data.feature_dataset import feature_dataset
from anyclass.data.feature_formats import names_table, read_arrays, write_arrays
from anyclass.data.feature_tables import (
    align_texts,
    read_class_texts,
    read_features,
)
from anyclass.errors import RequestError

DRAW = np.random.default_rng(3)
X = DRAW.normal(size=(7, 5)).astype(np.float32)
H = DRAW.normal(size=(7, 3)).astype(np.float32)
T = DRAW.normal(size=(3, 5)).astype(np.float32)
NAMES = np.array([*(f"{i}/ü,{i}.jpg" for i in range(6)), "=6/ü.jpg"])
LABELS = np.array(["b", "", "a", "b", "", "=c", ""])
ARRAYS = {"x": X, "names": NAMES, "labels": LABELS}
TEXTS = {"class_text": T, "class_names": np.array(["b", "a", "=c"]), "logit_scale": np.float32(50)}


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".safetensors"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_write_arrays__is_read_again(tmp_path: Path, ending: str, kind: Any) -> None:
    path = tmp_path / f"x{ending}"
    more = {} if ending == ".npy" else {"extra": H.astype(kind)}
    files = write_arrays(path, ARRAYS | {"x": X.astype(kind)} | more)
    table = read_features(path)
    assert np.array_equal(table.x, X.astype(kind))
    assert table.x.dtype == kind
    assert table.names == tuple(NAMES.tolist())
    assert table.labels is not None
    assert table.labels.tolist() == LABELS.tolist()
    assert table.texts is None
    if more:
        assert np.array_equal(table.extra, H.astype(kind))
    assert files == [path, *([names_table(path)] if ending == ".npy" else [])]
    if ending == ".npy":
        cells = names_table(path).read_text("utf-8")
        assert "'=6/ü.jpg,\n" in cells, "a spreadsheet would run it"
        assert ",'=c\n" in cells
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_class_texts__in_the_same_file_and_alone(tmp_path: Path, ending: str) -> None:
    both, alone = tmp_path / f"both{ending}", tmp_path / f"alone{ending}"
    write_arrays(both, ARRAYS | TEXTS)
    write_arrays(alone, TEXTS)
    for texts in (read_features(both).texts, read_class_texts(both), read_class_texts(alone)):
        assert texts is not None
        assert np.array_equal(texts.features, T)
        assert texts.names == ("b", "a", "=c")
        assert texts.logit_scale == 50


def test_read_features__npy_is_mapped_and_rows_have_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X.astype(">f4"))
    np.save(tmp_path / "y.npy", X)
    table = read_features(tmp_path / "y.npy")
    assert isinstance(table.x, np.memmap)
    assert table.names[:2] == ("row 0", "row 1")
    swapped = read_features(tmp_path / "x.npy")
    assert swapped.x.dtype.isnative
    assert np.array_equal(swapped.x, X)


@pytest.mark.parametrize("key", ["features", "embeddings", "image_features", "anything"])
def test_read_features__finds_the_array_by_other_names(tmp_path: Path, key: str) -> None:
    np.savez(tmp_path / "x.npz", **{key: X}, y=np.array([0, -1, 2, 1, 0, 0, 0]))
    save_file({key: X, "y": np.arange(7)}, tmp_path / "x.safetensors")
    for ending in ("npz", "safetensors"):
        table = read_features(tmp_path / f"x.{ending}")
        assert np.array_equal(table.x, X)
        assert table.labels is not None


def test_read_features__parquet_of_numeric_columns_and_of_lists(tmp_path: Path) -> None:
    columns = {f"f{i}": X[:, i] for i in range(5)}
    pq.write_table(pa.table({"id": list(range(7)), **columns}), tmp_path / "wide.parquet")
    lists = pa.table({"image": NAMES.tolist(), "vector": X.tolist(), "label": [1] * 7})
    pq.write_table(lists, tmp_path / "lists.parquet", row_group_size=3)
    wide = read_features(tmp_path / "wide.parquet")
    listed = read_features(tmp_path / "lists.parquet")
    assert np.array_equal(wide.x, X)
    assert wide.names == tuple("0123456")
    assert np.allclose(listed.x, X)
    assert listed.names == tuple(NAMES.tolist())
    assert listed.labels is not None
    assert listed.labels.tolist() == [1] * 7


def test_read_features__arrays_and_tensors() -> None:
    for given in (X, torch.from_numpy(X), X.tolist(), torch.from_numpy(X).requires_grad_()):
        assert np.allclose(read_features(given, H).x, X)
    assert read_features(torch.from_numpy(X).bfloat16()).x.dtype == np.float32
    assert np.array_equal(read_features(X, H).extra, H)


def test_blocks__are_unit_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyclass.data.feature_tables.BLOCK", 3)
    parts = list(read_features(X.astype(np.float16), H).blocks())
    assert [len(x) for x, _ in parts] == [3, 3, 1]
    x = np.concatenate([x for x, _ in parts])
    assert np.allclose(np.linalg.norm(x, axis=1), 1)
    assert np.allclose(x, X / np.linalg.norm(X, axis=1, keepdims=True), atol=1e-3)
    assert np.array_equal(np.concatenate([h for _, h in parts]), H)
    assert next(iter(read_features(X).blocks()))[1].shape == (3, 0)


def broken(path: Path) -> dict[str, Any]:
    """Name of a file -> what is wrong with it; all of them are written."""
    np.save(path / "short.npy", X)
    (path / "short.npy").write_bytes((path / "short.npy").read_bytes()[:-9])
    (path / "pickle.npy").write_bytes(b"\x80\x04]\x94.")
    np.save(path / "object.npy", np.array([{}, 1], object), allow_pickle=True)
    np.savez(path / "object.npz", x=np.array([[{}]], object))
    np.savez(path / "two.npz", a=X, b=X)
    np.savez(path / "twice.npz", x=X, names=np.array(["a"] * 7))
    np.savez(path / "longer.npz", x=X, labels=np.array(["a"] * 8))
    np.save(path / "flat.npy", X[0])
    np.save(path / "none.npy", X[:0])
    np.save(path / "texts.npy", np.array([["a", "b"]]))
    for ending in ("npz", "parquet", "safetensors"):
        (path / f"text.{ending}").write_text("not at all")
    pq.write_table(pa.table({"v": [[1.0, 2.0], [3.0]]}), path / "ragged.parquet")
    pq.write_table(pa.table({"v": [[1.0, 2.0], None]}), path / "missing.parquet")
    pq.write_table(pa.table({"v": ["a"]}), path / "words.parquet")
    return {
        "short.npy": "is damaged or of another format",
        "pickle.npy": "is damaged or of another format",
        "object.npy": "Python objects in dtype",
        "object.npz": "Object arrays cannot be loaded",
        "two.npz": r"has a 7 x 5, b 7 x 5: call the array of image features \(N, D\) x or features",
        "twice.npz": "has rows of the same name: 'a'",
        "longer.npz": "has 7 rows of features, but labels of 8",
        "flat.npy": "has an array of 5, not rows of features",
        "none.npy": "has no row",
        "texts.npy": "has features of type <U1",
        "text.npz": "is damaged or of another format",
        "text.parquet": "is damaged or of another format",
        "text.safetensors": "is damaged or of another format",
        "ragged.parquet": "the vectors of column 'v' differ in length",
        "missing.parquet": "column 'v' has missing values",
        "words.parquet": "has nothing: call the array",
        "gone.npy": "there is no such file",
        "x.csv": r"its name must end in .npy, .npz, .parquet or .safetensors",
    }


def test_read_features__refuses_in_one_line(tmp_path: Path) -> None:
    for name, said in broken(tmp_path).items():
        with pytest.raises(RequestError, match=said) as refused:
            read_features(tmp_path / name)
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)


def test_blocks__refuse_what_has_no_direction() -> None:
    bad = X.copy()
    bad[4, 2] = np.inf
    with pytest.raises(RequestError, match="features of 'row 4' have a value that is not finite"):
        list(read_features(bad).blocks())
    bad[4] = 0
    with pytest.raises(RequestError, match="features of 'row 4' are all zero"):
        list(read_features(bad).blocks())


def test_read_arrays__labels_beside_npy_must_be_as_many(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.npy", ARRAYS)
    np.save(tmp_path / "x.npy", X[:4])
    with pytest.raises(RequestError, match="has 4 rows of features, but labels of 7"):
        read_features(tmp_path / "x.npy")
    names_table(tmp_path / "x.npy").write_text("a,b\n1,2\n")
    with pytest.raises(RequestError, match=r"x.names.csv beside it has no column file_name"):
        read_arrays(tmp_path / "x.npy")


def dataset(**given: Any) -> Any:
    table = read_features(X)
    return feature_dataset(table, **given)


def test_feature_dataset__labels_of_each_kind(tmp_path: Path) -> None:
    y = np.array([1, -1, 0, 1, -1, 2, -1])
    np.save(tmp_path / "y.npy", y)
    csv = tmp_path / "labels.csv"
    csv.write_text("file_name,label\nrow 0,a\nrow 2,b\nrow 3,a\nrow 5,c\nrow 1,\nrow 99,a\n")
    for labels in (y, y.astype(float), torch.from_numpy(y), tmp_path / "y.npy", csv, str(csv)):
        found = dataset(classes=["b", "a", "c", "d"], labels=labels)
        assert found.labels.tolist() == y.tolist()
        assert found.classes.kinds == ("labelled",) * 3 + ("named",)
    names = ["a", None, "b", "a", "", "c", None]
    found = dataset(labels=names)
    assert found.classes.names == ("a", "b", "c")
    assert found.labels.tolist() == [0, -1, 1, 0, -1, 2, -1]
    numbered = dataset(labels=y)
    assert numbered.classes.names == ("class 0", "class 1", "class 2")
    assert dataset(labels=str(csv)).skipped == (
        "skipped rows of labels.csv without an image (1): 'row 99'.",
    )


def test_feature_dataset__labels_by_the_folder_in_the_name() -> None:
    table = read_features(X)
    named = type(table)("x", table.x, names=("a/1.jpg", "b/c/2.jpg", "3", "4", "5", "6", "7"))
    found = feature_dataset(named, labels="folders")
    assert found.classes.names == ("a", "c")
    assert found.labels.tolist() == [0, 1] + [-1] * 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": [0, 1]}, r"has 7 rows, labels have \(2,\)"),
        ({"labels": [5] * 7, "classes": ["a"]}, "label 5 is no index of the 1 classes"),
        ({"labels": [0.5] * 7, "classes": ["a"]}, "label 0.5 is no index"),
        ({"labels": ["z"] * 7, "classes": ["a"]}, "labels are not in the list of classes: 'z'"),
        ({"labels": [1j] * 7, "classes": ["a"]}, "labels are of type complex128"),
        ({"labels": ["z"] * 7, "texts": read_class_texts(T)}, "does not say which class a row is"),
    ],
)
def test_feature_dataset__refuses_labels_that_do_not_fit(given: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        dataset(**given)


def test_feature_dataset__refuses_a_table_of_other_rows(tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text("file_name,label\nzebra,a\n")
    with pytest.raises(
        RequestError, match="labels no row .*it lists 'zebra', and here an image is called 'row 0'"
    ):
        dataset(labels=csv)
    csv.write_text("file_name,label\nrow 1,a\nrow 1,b\n")
    with pytest.raises(RequestError, match="row 2: 'row 1' has two labels, 'a', 'b'. Keep one"):
        dataset(labels=csv)


def test_align_texts__in_the_order_of_the_classes() -> None:
    texts = read_class_texts(T)._replace(names=("b", "a", "c"))
    classes = dataset(classes=["a", "nothing", "b"]).classes
    rows = align_texts(texts, classes, 5)
    unit = T / np.linalg.norm(T, axis=1, keepdims=True)
    assert np.allclose(rows[[0, 2]], unit[[1, 0]])
    assert np.isnan(rows[1]).all()


def test_align_texts__refuses_what_does_not_fit() -> None:
    three = dataset(classes=["a", "b", "c"]).classes
    with pytest.raises(RequestError, match="class texts of width 5, image features have width 6"):
        align_texts(read_class_texts(T), three, 6)
    with pytest.raises(RequestError, match="has 2 class texts and there are 3 classes"):
        align_texts(read_class_texts(T[:2]), three, 5)
    for value in (np.inf, np.nan):
        bad = T.copy()
        bad[1, 2] = value
        with pytest.raises(RequestError, match="the text of 'b' is zero or not finite"):
            align_texts(read_class_texts(bad), three, 5)
    with pytest.raises(RequestError, match="the text of 'c' is zero"):
        align_texts(read_class_texts(T * [[1], [1], [0]]), three, 5)


def test_feature_dataset__labels_of_python() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"label": ["a", None, "b", "a", None, "b", None]})
    nothing = float("nan")
    for labels in (
        ["a", nothing, "b", "a", None, "b", pandas.NA],
        frame["label"],
        frame["label"].astype("category"),
        frame["label"].astype("string"),
        {"row 0": "a", "row 2": "b", "row 3": "a", "row 5": "b"},
        frame["label"].set_axis([f"row {i}" for i in range(7)])[::-1],
        frame.assign(file_name=[f"row {i}" for i in range(7)])[::-1],
        [0, None, 1, 0, nothing, 1, -1],
        pandas.Series([0, None, 1, 0, None, 1, -1], dtype="Int64"),
    ):
        found = dataset(labels=labels, classes=["a", "b"])
        assert found.labels.tolist() == [0, -1, 1, 0, -1, 1, -1], labels
