"""Files of class names: whatever people and other tools write, in one order, each name once."""

import json
from pathlib import Path

import pandas as pd
import pytest

from anyclass.data import Classes
from anyclass.data.class_files import class_names
from anyclass.data.classes import readable
from anyclass.errors import RequestError

FLOWERS = ["rose", "daisy", "tulip, red"]


def names_of(path: Path, content: str | bytes) -> list[str]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return class_names(path).names


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.txt", "rose\ndaisy\ntulip, red\n"),
        ("n.txt", "1. rose\n2. daisy\n3. tulip, red\n"),
        ("n.txt", "0 rose\n1 daisy\n2 tulip, red\n"),
        ("n.txt", "1) rose\r\n2) daisy\r\n3) tulip, red"),
        ("mac.txt", "rose\rdaisy\rtulip, red\r"),
        ("n.txt", "- rose\n- daisy\n- tulip, red\n"),
        ("n.csv", 'rose\ndaisy\n"tulip, red"\n'),
        ("n.csv", 'name\nrose\ndaisy\n"tulip, red"\n'),
        ("n.csv", 'id;class\n7;rose\n8;daisy\n9;"tulip, red"\n'),
        ("n.csv", '0,rose\n1,daisy\n2,"tulip, red"\n'),
        ("n.tsv", "Class Name\tcount\nrose\t1\ndaisy\t2\ntulip, red\t3\n"),
        ("n.json", json.dumps(FLOWERS)),
        ("n.json", '{"1": "daisy", "0": "rose", "10": "tulip, red"}'),
        ("c.json", '{"id2label": {"0": "rose", "1": "daisy", "2": "tulip, red"}, "x": 1}'),
        ("n.json", '{"daisy": 1, "rose": 0, "tulip, red": 2}'),
        ("coco.json", '{"images": [], "categories": [{"id": 3, "name": "rose"}, '
         '{"id": 4, "name": "daisy"}, {"id": 9, "name": "tulip, red"}]}'),
        ("data.yaml", "path: ../x\nnc: 3\nnames: [rose, daisy, 'tulip, red']\n"),
        ("data.yml", "names:\n  0: rose\n  1: daisy\n  2: tulip, red\n"),
        ("n.yaml", "- rose\n- daisy\n- tulip, red\n"),
    ],
)  # fmt: skip
def test_class_names__of_every_format(tmp_path: Path, name: str, content: str) -> None:
    assert names_of(tmp_path / name, content) == FLOWERS


def test_class_names__of_excel(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": FLOWERS, "prompt": ["rose | red rose", None, "tulip"]})
    frame.to_excel(tmp_path / "n.xlsx", index=False)
    found = class_names(tmp_path / "n.xlsx")
    assert found.names == FLOWERS
    assert found.prompts == [("rose", "red rose"), (), ("tulip",)]


def test_class_names__of_other_encodings(tmp_path: Path) -> None:
    for encoding in ("cp1252", "utf-16", "utf-8-sig"):
        assert names_of(tmp_path / "n.txt", "Gänseblümchen\nRose\n".encode(encoding)) == [
            "Gänseblümchen",
            "Rose",
        ]


def test_class_names__words_that_yaml_reads_as_values(tmp_path: Path) -> None:
    assert names_of(tmp_path / "n.yaml", "names: [no, yes, 1.0, 007, null]") == [
        "no",
        "yes",
        "1.0",
        "007",
        "null",
    ]


def test_class_names__numbers_that_belong_to_the_names(tmp_path: Path) -> None:
    assert names_of(tmp_path / "n.txt", "7 up\n1 way\n") == ["7 up", "1 way"]
    assert names_of(tmp_path / "n.txt", "1 euro coin\n2 euro coin\ncent\n")[0] == "1 euro coin"
    assert "numbered list" in class_names(_write(tmp_path / "n.txt", "1. a\n2. b\n")).messages[0]


def test_class_names__a_repeated_name_counts_once(tmp_path: Path) -> None:
    found = class_names(_write(tmp_path / "n.txt", "rose\ndaisy\nrose \ncafe\u0301\ncaf\u00e9\n"))
    assert found.names == ["rose", "daisy", "caf\u00e9"]
    assert found.messages == (
        "class names that are given more than once count once: 'rose', 'caf\u00e9'.",
    )
    assert class_names(["a", "b", "a"]).names == ["a", "b"]


def test_class_names__prompts_in_rows_and_between_bars(tmp_path: Path) -> None:
    table = "name,prompt\nGänseblümchen,daisy\nrose,\nGänseblümchen,common daisy | lawn daisy\n"
    found = class_names(_write(tmp_path / "n.csv", table))
    assert found.names == ["Gänseblümchen", "rose"]
    assert found.prompts == [("daisy", "common daisy", "lawn daisy"), ()]
    assert found.messages == ()
    as_json = '{"Gänseblümchen": ["daisy", "common daisy", "lawn daisy"], "rose": []}'
    assert class_names(_write(tmp_path / "n.json", as_json))[:2] == found[:2]
    mapping = {"Gänseblümchen": ["daisy", "common daisy", "lawn daisy"], "rose": ""}
    assert class_names(mapping)[:2] == found[:2]


def test_class_names__several_columns_without_a_header(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="several columns .*call the one with the class names"):
        class_names(_write(tmp_path / "n.csv", "daisy,white\nrose,red\n"))


def test_class_names__of_the_classes_of_a_run(tmp_path: Path) -> None:
    classes = Classes.of(["b", "a"], [["bee", "honey bee"], "ay"], unknown=1).with_discovered()
    path = _write(tmp_path / "classes.json", json.dumps(classes.to_json()))
    assert class_names(path)[:2] == (["b", "a"], [("bee", "honey bee"), ("ay",)])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_panda", "red panda"),
        ("AnnualCrop", "Annual Crop"),
        ("SeaLake_2", "Sea Lake 2"),
        ("HTMLPage", "HTML Page"),
        ("iPhone", "iPhone"),
        ("McDonald", "McDonald"),
        ("T-shirt", "T-shirt"),
        ("USA", "USA"),
    ],
)
def test_readable(name: str, words: str) -> None:
    assert readable(name) == words
    classes = Classes.of([name])
    assert (classes.names, classes.prompts) == ((name,), (words,))


def test_synonyms__stay_with_their_classes() -> None:
    classes = Classes.of(["b", "a", "c"], [["bee", "honey bee"], "ay", []], ["b"], unknown=2)
    assert classes.prompts == ("bee", "ay", "c")
    assert classes.all_prompts == (("bee", "honey bee"), ("ay",), ("c",))
    assert Classes.from_json(json.loads(json.dumps(classes.to_json()))) == classes
    assert classes.with_discovered().all_prompts[0] == ("bee", "honey bee")
    assert classes.with_discovered().all_prompts[3] == ("discovered 1",)
    found = classes.discovered([0])
    assert found.all_prompts[:2] == (("bee", "honey bee"), ("discovered 1",))
    assert classes.discovered([1]).synonyms == ()


def _write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


TREE = {"animal": {"mammal": ["cat", "dog"], "fish": None}, "plant": {"rose": {}}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", json.dumps(TREE)),
        ("t.yaml", "animal:\n  mammal: [cat, dog]\n  fish:\nplant:\n  rose:\n"),
        ("t.json", json.dumps({"classes": TREE})),
        ("t.csv", "name,parent\nanimal,\nmammal,animal\ncat,mammal\ndog,mammal\nfish,animal\n"
         "plant,\nrose,plant\n"),
        ("t.json", json.dumps([
            {"name": "animal", "children": [
                {"name": "mammal", "children": [{"name": "cat"}, "dog"]},
                {"name": "fish", "children": []},
            ]},
            {"name": "plant", "children": ["rose"]},
        ])),
    ],
)  # fmt: skip
def test_class_names__of_a_taxonomy_are_its_leaves(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = class_names(tmp_path / name)
    assert found.names == ["cat", "dog", "fish", "rose"]
    (said,) = found.messages
    assert said.startswith(f"{name} is a taxonomy")
    assert said.endswith("groups are left out: 'animal', 'mammal', 'plant'.")


def test_class_names__a_parent_that_is_no_name_is_said_to_be_unused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Name;Parent;Prompt\ncat;animal;a cat\ndog;animal;\n", encoding="utf-8")
    found = class_names(path)
    assert (found.names, found.prompts) == (["cat", "dog"], [("a cat",), ()])
    assert "t.csv: the column 'Parent' is not used; each name is a class." in found.messages


def test_class_names__lists_of_a_mapping_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"animal": ["cat", "dog"], "plant": ["rose"]}', encoding="utf-8")
    assert class_names(path).names == ["animal", "plant"]


@pytest.mark.parametrize("tree", ['{"a": {"b": 1}}', '[{"name": "a", "children": [true]}]'])
def test_class_names__a_tree_with_something_else_in_it(tmp_path: Path, tree: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(tree, encoding="utf-8")
    with pytest.raises(RequestError, match="is neither a name nor a group of names"):
        class_names(path)
