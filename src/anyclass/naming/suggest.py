"""Name discovered classes by the words most similar to their images, with example images.

    c_k = norm(mean of z over S_k - mean of z)     S_k: the images of class k; e_k likewise of z^
    t_w = norm(T_w - mean of T over the words)     removes what all images, or all words, share
    score(k, w) = alpha <c_k, t_w> + (1 - alpha) <e_k, t_w>
    margin(k) = score of its word - score of the best other word

As a check, the labelled classes are named as if they had no name. A suggestion is "likely" if
labelled classes with such a margin mostly got their own name, else "maybe". Suggestions change no
prediction.

Letters: N images, K classes, D dimensions, V words, z (N, D) unit image features, z^ (N, D) unit
pseudo-texts, where a method makes some, T (V, D) unit text features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from anyclass.data import Classes
from anyclass.naming.naming_files import BORDERLINE, TOP, TYPICAL
from anyclass.naming.words import Encode, first_spellings, normal_form

ALPHA = 0.5
"""Weight of the images if there are pseudo-texts as well."""
TRUST = 0.8
"""Share of known classes that must get their own name for a margin to count as likely."""
FEWEST = 3
"""Minimum number of known classes for this share."""
SAME = 0.98
"""Cosine above which two images look the same, so that one of them is enough."""


@dataclass(frozen=True)
class ClassifiedImages:
    """Images with their predicted classes."""

    z: Float[Tensor, "N D"]
    """Unit image features."""
    predicted: Int[Tensor, " N"]
    """Predicted class of each image."""
    margin: Float[Tensor, " N"]
    """Difference between the two highest probabilities."""
    pseudo: Float[Tensor, "N D"] | None = None
    """Unit pseudo-texts, if the method makes them."""


class KnownClassCheck(NamedTuple):
    """Results of naming the labelled classes as if they had no name."""

    known: int
    """Number of labelled classes."""
    hit_rate: float | None
    """Share that got their own name; None without labelled classes."""
    hit_rate_top: float | None
    """Share with their own name among the first `TOP`."""
    threshold: float | None
    """Smallest margin of a likely word; None if no margin is sufficient."""


class RankedWords(NamedTuple):
    """Words for one class."""

    words: list[int]
    """Indices of the words, the suggestion first; empty if no word was left."""
    margin: float
    """Score of the suggestion minus that of the best other word."""


class NameSuggestion(NamedTuple):
    """Suggested names of a class, with example images."""

    k: int
    """Index of the class."""
    size: int
    """Number of images predicted as the class."""
    words: list[str]
    """The suggestion and the runners-up; only the name for a class that has one."""
    margin: float | None
    """Margin of the suggestion; None if nothing was suggested."""
    likely: bool
    """Whether known classes with such a margin mostly got their own name."""
    typical: list[int]
    """Rows of typical images, the most typical first."""
    borderline: list[int]
    """Rows of other images, the least certain first."""


class Naming(NamedTuple):
    """Suggested names of all K classes, and the check on known classes."""

    names: list[NameSuggestion]
    """One per class."""
    check: KnownClassCheck
    """Results on the labelled classes."""
    candidates: int
    """Number of candidate words for unknown classes."""


def suggest_names(
    found: ClassifiedImages,
    classes: Classes,
    given: Sequence[str],
    words: Sequence[str],
    encode: Encode,
) -> Naming:
    """Suggest a name for every class whose kind is unknown.

    Args:
        found: images with their predicted classes.
        classes: all K classes.
        given: class names without labelled images: some of the unknown classes have them.
        words: the vocabulary, further candidates.
        encode: computes the features of words.
    """
    sizes = found.predicted.bincount(minlength=classes.total).tolist()
    own = [classes.names[k] for k in (*classes.labelled, *classes.named)]
    listed_names = [*own, *given]
    # apart, so that the features of the vocabulary are cached for any list of classes
    texts = torch.cat([encode(some) for some in (listed_names, words) if some])
    spellings = [*listed_names, *words]
    kept = first_spellings(spellings)
    words = [spellings[i] for i in kept]
    scores = word_scores(found, classes.total, texts[kept])
    index_of = {normal_form(word): w for w, word in enumerate(words)}
    known = [k for k in classes.labelled if sizes[k]]
    own_words = [index_of[normal_form(classes.names[k])] for k in known]
    check = check_known_classes(scores[known], own_words)
    taken = len(first_spellings(own))
    free = scores[:, taken:]  # names that classes have are not suggested again
    listed = [index_of[normal_form(name)] - taken for name in given]
    nameless = [k for k in range(classes.total) if classes.kind(k) == "unknown" and sizes[k]]
    ranked = assign_words(free[nameless], sorted({w for w in listed if w >= 0}), check.threshold)
    ranked_of = dict(zip(nameless, ranked, strict=True))
    words = words[taken:]

    def name(k: int) -> NameSuggestion:
        unnamed = _without_words(found, classes, k, sizes[k])
        if k not in ranked_of or not ranked_of[k].words:
            return unnamed
        margin = ranked_of[k].margin
        likely = check.threshold is not None and margin >= check.threshold
        suggested = [words[w] for w in ranked_of[k].words]
        return unnamed._replace(words=suggested, margin=margin, likely=likely)

    return Naming([name(k) for k in range(classes.total)], check, len(words))


def only_examples(found: ClassifiedImages, classes: Classes) -> list[NameSuggestion]:
    """All classes with example images; those without a name get no suggestion."""
    sizes = found.predicted.bincount(minlength=classes.total).tolist()
    return [_without_words(found, classes, k, size) for k, size in enumerate(sizes)]


def _without_words(found: ClassifiedImages, classes: Classes, k: int, size: int) -> NameSuggestion:
    """Class k with example images, and its name if it has one."""
    fixed = [] if classes.kind(k) == "unknown" else [classes.names[k]]
    return NameSuggestion(k, size, fixed, None, bool(fixed), *example_images(found, k))


def word_scores(
    found: ClassifiedImages, classes: int, texts: Float[Tensor, "V D"], alpha: float = ALPHA
) -> Float[Tensor, "K V"]:
    """score(k, w): similarity of centred class means and centred word features."""
    t = normalize(texts - texts.mean(0), dim=-1)
    by_images = _centres(found.z, found.predicted, classes) @ t.T
    if found.pseudo is None:
        return by_images
    by_pseudo_texts = _centres(found.pseudo, found.predicted, classes) @ t.T
    return alpha * by_images + (1 - alpha) * by_pseudo_texts


def _centres(
    z: Float[Tensor, "N D"], predicted: Int[Tensor, " N"], classes: int
) -> Float[Tensor, "K D"]:
    """c_k; zero for a class without images."""
    sums = z.new_zeros(classes, z.shape[1]).index_add_(0, predicted, z - z.mean(0))
    return normalize(sums, dim=-1)


def check_known_classes(scores: Float[Tensor, "R V"], own: Sequence[int]) -> KnownClassCheck:
    """Name R known classes with all words, their own names included, and count the hits."""
    if not len(own):
        return KnownClassCheck(0, None, None, None)
    ranked = assign_words(scores, [], None)
    hits = [r.words[:1] == [w] for r, w in zip(ranked, own, strict=True)]
    top = [w in top_indices(row, TOP) for w, row in zip(own, scores, strict=True)]
    least = threshold([r.margin for r in ranked], hits)
    return KnownClassCheck(len(hits), sum(hits) / len(hits), sum(top) / len(top), least)


def threshold(margins: Sequence[float], hits: Sequence[bool]) -> float | None:
    """Smallest margin above which `TRUST` of at least `FEWEST` known classes got their name."""
    least = None
    correct = 0
    for n, (margin, hit) in enumerate(sorted(zip(margins, hits, strict=True), reverse=True), 1):
        correct += hit
        if n >= FEWEST and correct >= TRUST * n:
            least = margin
    return least


def assign_words(
    scores: Float[Tensor, "R V"], given: Sequence[int], least: float | None
) -> list[RankedWords]:
    """Rank words for R classes; the suggestions are distinct, given names come first.

    Args:
        scores: scores of words for classes.
        given: words that are names of some classes; a class gets one if its margin is `least` or
            more, or in any case if there is one for each class.
        least: sufficient margin; None if no margin is.
    """
    first = _matched(scores, given)
    if len(given) < len(scores):
        margins = _margins(scores, first)
        first = [
            w if least is not None and margin >= least else None
            for w, margin in zip(first, margins, strict=True)
        ]
    rest = [r for r, w in enumerate(first) if w is None]
    words = [w for w in range(scores.shape[1]) if w not in first]
    for r, w in zip(rest, _matched(scores[rest], words), strict=True):
        first[r] = w
    ranked = []
    for w, row, margin in zip(first, scores, _margins(scores, first), strict=True):
        runners_up = [v for v in top_indices(row, TOP + 1) if v != w]
        ranked.append(RankedWords([] if w is None else [w, *runners_up][:TOP], margin))
    return ranked


def _matched(scores: Float[Tensor, "R V"], words: Sequence[int]) -> list[int | None]:
    """Match R classes and distinct `words` with the largest sum of scores."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(scores[:, list(words)].numpy(), maximize=True)
    word_of = {int(r): words[c] for r, c in zip(rows, columns, strict=True)}
    return [word_of.get(r) for r in range(len(scores))]


def _margins(scores: Float[Tensor, "R V"], words: Sequence[int | None]) -> list[float]:
    """Score of each class's word minus that of the best other word; 0 without either."""
    margins = []
    for row, w in zip(scores, words, strict=True):
        others = [v for v in top_indices(row, 2) if v != w]
        margins.append(float(row[w] - row[others[0]]) if w is not None and others else 0.0)
    return margins


def top_indices(scores: Float[Tensor, " V"], most: int) -> list[int]:
    """Indices of the largest scores; ties keep their order."""
    order: list[int] = scores.argsort(descending=True, stable=True)[:most].tolist()
    return order


def example_images(found: ClassifiedImages, k: int) -> tuple[list[int], list[int]]:
    """Images of class k: the most typical ones without duplicates, and the least certain others."""
    rows = (found.predicted == k).nonzero()[:, 0]
    z = found.z[rows]
    similarity = z @ normalize(z.mean(0), dim=-1)
    typical: list[int] = []
    for i in top_indices(similarity, len(rows)):
        if len(typical) == TYPICAL:
            break
        if not typical or (z[typical] @ z[i]).max() <= SAME:
            typical.append(i)
    uncertain = [i for i in top_indices(-found.margin[rows], len(rows)) if i not in typical]
    return rows[typical].tolist(), rows[uncertain[:BORDERLINE]].tolist()
