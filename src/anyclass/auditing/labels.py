"""What the model says: labels that it contradicts, classes that it never predicts, texts alike."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from anyclass.auditing.findings import Finding, Row, rows_of_class
from anyclass.backbone import Backbone
from anyclass.data import ImageDataset
from anyclass.data.classes import plural
from anyclass.estimators.nearest import nearest_pairs
from anyclass.features.text import PLAIN, fill
from anyclass.run.opinions import Opinions

SAME = 0.99999
"""Cosine of text features above which no image can tell two classes apart."""
TEXTS = 256
"""Texts that are tokenised at a time."""
FURTHER = " and one more"
"""What a text is continued with, to see whether it is cut."""
SPECIAL = 4
"""Most tokens that a tokenizer adds to those of a text."""


def suspicious_labels(dataset: ImageDataset, opinions: Opinions) -> Finding | None:
    """Labels that the other images contradict.

    Args:
        dataset: the readable images.
        opinions: what the other images say of their labels.
    """
    names = dataset.classes.names
    rows: list[Row] = [
        {
            "file_name": dataset.files[i],
            "label": names[dataset.labels[i]],
            "value": round(float(opinions.quality[i]), 4),
            "other": names[opinions.classes[i]],
            "detail": f"probability {opinions.scores[i]:.2f} for {names[opinions.classes[i]]}",
        }
        for i in opinions.suspicious.tolist()
        if opinions.classes[i] < len(names)
    ]
    if not rows:
        return None
    labels = int((dataset.labels >= 0).sum())
    return Finding(
        "suspicious-label",
        f"{plural(len(rows), 'label')} of {labels:,} that the other images contradict",
        "look at these first, the clearest stand on top: `other` is what the model says",
        rows,
        "confident learning on cross-fitted probabilities; value is that of the label",
    )


def never_predicted(
    dataset: ImageDataset, predicted: Int[np.ndarray, " N"], named: Sequence[int]
) -> Finding | None:
    """Classes that zero-shot gives to no image.

    Args:
        dataset: the readable images.
        predicted: class of each by zero-shot.
        named: classes that zero-shot chooses from.
    """
    if len(named) < 2 or not len(predicted):
        return None
    counts = np.bincount(predicted, minlength=len(dataset.classes))
    rows: list[Row] = []
    for c in named:
        if counts[c]:
            continue
        own = predicted[dataset.labels == c]
        row: Row = {"label": dataset.classes.names[c], "value": 0.0}
        if len(own):
            taken = Counter(own.tolist()).most_common(1)[0][0]
            other = dataset.classes.names[taken]
            row |= {"other": other, "detail": f"its {len(own)} images are mostly taken for {other}"}
        rows += rows_of_class(dataset, c, row)
    if not rows:
        return None
    absent = sum(not counts[c] for c in named)
    return Finding(
        "never-predicted",
        f"zero-shot predicts {absent} of {plural(len(named), 'class')} for no image",
        "check that there are such images; if so, give a plainer name, or label some of them",
        rows,
        f"template {PLAIN!r}",
        of_classes=True,
    )


def text_findings(
    clip: Backbone, dataset: ImageDataset, texts: Float[Tensor, "C D"]
) -> list[Finding]:
    """Class names that the text encoder cuts off, or that mean the same to it.

    Args:
        clip: the model.
        dataset: the images with their classes.
        texts: unit text features of the classes.
    """
    names = dataset.classes.names
    prompts = [fill(PLAIN, prompt) for prompt in dataset.classes.prompts]
    found = []
    pairs, _ = nearest_pairs(texts.cpu(), None, 5, SAME)
    if len(pairs):
        rows: list[Row] = []
        for i, j in pairs.tolist():
            rows += rows_of_class(dataset, j, {"label": names[j], "other": names[i]})
        found.append(
            Finding(
                "equal-text",
                f"{plural(len(pairs), 'pair')} of class names are one and the same to the model",
                "give one of them another name: without labels the second is never predicted",
                rows,
                f"cosine of the text features at least {SAME}",
                of_classes=True,
            )
        )
    cut = cut_texts(clip, prompts)
    if cut:
        found.append(
            Finding(
                "cut-name",
                f"{plural(len(cut), 'class name')} fill the text encoder, which reads no further",
                "shorten them: what stands at the end is not read",
                [{"label": names[c]} for c in cut],
                "a further word changes nothing",
            )
        )
    return found


def cut_texts(clip: Backbone, texts: Sequence[str]) -> list[int]:
    """Indices of texts that the tokenizer cuts: the same tokens with a further word.

    ASCII texts with fewer characters than the context has tokens are not tokenised: each token
    covers a character at least.
    """
    found: list[int] = []
    most = clip.context_length - SPECIAL
    long = [i for i, text in enumerate(texts) if not text.isascii() or len(text) > most]
    for start in range(0, len(long), TEXTS):
        index = long[start : start + TEXTS]
        some = [texts[i] for i in index]
        ids = clip.words([*some, *(text + FURTHER for text in some)]).ids
        same = (ids[: len(some)] == ids[len(some) :]).all(dim=1)
        found += [i for i, equal in zip(index, same.tolist(), strict=True) if equal]
    return found
