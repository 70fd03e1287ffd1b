"""WordNet, emoji and clip art are read as they are written; nothing is drawn twice."""

import json
from pathlib import Path

import pytest
import starter_sources
from starter_sources import Concept, WordNet, clipart, emoji, emoji_drawings, relatives

NOUNS = """\
  1 a licence
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | that which is
00000002 03 n 02 animal 0 beast 1 001 @ 00000001 n 0000 | a living thing; "it moves"
00000003 05 n 02 bird 0 winged_thing 0 001 @ 00000002 n 0000 | it has feathers; and wings
00000004 05 n 01 crane 0 001 @ 00000003 n 0000 | a tall wader
00000005 06 n 01 machine 0 001 @ 00000001 n 0000 | it works
00000006 06 n 01 crane 1 002 @ 00000005 n 0000 + 00000009 v 0101 | it lifts
00000007 05 n 01 heron 0 001 @ 00000003 n 0000 | a grey wader
00000008 05 n 01 duck 0 001 @ 00000003 n 0000 | it swims
"""
INDEX = """\
  1 a licence
animal n 1 1 @ 1 0 00000002
bird n 1 2 @ ~ 1 0 00000003
crane n 2 1 @ 2 1 00000006 00000004
duck n 1 1 @ 1 0 00000008
heron n 1 1 @ 1 0 00000007
winged_thing n 1 1 @ 1 0 00000003
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    return WordNet(tmp_path)


def test_wordnet__reads_lemmas_hypernyms_and_glosses(wordnet: WordNet) -> None:
    assert wordnet.lemmas("00000003") == ["bird", "winged thing"]
    assert wordnet.gloss("00000003") == "it has feathers"
    assert wordnet.above("00000006") == ["00000005"]
    assert wordnet.ancestors("00000004", 0) == ["00000003", "00000002", "00000001"]
    assert wordnet.ancestors("00000004", 1) == ["00000003", "00000002"]
    assert [wordnet.depth(f"0000000{n}") for n in (1, 2, 3, 4)] == [0, 1, 2, 3]
    assert "00000008" in wordnet and "00000009" not in wordnet


def test_wordnet_sense__is_the_one_that_the_hints_speak_of(
    wordnet: WordNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        wordnet, "context", lambda one: {"00000006": {"machine"}, "00000004": {"bird"}}[one]
    )
    assert wordnet.sense("crane", {"bird"}) == "00000004"
    assert wordnet.sense("crane", set()) == "00000006"  # the more frequent one
    assert wordnet.sense("white crane", {"bird"}) == "00000004"
    assert wordnet.sense("gadget", {"bird"}) is None


def test_relatives__stand_for_the_nearest_classes(
    wordnet: WordNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {
        "imagenet_synsets": ["00000004", "00000007", "00000006"],
        "imagenet_synset_to_lemma": ["00000003", "00000008", "00000005", "00000004", "00000002"],
    }
    monkeypatch.setattr(
        starter_sources, "imagenet_synsets", lambda name="imagenet_synsets": lists[name]
    )
    assert relatives(wordnet) == [
        ("bird", "it has feathers", [0, 1]),
        ("duck", "it swims", [0, 1]),
        ("machine", "it works", [2]),
        ("animal", "a living thing", [0, 1]),
    ]
    assert [name for name, *_ in relatives(wordnet, most=1)] == ["machine"]


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The emoji packages with two emoji and a flag, drawn by two vendors."""

    def write(place: str, value: object) -> None:
        path = tmp_path / "npm" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))

    write(
        "emojibase-data/package/meta/groups.json",
        {"groups": {"3": "animals-nature", "9": "flags"}, "subgroups": {"35": "animal-bird"}},
    )
    birds = [
        {"hexcode": code, "label": label, "emoji": emoji, "group": 3, "subgroup": 35, "tags": tags}
        for code, label, emoji, tags in (
            ("1F986", "duck", "🦆", ["pond"]),
            ("1F426", "bird", "🐦️", []),
        )
    ]
    flag = {"hexcode": "1F3C1", "label": "flag", "emoji": "🏁", "group": 9, "subgroup": 97}
    write("emojibase-data/package/en/data.json", [*birds, flag, {"hexcode": "1F1E6"}])
    write("emojilib/package/dist/emoji-en-US.json", {"🦆": ["duck", "web_footed"], "🐦": ["wings"]})
    for name in starter_sources.NPM:
        if name.startswith("@iconify-json/"):
            write(f"{name}/package/icons.json", {"icons": {}})
    write(
        "@iconify-json/noto/package/icons.json",
        {
            "width": 128,
            "height": 100,
            "icons": {
                "waterfowl": {"body": "<a/>"},
                "bird": {"body": "<b/>", "width": 64, "left": 3},
                "duck": {"body": "<twin/>"},
                "old-bird": {"body": "<c/>", "hidden": True},
            },
        },
    )
    write("@iconify-json/noto/package/chars.json", {"1f986": "waterfowl"})
    write(
        "@iconify-json/fxemoji/package/icons.json",
        {"icons": {"duck": {"body": "<d/>"}, "bird-2": {"body": "<e/>"}, "unknown": {"body": ""}}},
    )
    return tmp_path


def test_emoji__has_words_of_each_kind_and_no_flags(packages: Path, wordnet: WordNet) -> None:
    duck, bird = emoji(packages, wordnet)
    assert (duck.source, duck.key, duck.group) == ("emoji", "1F986", "animal-bird")
    assert duck.words["name"] == ("duck",)
    assert duck.words["synonym"] == ("pond", "web footed", "duck")
    assert duck.words["folder"] == ("animal", "bird", "animals", "nature")
    assert duck.words["gloss"] == ("it swims",)
    assert bird.words["synonym"] == ("wings", "bird", "winged thing")


def test_emoji_drawings__are_found_by_code_or_name_and_never_twice(
    packages: Path, wordnet: WordNet
) -> None:
    drawings = list(emoji_drawings(packages, emoji(packages, wordnet)))
    found = [(d.vendor, d.key) for d in drawings]
    assert found == [
        ("noto", "1F986"),
        ("noto", "1F426"),
        ("fxemoji", "1F986"),
        ("fxemoji", "1F426"),
    ]
    assert 'viewBox="0 0 128 100"><a/></svg>' in str(drawings[0].content)
    assert 'viewBox="3 0 64 100"><b/></svg>' in str(drawings[1].content)


def test_clipart__is_named_by_file_and_folders(tmp_path: Path, wordnet: WordNet) -> None:
    root = tmp_path / "usr/share/openclipart/png"
    for name in (
        "animals/birds/a_winged_thing_by_crane_01.png",
        "animals/birds/xyz_02.png",
        "recreation/games/cards/duck.png",
        "shapes/duck_2.png",
        "tools/crane_1.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "tools/heron.png").symlink_to(root / "tools/crane_1.png")
    concepts, drawings = clipart(tmp_path, wordnet)
    assert [d.content for d in drawings] == [root / c.key for c in concepts]
    winged, nameless, crane = concepts
    assert winged.words["name"] == ("winged thing",)
    assert winged.words["folder"] == ("animal", "bird")
    assert nameless.words["name"] == ()
    assert crane.words["name"] == ("crane",)
    assert crane.words["hypernym"] == ()  # no sense of it fits the folder


def test_concept_held_out__is_one_in_five_and_always_the_same() -> None:
    held = [Concept("emoji", f"{n:X}", {}).held_out for n in range(2000)]
    assert 0.17 < sum(held) / 2000 < 0.23
    assert held == [Concept("emoji", f"{n:X}", {}).held_out for n in range(2000)]
