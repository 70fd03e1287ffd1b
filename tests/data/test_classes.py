"""Classes: the user's names, in the user's order, whatever they are made of."""

from pathlib import Path

import pytest

from anyclass.data import Classes
from anyclass.data.classes import plural
from anyclass.errors import ModelError, RequestError


def test_of__normalises_names_and_keeps_their_order() -> None:
    classes = Classes.of(["  zebra ", "cafe\u0301", "red_panda, small"], labelled=["caf\u00e9"])
    assert classes.names == ("zebra", "caf\u00e9", "red_panda, small")
    assert classes.kinds == ("named", "labelled", "named")
    assert classes.prompts == ("zebra", "caf\u00e9", "red panda, small")
    assert classes.unknown == 0
    assert len(classes) == 3


def test_indices__by_kind_and_by_name() -> None:
    classes = Classes.of(["d", "b", "a", "c"], labelled=["a", "d"], unknown=2)
    assert classes.labelled == [0, 2]
    assert classes.named == [1, 3]
    assert classes.index(" a ") == 2
    assert [classes.kind(i) for i in (0, 3, 4, 5)] == ["labelled", "named", "unknown", "unknown"]
    with pytest.raises(RequestError, match="no class 'e'"):
        classes.index("e")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["dog", "cat", "dog ", "cat", "cow"], "more than once: 'dog', 'cat'"),
        (["caf\u00e9", "cafe\u0301"], "more than once: 'caf\u00e9'"),
        (["dog", " "], "empty"),
        (["dog\0"], "control characters"),
        (["a\nb"], "control characters"),
        (["caf\udce9"], "control characters"),
    ],
)
def test_of__refuses_what_cannot_be_a_list_of_names(names: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Classes.of(names)


def test_of__prompts_stand_for_the_names() -> None:
    classes = Classes.of(["dog", "cat_x"], prompts=["a_b", " a sleepy cat"])
    assert classes.prompts == ("a_b", "a sleepy cat")
    with pytest.raises(RequestError, match="same length"):
        Classes.of(["dog", "cat"], prompts=["one"])


def test_of__nothing_is_known() -> None:
    assert len(Classes.of([])) == 0
    with pytest.raises(RequestError, match="not be negative"):
        Classes.of([], unknown=-1)


def test_read__one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffzebra\r\n\n # \n  red, white & blue\n猫\u2028x\n".encode())
    assert Classes.read(path).names == ("zebra", "#", "red, white & blue", "猫\u2028x")


def test_read__json(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('["dog", "cat"]')
    assert Classes.read(path).prompts == ("dog", "cat")
    path.write_text('{"a photo of a puppy": "dog", "a_cat": "cat"}')
    assert Classes.read(path).names == ("dog", "cat")
    assert Classes.read(path).prompts == ("a photo of a puppy", "a_cat")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", b"\n \n"),
        ("names.txt", b"caf\x81\x01\n"),
        ("names.json", b"["),
        ("names.json", b"[" * 200_000),
        ("names.json", b"3"),
        ("names.json", b"[]"),
        ("names.json", b"{}"),
        ("names.json", b'["dog", 3]'),
        ("names.json", b'{"a": {"b": "c"}}'),
        ("names.csv", b"daisy,white,3\n"),
        ("names.yaml", b"names: [a, "),
        ("names.yaml", b"names: {a: {b: c}}"),
        ("names.json", b'{"categories": [{"id": 1}]}'),
    ],
)
def test_read__refuses_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError):
        Classes.read(tmp_path / name)


def test_read__missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="gone.txt cannot be read: No such file"):
        Classes.read(tmp_path / "gone.txt")


def test_json__gives_the_classes_back() -> None:
    classes = Classes.of(["b", "a"], prompts=["bee", "ay"], labelled=["a"], unknown=4)
    value = classes.to_json()
    assert value == {
        "names": ["b", "a"],
        "kinds": ["named", "labelled"],
        "prompts": ["bee", "ay"],
        "unknown": 4,
    }
    assert Classes.from_json(value) == classes


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a", "a"]},
        {"names": ["a"]},
        {"names": [1, 2]},
        {"kinds": ["named", "secret"]},
        {"unknown": -1},
        {"unknown": "many"},
        {"foreign": 1},
    ],
)
def test_from_json__refuses_what_is_damaged(change: dict[str, object]) -> None:
    value = Classes.of(["b", "a"]).to_json() | change
    with pytest.raises(ModelError, match="saved classes are damaged"):
        Classes.from_json(value)


def test_discovered__names_all_classes_but_trusts_only_labelled_names() -> None:
    classes = Classes.of(["cat", "discovered 1", "dog"], ["a cat", "x", "a dog"], ["cat"], 2)
    assert (len(classes), classes.total) == (3, 5)
    found = classes.discovered([0])
    assert found.names == ("cat", *(f"discovered {i}" for i in (1, 2, 3, 4)))
    assert found.prompts == ("a cat", *found.names[1:])
    assert found.kinds == ("labelled", *["unknown"] * 4)
    assert (len(found), found.total) == (5, 5)
    other = classes.discovered([1, 2])  # a user's own name is not given twice
    assert other.names == ("discovered 2", "discovered 1", "dog", "discovered 3", "discovered 4")
    assert Classes.from_json(found.to_json()) == found


def test_with_discovered__keeps_every_name() -> None:
    classes = Classes.of(["cat", "discovered 1", "dog"], ["a cat", "x", "a dog"], ["cat"], 2)
    found = classes.with_discovered()
    assert found.names == ("cat", "discovered 1", "dog", "discovered 2", "discovered 3")
    assert found.prompts == ("a cat", "x", "a dog", "discovered 2", "discovered 3")
    assert found.kinds == ("labelled", "named", "named", "unknown", "unknown")
    assert (len(found), found.total) == (5, 5)


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "image", "1 image"),
        (2000, "image", "2,000 images"),
        (2, "class", "2 classes"),
        (3, "copy", "3 copies"),
        (0, "label", "0 labels"),
    ],
)
def test_plural(count: int, noun: str, said: str) -> None:
    assert plural(count, noun) == said


def test_classes__look_up_names_and_prompts_once() -> None:
    """With 10,000 classes, prompts that were made anew for each class took ten seconds."""
    classes = Classes.of(["wren", "tit"], [["wren", "a small brown bird"], ["tit"]])
    assert classes.all_prompts == (("wren", "a small brown bird"), ("tit",))
    assert classes.all_prompts is classes.all_prompts
    assert [classes.index(name) for name in ("tit", " wren ")] == [1, 0]
    with pytest.raises(RequestError, match="there is no class 'robin'"):
        classes.index("robin")
