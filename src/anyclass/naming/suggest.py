"""Names for discovered classes: the words that lie nearest to their images, and what to look at.

    c_k = norm(mean of z over S_k - mean of z)     S_k: the images of class k; e_k likewise of z^
    t_w = norm(T_w - mean of T over the words)     what all images, or all words, share is no sign
    score(k, w) = alpha <c_k, t_w> + (1 - alpha) <e_k, t_w>
    margin(k) = score of its word - that of the best other word

A word is called likely where its margin is one at which labelled classes, treated as if they had no
name, were mostly given their own; else it is a mere maybe. A name is a suggestion: it stands beside
the index of a class and changes no prediction.

Letters: N images, K classes, D dimensions, V words, z (N, D) unit image features, z^ (N, D) unit
pseudo-texts, where a method makes some, T (V, D) unit text features.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.captioning import CaptionContext, Captioner, CaptionRequest
from anyclass.captioning.cleaning import cleaned
from anyclass.data import Classes
from anyclass.log import Log

ALPHA = 0.5
"""Weight of the images where there are pseudo-texts as well."""
TOP = 5
"""Words that are kept of each class."""
TRUST = 0.8
"""Share of known classes whose word has to be right for a margin to be called likely."""
FEWEST = 3
"""Known classes that this share is at least taken of."""
TYPICAL, BORDERLINE = 9, 6
"""Most images of a class that are shown as typical, and as doubtful."""
SAME = 0.98
"""Cosine from which on two images look the same, so that one of them is enough."""
LONGEST, WORDS = 40, 4
"""Characters and words of a name that a captioner may give."""
QUESTION = (
    "All these photos show the same kind of thing. Name it with one noun phrase of at most 4 "
    "words. Answer with the name alone."
)
"""What a captioner is asked of a collage."""

Encode = Callable[[Sequence[str]], Tensor]
"""Words -> unit text features (V, D)."""


@dataclass(frozen=True)
class Sorted:
    """Images, and the class that each was sorted into."""

    z: Float[Tensor, "N D"]
    """Unit image features."""
    predicted: Int[Tensor, " N"]
    """Class of each."""
    margin: Float[Tensor, " N"]
    """How far it was ahead of the second."""
    pseudo: Float[Tensor, "N D"] | None = None
    """Unit pseudo-texts; None: there are none."""


class Trial(NamedTuple):
    """How labelled classes fared when they were named as if they had no name."""

    known: int
    """How many there are."""
    hit_rate: float | None
    """Share that got their own name; None: there is none."""
    hit_rate_top: float | None
    """Share that has it among the first `TOP`."""
    threshold: float | None
    """Least margin of a likely word; None: no margin is known to be enough."""


class Choice(NamedTuple):
    """Words for one class."""

    words: list[int]
    """Their places, the suggestion first; none where words ran out."""
    margin: float
    """How far the suggestion is ahead of every other word."""


class Name(NamedTuple):
    """What a class might be called, and the images to judge it by."""

    k: int
    """Index of the class."""
    size: int
    """Images in it."""
    words: list[str]
    """The suggestion, then the runners-up; the name alone of a class that has one."""
    margin: float | None
    """Of the suggestion; None: nothing was to be chosen."""
    likely: bool
    """Whether known classes with such a margin mostly got their own name."""
    typical: list[int]
    """Rows of images, the most typical first."""
    borderline: list[int]
    """Rows of others, the most doubtful first."""


class Naming(NamedTuple):
    """Names of all K classes, and how far they can be trusted."""

    names: list[Name]
    """One for each class."""
    trial: Trial
    """On labelled classes."""
    candidates: int
    """Words that unknown classes were named from."""


def suggest(
    found: Sorted,
    classes: Classes,
    given: Sequence[str],
    words: Sequence[str],
    encode: Encode,
    alpha: float = ALPHA,
) -> Naming:
    """Find a name for every class whose kind is unknown.

    Args:
        found: images in classes.
        classes: all K classes.
        given: names that the user listed and nobody labelled: some of the unknown have them.
        words: the vocabulary, further candidates.
        encode: gives the features of words.
        alpha: weight of the images where there are pseudo-texts as well.
    """
    sizes = found.predicted.bincount(minlength=classes.total).tolist()
    own = [classes.names[k] for k in classes.labelled]
    words = distinct([*own, *given, *words])
    scores = nearness(found, classes.total, encode(words), alpha)
    place = {key(word): w for w, word in enumerate(words)}
    known = [k for k in classes.labelled if sizes[k]]
    tried = trial(scores[known], [place[key(classes.names[k])] for k in known])
    free = scores[:, len(distinct(own)) :]  # a name that a labelled class has is not given again
    listed = [place[key(name)] - len(distinct(own)) for name in given]
    nameless = [k for k in range(classes.total) if classes.kind(k) == "unknown" and sizes[k]]
    chosen = choose(free[nameless], sorted({w for w in listed if w >= 0}), tried.threshold)
    of = dict(zip(nameless, chosen, strict=True))
    words = words[len(distinct(own)) :]

    def name(k: int) -> Name:
        features = examples(found, k)
        if k not in of or not of[k].words:
            fixed = [] if classes.kind(k) == "unknown" else [classes.names[k]]
            return Name(k, sizes[k], fixed, None, bool(fixed), *features)
        likely = tried.threshold is not None and of[k].margin >= tried.threshold
        said = [words[w] for w in of[k].words]
        return Name(k, sizes[k], said, of[k].margin, likely, *features)

    return Naming([name(k) for k in range(classes.total)], tried, len(words))


def nearness(
    found: Sorted, classes: int, texts: Float[Tensor, "V D"], alpha: float
) -> Float[Tensor, "K V"]:
    """score(k, w): cosines of what sets classes apart with what sets words apart."""
    t = normalize(texts - texts.mean(0), dim=-1)
    near = _centres(found.z, found.predicted, classes) @ t.T
    if found.pseudo is None:
        return near
    said = _centres(found.pseudo, found.predicted, classes) @ t.T
    return alpha * near + (1 - alpha) * said


def _centres(
    z: Float[Tensor, "N D"], predicted: Int[Tensor, " N"], classes: int
) -> Float[Tensor, "K D"]:
    """c_k; zero for a class without an image."""
    sums = z.new_zeros(classes, z.shape[1]).index_add_(0, predicted, z - z.mean(0))
    return normalize(sums, dim=-1)


def trial(scores: Float[Tensor, "R V"], right: Sequence[int]) -> Trial:
    """Name R known classes among all words, their own included, and count."""
    if not len(right):
        return Trial(0, None, None, None)
    chosen = choose(scores, [], None)
    hits = [c.words[:1] == [w] for c, w in zip(chosen, right, strict=True)]
    top = [w in best(row, TOP) for w, row in zip(right, scores, strict=True)]
    least = threshold([c.margin for c in chosen], hits)
    return Trial(len(hits), sum(hits) / len(hits), sum(top) / len(top), least)


def threshold(margins: Sequence[float], hits: Sequence[bool]) -> float | None:
    """The smallest margin from which on `TRUST` of at least `FEWEST` known classes were right."""
    least, right = None, 0
    for n, (margin, hit) in enumerate(sorted(zip(margins, hits, strict=True), reverse=True), 1):
        right += hit
        if n >= FEWEST and right >= TRUST * n:
            least = margin
    return least


def choose(scores: Float[Tensor, "R V"], given: Sequence[int], least: float | None) -> list[Choice]:
    """Words of R classes, no first one twice: given names where they fit, then all the others.

    Args:
        scores: of words for classes.
        given: words that some of the classes are called; a class takes one whose margin is
            `least` or more, or any where there is one for each class.
        least: margin that is enough; None: none is.
    """
    first = _shared_out(scores, given)
    if len(given) < len(scores):
        margins = _margins(scores, first)
        first = [
            w if least is not None and margin >= least else None
            for w, margin in zip(first, margins, strict=True)
        ]
    rest = [r for r, w in enumerate(first) if w is None]
    words = [w for w in range(scores.shape[1]) if w not in first]
    for r, w in zip(rest, _shared_out(scores[rest], words), strict=True):
        first[r] = w
    return [
        Choice([] if w is None else [w, *(v for v in best(row, TOP + 1) if v != w)][:TOP], margin)
        for w, row, margin in zip(first, scores, _margins(scores, first), strict=True)
    ]


def _shared_out(scores: Float[Tensor, "R V"], words: Sequence[int]) -> list[int | None]:
    """One of `words` for each of R classes, none twice, so that the sum of scores is largest."""
    rows, columns = linear_sum_assignment(scores[:, list(words)].numpy(), maximize=True)
    taken = {int(r): words[c] for r, c in zip(rows, columns, strict=True)}
    return [taken.get(r) for r in range(len(scores))]


def _margins(scores: Float[Tensor, "R V"], words: Sequence[int | None]) -> list[float]:
    """Score of the word of each class less that of its best other one; 0 without either."""
    margins = []
    for row, w in zip(scores, words, strict=True):
        others = [v for v in best(row, 2) if v != w]
        margins.append(float(row[w] - row[others[0]]) if w is not None and others else 0.0)
    return margins


def best(scores: Float[Tensor, " V"], most: int) -> list[int]:
    """Places of the largest scores, the first of equal ones first."""
    order: list[int] = scores.argsort(descending=True, stable=True)[:most].tolist()
    return order


def examples(found: Sorted, k: int) -> tuple[list[int], list[int]]:
    """Images of class k: the most typical, no two alike, and the most doubtful of the others."""
    rows = (found.predicted == k).nonzero()[:, 0]
    z = found.z[rows]
    near = z @ normalize(z.mean(0), dim=-1)
    typical: list[int] = []
    for i in best(near, len(rows)):
        if len(typical) == TYPICAL:
            break
        if not typical or (z[typical] @ z[i]).max() <= SAME:
            typical.append(i)
    doubtful = [i for i in best(-found.margin[rows], len(rows)) if i not in typical]
    return rows[typical].tolist(), rows[doubtful[:BORDERLINE]].tolist()


def key(name: str) -> str:
    """What two spellings of one name have in common."""
    return " ".join(re.sub(r"[\s_-]+", " ", name).casefold().split())


def distinct(names: Sequence[str]) -> list[str]:
    """The first spelling of each name."""
    return list({key(name): name for name in reversed(names)}.values())[::-1]


def read_words(path: Path | None) -> list[str]:
    """Candidate words: those of a file, one a line, or the shipped nouns.

    Raises:
        RequestError: the file cannot be used.
    """
    return list(_nouns() if path is None else Classes.read(path).names)


@cache
def _nouns() -> tuple[str, ...]:
    return tuple((files("anyclass.naming") / "nouns.txt").read_text("utf-8").split("\n")[:-1])


def asked(
    captioner: Captioner, context: CaptionContext, typical: Mapping[int, Sequence[int]], log: Log
) -> dict[int, str | None]:
    """What a captioner calls each class, no two alike; None where it gave no name.

    Where it gives one name to several classes it is asked about those once more; what then is
    still alike is numbered. Answers are data: they are cleaned and never part of a question.

    Args:
        captioner: who is asked; images go where it sends them.
        context: the images.
        typical: of each class, rows of the images that it is shown as one collage.
        log: gets the progress.
    """

    def ask(some: Sequence[int], question: str, variant: int) -> dict[int, str | None]:
        requests = [CaptionRequest(tuple(typical[k]), question, "thing", variant) for k in some]
        said = captioner.describe(requests, context, log)
        return {k: phrase(text) for k, text in zip(some, said, strict=True)}

    names = ask([k for k, rows in typical.items() if len(rows)], QUESTION, 0)
    if alike := _alike(names):
        more = f"{QUESTION} Be as specific as the photos allow."
        names |= {k: name for k, name in ask(alike, more, 1).items() if name}
    seen: dict[str, int] = {}
    for k in _alike(names):
        name = str(names[k])
        seen[name] = seen.get(name, 0) + 1
        names[k] = f"{name} {seen[name]}"
    return {k: names.get(k) for k in typical}


def phrase(text: str | None) -> str | None:
    """An answer as a name: one line, lower case, no article; None where it is no short phrase."""
    lines = (cleaned(text) or "").lower().rstrip(".!,;: ")
    name = re.sub(r"^(an?|the)\s+", "", lines)
    short = len(name) <= LONGEST and len(name.split()) <= WORDS
    return name if name and short else None


def _alike(names: Mapping[int, str | None]) -> list[int]:
    """Classes whose name another one has as well."""
    counts = Counter(names.values())
    return [k for k, name in names.items() if name and counts[name] > 1]
