"""Training data of the starter model's bridge: concepts with their words, and drawings.

All data come from public package registries, with fixed versions if they have them. Licences:
WordNet (its own, permissive), emojibase-data and emojilib (MIT), and the drawings below. Excluded
for their licences: Apple's and Facebook's emoji (none), EmojiOne 1 (CC BY-SA), Tux Paint's stamps
(GPL). OpenMoji and all photographs are for testing only and are not used here.
"""

import json
import re
import subprocess
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

NPM = {
    "emojibase-data": "17.0.0",
    "emojilib": "4.0.3",
    "@iconify-json/noto": "1.2.9",  # Google, Apache-2.0
    "@iconify-json/noto-v1": "1.2.5",  # Google, Apache-2.0
    "@iconify-json/twemoji": "1.2.5",  # Twitter and others, CC BY 4.0
    "@iconify-json/fluent-emoji": "1.2.7",  # Microsoft, MIT
    "@iconify-json/fluent-emoji-flat": "1.2.6",  # Microsoft, MIT
    "@iconify-json/fxemoji": "1.2.2",  # Mozilla, Apache-2.0
    "@iconify-json/emojione": "1.2.3",  # EmojiTwo, CC BY 4.0
    "@iconify-json/streamline-emojis": "1.2.4",  # Streamline, CC BY 4.0
}
"""Packages of the npm registry: version."""

DEBIAN = ("wordnet-base", "openclipart-png")
"""Packages of Debian: WordNet 3.0, and clip art in the public domain."""

CLIPART = (
    *("animals", "buildings", "computer/hardware", "containers", "decorations", "education"),
    *("electronics", "food", "geography", "office", "people", "plants", "recreation", "science"),
    *("signs_and_symbols/clocks", "signs_and_symbols/money", "signs_and_symbols/weather"),
    *("tools", "transportation"),
)
"""Folders of clip art of objects; the others contain flags, icons, buttons and patterns."""

NO_OBJECT = re.compile("cards|dice|chess|aiga|roadsigns|smilies|bodypart")
"""Parts of clip art paths that are excluded for the same reason."""

GENERAL = 5
"""Depth in WordNet above which a word is too general (entity, object, whole ...)."""

Synset = str
"""Eight digits: an offset in WordNet 3.0, and the number in the names of ImageNet's classes."""


@dataclass(frozen=True)
class Concept:
    """A visible concept with its words, by kind."""

    source: str
    """imagenet, emoji or clipart."""
    key: str
    """Index of the class, code points of the emoji, path of the clip art."""
    words: Mapping[str, tuple[str, ...]]
    """name, synonym, hypernym, folder and gloss -> texts."""
    group: str = ""
    """Subgroup of the emoji in Unicode's list."""

    @property
    def held_out(self) -> bool:
        """Whether it is in the fifth of all concepts for choosing hyper-parameters."""
        return zlib.crc32(f"{self.source}{self.key}x".encode()) % 5 == 0


class Drawing(NamedTuple):
    """A drawing of a concept."""

    vendor: str
    """Source of the drawing."""
    key: str
    """Key of its concept."""
    content: str | Path
    """SVG text, or path of an image file."""


def fetch(folder: Path) -> None:
    """Download all packages to `folder`, with `npm` and `apt-get`."""
    (folder / "npm").mkdir(parents=True, exist_ok=True)
    for name, version in NPM.items():
        place = folder / "npm" / name
        if place.is_dir():
            continue
        packed = subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()[-1]
        with tarfile.open(folder / packed) as archive:
            archive.extractall(place, filter="data")
    for name in DEBIAN:
        if not (folder / "usr/share/doc" / name).is_dir():
            subprocess.run(["apt-get", "download", name], cwd=folder, check=True)
            packed = next(folder.glob(f"{name}_*.deb")).name
            subprocess.run(["dpkg-deb", "--extract", packed, "."], cwd=folder, check=True)


class WordNet:
    """The nouns of WordNet 3.0 and their hypernyms."""

    def __init__(self, folder: Path) -> None:
        """Read `data.noun` and `index.noun` of `folder`."""
        self._folder = folder
        self._depth: dict[Synset, int] = {}

    @cached_property
    def _synsets(self) -> dict[Synset, tuple[list[str], list[Synset], str]]:
        """Lemmas, hypernyms and gloss of each synset."""
        found = {}
        for line in _entries(self._folder / "data.noun"):
            head, _, gloss = line.partition("|")
            fields = head.split()
            count = int(fields[3], 16)
            lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
            pointers = fields[5 + 2 * count :]
            above = [
                pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")
            ]
            found[fields[0]] = (lemmas, above, gloss.strip().split(";")[0].strip())
        return found

    @cached_property
    def senses(self) -> dict[str, list[Synset]]:
        """Lemma -> its synsets, the most frequent first."""
        found = {}
        for line in _entries(self._folder / "index.noun"):
            lemma, _, count, *rest = line.split()
            found[lemma.replace("_", " ")] = rest[-int(count) :]
        return found

    def lemmas(self, synset: Synset) -> list[str]:
        """Words of a synset."""
        return self._synsets[synset][0]

    def gloss(self, synset: Synset) -> str:
        """First part of a synset's definition."""
        return self._synsets[synset][2]

    def above(self, synset: Synset) -> list[Synset]:
        """Direct hypernyms."""
        return self._synsets[synset][1]

    def __contains__(self, synset: Synset) -> bool:
        """Whether the synset is a noun."""
        return synset in self._synsets

    def depth(self, synset: Synset) -> int:
        """Distance from the root `entity`."""
        if synset not in self._depth:
            self._depth[synset] = min(
                (1 + self.depth(one) for one in self.above(synset)), default=0
            )
        return self._depth[synset]

    def ancestors(self, synset: Synset, least: int = GENERAL) -> list[Synset]:
        """All hypernyms of at least depth `least`, the closest first."""
        found: dict[Synset, None] = {}
        level = [synset]
        while level:
            level = [up for one in level for up in self.above(one) if self.depth(up) >= least]
            found |= dict.fromkeys(level)
        return list(found)

    def hypernyms(self, synset: Synset) -> tuple[str, ...]:
        """First word of each ancestor."""
        return tuple(self.lemmas(one)[0] for one in self.ancestors(synset))

    def sense(self, name: str, hints: set[str]) -> Synset | None:
        """Sense of the noun `name` (or of its last word) that shares most words with `hints`."""
        senses = self.senses.get(name.lower()) or self.senses.get(name.lower().split()[-1], [])
        scores = [len(hints & self.context(one)) for one in senses]
        return senses[scores.index(max(scores))] if senses else None

    def context(self, synset: Synset) -> set[str]:
        """Words of all ancestors."""
        phrases = (lemma for one in self.ancestors(synset, 3) for lemma in self.lemmas(one))
        return {word for phrase in phrases for word in phrase.lower().split()}


def _entries(path: Path) -> Iterator[str]:
    """Lines of a WordNet file without its licence."""
    return (line for line in path.read_text("utf-8").splitlines() if not line.startswith(" "))


def imagenet_synsets(name: str = "imagenet_synsets") -> list[Synset]:
    """Synsets of ImageNet's classes in their order, from timm."""
    import timm

    path = Path(timm.__file__).parent / "data/_info" / f"{name}.txt"
    return [line.split()[0][1:] for line in path.read_text("utf-8").splitlines() if line.strip()]


def imagenet(wordnet: WordNet) -> list[Concept]:
    """The 1,000 classes of the image encoder."""
    from open_clip import IMAGENET_CLASSNAMES

    return [
        Concept(
            "imagenet",
            str(index),
            {
                "name": (name,),
                "synonym": tuple(wordnet.lemmas(synset)),
                "hypernym": wordnet.hypernyms(synset),
                "gloss": (wordnet.gloss(synset),),
            },
        )
        for index, (synset, name) in enumerate(
            zip(imagenet_synsets(), IMAGENET_CLASSNAMES, strict=True)
        )
    ]


def relatives(wordnet: WordNet, most: int = 60) -> list[tuple[str, str, list[int]]]:
    """Name, gloss and ImageNet classes of every other noun of ImageNet-21k.

    The classes of a noun are those below its closest ancestor with any: deer -> ox, ibex, gazelle
    and the other ruminants. Nouns with more than `most` classes are excluded.
    """
    own = imagenet_synsets()
    below: dict[Synset, set[int]] = {}
    for index, synset in enumerate(own):
        for one in {synset, *wordnet.ancestors(synset, 0)}:
            below.setdefault(one, set()).add(index)
    found = []
    for synset in imagenet_synsets("imagenet_synset_to_lemma"):
        if synset in wordnet and synset not in own:
            classes = min((below[one] for one in _closest(wordnet, synset, below)), key=len)
            if len(classes) <= most:
                found.append((wordnet.lemmas(synset)[0], wordnet.gloss(synset), sorted(classes)))
    return found


def _closest(wordnet: WordNet, synset: Synset, below: Mapping[Synset, object]) -> list[Synset]:
    """The synset or its closest ancestors among the keys of `below`."""
    level = [synset]
    while level and not any(one in below for one in level):
        level = [up for one in level for up in wordnet.above(one)]
    return [one for one in level if one in below]


def emoji(folder: Path, wordnet: WordNet) -> list[Concept]:
    """Unicode's emoji without skin tones and flags."""
    data = folder / "npm/emojibase-data/package"
    groups = json.loads((data / "meta/groups.json").read_text("utf-8"))
    keywords = json.loads(
        (folder / "npm/emojilib/package/dist/emoji-en-US.json").read_text("utf-8")
    )
    keywords = {key.replace("\ufe0f", ""): words for key, words in keywords.items()}
    found = []
    for entry in json.loads((data / "en/data.json").read_text("utf-8")):
        group = groups["groups"].get(str(entry.get("group")))
        if group in (None, "component", "flags"):
            continue
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        tags = [*entry.get("tags", ()), *keywords.get(entry["emoji"].replace("\ufe0f", ""), ())]
        tags = [tag.lower().replace("_", " ") for tag in tags]
        found.append(_emoji(entry["hexcode"], entry["label"], subgroup, group, tags, wordnet))
    return found


def _emoji(
    key: str, label: str, subgroup: str, group: str, tags: list[str], wordnet: WordNet
) -> Concept:
    folders = [*subgroup.split("-"), *group.split("-")]
    folders = [word for word in folders if word not in ("other", "symbols", "objects")]
    synset = wordnet.sense(label, {word for text in [*tags, *folders] for word in text.split()})
    exact = synset is not None and label.lower() in wordnet.senses
    words = {
        "name": (label,),
        "synonym": (
            *(t for t in dict.fromkeys(tags) if t != label),
            *(wordnet.lemmas(synset) if synset and exact else ()),
        ),
        "hypernym": wordnet.hypernyms(synset) if synset else (),
        "folder": tuple(folders),
        "gloss": (wordnet.gloss(synset),) if synset and exact else (),
    }
    return Concept("emoji", key, words, subgroup)


def emoji_drawings(folder: Path, concepts: list[Concept]) -> Iterator[Drawing]:
    """Drawings of the emoji by all vendors."""
    known = {concept.key for concept in concepts}
    by_name = {_letters(concept.words["name"][0]): concept.key for concept in concepts}
    for concept in concepts:
        first = next(iter(concept.words["synonym"]), concept.words["name"][0])
        by_name.setdefault(_letters(first), concept.key)
        if "-" not in concept.key:
            formal = unicodedata.name(chr(int(concept.key, 16)), concept.words["name"][0])
            by_name.setdefault(_letters(formal), concept.key)
    for name in NPM:
        if name.startswith("@iconify-json/"):
            yield from _icons(folder / "npm" / name / "package", name[14:], known, by_name)


def _icons(
    package: Path, vendor: str, known: set[str], by_name: Mapping[str, str]
) -> Iterator[Drawing]:
    """Icons of an Iconify package with a known code point or name."""
    icons = json.loads((package / "icons.json").read_text("utf-8"))
    characters = package / "chars.json"
    codes = json.loads(characters.read_text("utf-8")) if characters.is_file() else {}
    points: dict[str, str] = {}
    for code, name in codes.items():
        points.setdefault(name, code.upper())
    drawn = set()
    for name, icon in icons["icons"].items():
        key = points.get(name)
        if key not in known:
            key = by_name.get(_letters(name)) or by_name.get(_letters(re.sub(r"-\d+$", "", name)))
        twin = key in drawn and not re.search(r"-\d+$", name)
        if key is None or icon.get("hidden") or twin:
            continue
        drawn.add(key)
        left, top, width, height = (
            icon.get(side, icons.get(side, default))
            for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        )
        yield Drawing(
            vendor,
            key,
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>',
        )


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def clipart(folder: Path, wordnet: WordNet) -> tuple[list[Concept], list[Drawing]]:
    """Clip art of objects: one concept per file, named by file and folders."""
    root = folder / "usr/share/openclipart/png"
    files: dict[str, Path] = {}
    for topic in CLIPART:
        for path in sorted((root / topic).rglob("*.png")):
            if not path.is_symlink() and not NO_OBJECT.search(str(path.relative_to(root))):
                files.setdefault(path.name, path)
    concepts = [_clipart(str(path.relative_to(root)), wordnet) for path in files.values()]
    return concepts, [Drawing("clipart", concept.key, root / concept.key) for concept in concepts]


def _clipart(key: str, wordnet: WordNet) -> Concept:
    *places, stem = key.removesuffix(".png").split("/")
    folders = [
        word[:-1] if word.endswith("s") and word[:-1] in wordnet.senses else word
        for place in places
        for word in place.replace("_and_", "_").split("_")
    ]
    title = _title(stem, wordnet)
    synset = wordnet.sense(title, set(folders)) if title else None
    fits = synset is not None and bool(set(folders) & wordnet.context(synset))
    words = {
        "name": (title,) if title else (),
        "hypernym": wordnet.hypernyms(synset) if synset and fits else (),
        "folder": tuple(folders),
    }
    return Concept("clipart", key, words)


def _title(stem: str, wordnet: WordNet) -> str | None:
    """The first of the longest nouns in a file name; authors' names are rarely nouns."""
    words = [word for word in re.findall("[a-z]+", stem.lower()) if len(word) > 2]
    phrases = (
        " ".join(words[start : start + length])
        for length in (3, 2, 1)
        for start in range(len(words) - length + 1)
    )
    return next((phrase for phrase in phrases if phrase in wordnet.senses), None)
