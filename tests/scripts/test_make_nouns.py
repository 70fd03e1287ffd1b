"""Which nouns are kept: plain words for what can be seen, and nothing that hurts."""

from pathlib import Path

import pytest
from make_nouns import counted, filed, licence, named, plain, rude, visible
from starter_sources import WordNet

NOUNS = """\
  1 Keep this notice
  2
00000001 03 n 01 entity 0 000 | that which is
00000002 18 n 01 worker 0 001 @ 00000001 n 0000 | who works
00000003 18 n 01 nurse 0 001 @ 00000002 n 0000 | who cares
00000004 18 n 01 bore 0 001 @ 00000001 n 0000 | a dull person
00000005 05 n 01 animal 0 001 @ 00000001 n 0000 | it lives
00000006 05 n 01 cur 0 001 @ 00000005 n 0000 | a dog; offensive term
00000007 15 n 01 Turkey 0 001 @ 00000001 n 0000 | a republic
00000008 05 n 02 turkey 0 gobbler 0 001 @ 00000005 n 0000 | a bird
"""
INDEX = """\
bore n 1 1 @ 1 0 00000004
cur n 1 1 @ 1 0 00000006
gobbler n 1 1 @ 1 0 00000008
nurse n 1 1 @ 1 0 00000003
turkey n 2 1 @ 2 1 00000008 00000007
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    (tmp_path / "cntlist.rev").write_text("turkey%1:05:00:: 1 7\nrun%2:38:00:: 1 90\n")
    return tmp_path


def test_visible__people_are_told_by_their_trade_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordnet = WordNet(folder)
    monkeypatch.setattr(
        wordnet, "ancestors", lambda one: {"00000003": ["00000002"]}.get(one, ["00000001"])
    )
    assert visible(wordnet, "00000003", "18")
    assert not visible(wordnet, "00000004", "18")
    assert not visible(wordnet, "00000007", "15")
    assert not visible(wordnet, "00000005", "05"), "animal says too little"


def test_words__plain_rude_and_named(folder: Path) -> None:
    wordnet = WordNet(folder)
    assert plain("polar bear") and plain("fox terrier") and plain("t-shirt") is False
    assert not any(map(plain, ("Turkey", "ox", "a b c d", "rock 'n' roll", "x-ray", "dog2")))
    assert rude(wordnet, "cur")
    assert not rude(wordnet, "turkey")
    assert named(wordnet, "turkey")
    assert not named(wordnet, "gobbler")


def test_files__counts_numbers_and_the_licence(folder: Path) -> None:
    assert counted(folder) == {("turkey", 1): 7}
    assert filed(folder)["00000007"] == "15"
    assert licence(folder).splitlines()[0] == "Keep this notice"
