"""Names that are suggested for the discovered classes of a fit: the content of `naming.json`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from numpy import ndarray
from torch.nn.functional import normalize

from anyclass.classifier.classifier import Classifier
from anyclass.data import Classes
from anyclass.estimators.class_quality import ClassQuality
from anyclass.features.cache import cached_part
from anyclass.features.precomputed import AnyFeatures, PrecomputedFeatures
from anyclass.files import Json
from anyclass.log import Log
from anyclass.naming.quality import quality_rows
from anyclass.naming.suggest import ClassifiedImages, NameSuggestion, only_examples, suggest_names
from anyclass.naming.words import read_words, word_encoder


@torch.no_grad()
def name_classes(
    data: AnyFeatures,
    classifier: Classifier,
    probabilities: Float[ndarray, "N K"],
    qualities: Sequence[ClassQuality | None],
    words: Path | None,
    log: Log,
) -> Json:
    """Suggest names for discovered classes, of which there is one at least.

    Args:
        data: the model before training, and the N training images with the given classes. With
            precomputed features there is no text encoder, and no name is suggested.
        classifier: the classifier that discovered the classes.
        probabilities: its predicted probabilities.
        qualities: how far each class can be trusted.
        words: file of candidate words; None: the nouns of the package.
        log: gets the progress of embedding.

    Raises:
        RequestError: the file is not a usable list of words.
    """
    classes = classifier.classes
    dataset = data.dataset
    z = data.image_features(cached_part(classifier.representation.part), log).cpu()
    top = torch.from_numpy(probabilities).topk(min(2, len(classes)), dim=1)
    pseudo = classifier.record.pseudo_text
    found = ClassifiedImages(
        z,
        torch.from_numpy(probabilities.argmax(1)),
        top.values[:, 0] - top.values[:, -1],
        None if pseudo is None else normalize(pseudo.cpu(), dim=-1),
    )
    quality = quality_rows(qualities, classes)
    if isinstance(data, PrecomputedFeatures):
        return _without_suggestions(found, classes, dataset.files, quality)
    given = [dataset.classes.names[c] for c in dataset.classes.named]
    encode = word_encoder(data.clip, classifier.template, log)
    names, check, candidates = suggest_names(found, classes, given, read_words(words), encode)
    return {
        "hit_rate_known": check.hit_rate,
        "hit_rate_known_top": check.hit_rate_top,
        "known": check.known,
        "threshold": check.threshold,
        "words": candidates,
        "classes": [_row(name, classes, dataset.files) | quality[name.k] for name in names],
    }


def _without_suggestions(
    found: ClassifiedImages, classes: Classes, files: Sequence[str], quality: Sequence[Json]
) -> Json:
    """Example images of all classes, for a person to name them."""
    nothing = dict.fromkeys(("hit_rate_known", "hit_rate_known_top", "threshold"))
    rows = [_row(name, classes, files) | quality[name.k] for name in only_examples(found, classes)]
    return nothing | {"known": 0, "words": 0, "classes": rows}


def _row(name: NameSuggestion, classes: Classes, files: Sequence[str]) -> Json:
    """Entry of one class in `naming.json`."""
    unknown = classes.kind(name.k) == "unknown"
    typical = [files[i] for i in name.typical]
    borderline = [files[i] for i in name.borderline]
    return {
        "index": name.k,
        "name": classes.names[name.k],
        "kind": classes.kind(name.k),
        "suggested": name.words[0] if unknown and name.words else None,
        "runners_up": name.words[1:],
        "confidence": ("likely" if name.likely else "maybe") if unknown and name.words else None,
        "margin": name.margin,
        "images": name.size,
        "typical": typical,
        "borderline": borderline,
    }
