"""Texts of a report: safe, and in words.

Control and bidi characters are removed from every text, and long texts are cut; escaping is left to
the caller.
"""

import json
from pathlib import Path

from anyclass.files import Json
from anyclass.run.baselines import FITTED

METHOD_WORDS = Path(__file__).with_name("method_words.json")
"""What reports need of single methods, from their `info` by `make help-pages`: none is loaded."""

_OF_METHODS: Json = json.loads(METHOD_WORDS.read_text("utf-8"))

IGNORE_LABELS = frozenset(_OF_METHODS["ignore_labels"])
"""Methods whose result does not depend on labels."""

SHARES = {
    "agreement_with_zero_shot": "images that kept their zero-shot class",
    "confidence": "mean confidence in training",
    "new": "images predicted as a new class in training",
    **_OF_METHODS["shares"],
}
"""Figure of a method that is a share -> what it is."""
TERMS = {
    "views_loss": "loss of two views of an image",
    "classes_loss": "loss of images with the same label",
    "label_loss": "loss on labels",
    "cluster_loss": "loss of the classes of two views",
    "entropy_loss": "loss of uneven class sizes",
}
"""Loss of methods for unknown classes -> what it is."""
_OF_BRANCHES = {
    f"{branch}_{key}": f"{text}, {branch} branch"
    for branch in ("image", "text")
    for key, text in TERMS.items()
}
METRICS = {
    "alpha": "weight of the labelled images beside the class names (alpha)",
    "labelled_images": "labelled images",
    "entropy": "entropy of the class sizes (0: one class gets all images)",
    "used": "classes that were predicted in training",
    "steps": "training steps",
    "lr": "learning rate",
    "grad_norm": "length of the gradient",
    "loss": "loss",
    **TERMS,
    **_OF_BRANCHES,
    **_OF_METHODS["metrics"],
}
"""Other metric of a method or of training -> what it is."""
SETTINGS = {
    "alpha": "weight alpha",
    "alpha_max": "largest alpha of the search",
    "at_once": "texts per forward pass",
    "backbone_lr": "learning rate of the encoder",
    "deviation": "standard deviation of initial vectors",
    "draws": "synthetic features per key",
    "dtype": "precision of the weights",
    "eps": "epsilon of the optimiser",
    "h_width": "output width of the MLP",
    "lr": "learning rate",
    "micro_batch": "images per forward pass",
    "mlp_width": "hidden width of the MLP",
    "most": "most words in a description",
    "sup_temperature": "supervised loss: temperature",
    "sup_weight": "supervised loss: weight",
    "tune": "trained part",
    "unsup_temperature": "unsupervised contrastive loss: temperature",
    "views": "augmented views per image",
    **_OF_METHODS["settings"],
}
"""Hyper-parameter whose name says too little -> what it is."""

BASELINES = {**FITTED, **_OF_METHODS["baselines"]}
"""Baseline of a run or of a method -> title."""


def plain(text: object, limit: int = 160) -> str:
    """Convert to one line of at most `limit` characters, without control and bidi characters."""
    kept = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in str(text))
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def title(key: str) -> str:
    """Words of a key."""
    return plain(key.replace("_", " "))


def metric(key: str) -> str:
    """Words of a metric of a method or of training."""
    return SHARES.get(key) or METRICS.get(key) or title(key)


def baseline(key: str) -> str:
    """Title of a baseline."""
    return BASELINES.get(key) or title(key)


def setting(key: str) -> str:
    """Words of a hyper-parameter."""
    return SETTINGS.get(key) or title(key)


KINDS = {"labelled": "labelled", "named": "named only", "unknown": "discovered"}
"""Kind of a class -> word for people."""
