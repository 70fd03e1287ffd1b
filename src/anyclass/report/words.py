"""Texts of a report: safe, and in words.

Control and bidi characters are removed from every text, and long texts are cut; escaping is left to
the caller.
"""

from typing import Any

Json = dict[str, Any]
"""A JSON object: the content of a file of the run, or a part of the summary."""

SHARES = {
    "agreement_with_zero_shot": "images that kept their zero-shot class",
    "agreement_of_towers": "images that both encoders label alike",
    "rows_at_floor": "images whose texts fit no class better than another",
    "confidence": "mean confidence in training",
    "new": "images predicted as a new class in training",
    "agree": "synthesised features closest to their own class name",
}
"""Figure of a method that is a share -> what it is."""
FIGURES = {
    "prototype_drift": "distance that the class prompts moved (1 − cosine)",
    "weight_class": "mean weight of class prompts",
    "weight_image": "mean weight of texts on single images",
    "weight_group": "mean weight of texts on groups of images",
    "alpha": "weight of the labelled images beside the class names (alpha)",
    "beta": "sharpness of the comparison with labelled images (beta)",
    "keys": "labelled images that are remembered",
    "labelled_images": "labelled images",
    "inertia": "sum of squared distances to the cluster centres",
    "entropy": "entropy of the class sizes (0: one class gets all images)",
    "used": "classes that were predicted in training",
    "steps": "training steps",
    "residual": "largest remaining error of label propagation",
    "kl": "information in the image code (KL, in nats)",
    "reconstruction": "squared distance of synthesised and real image features",
    "active": "dimensions of the image code that are in use",
    "collapsed": "squared distance without the image code",
    "spread": "spread of synthesised features, 1 like real ones",
    "cos_mean": "cosine of the synthesised and the real class means",
    "cos_text": "cosine of the class prompts and the real class means",
    "transfer_steps": "training steps on the source data",
    "text_scale": "length of the synthesised text features",
    "loss": "loss",
    "zs_loss": "loss with zero-shot classes",
    "ft_loss": "loss with the classes of the trained model",
    "lr": "learning rate",
    "grad_norm": "length of the gradient",
}
"""Other figures of methods and of training -> what they are."""


def plain(text: object, limit: int = 160) -> str:
    """Convert to one line of at most `limit` characters, without control and bidi characters."""
    kept = "".join(c if c.isprintable() or c in "\u200c\u200d" else " " for c in str(text))
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def title(key: str) -> str:
    """Words of a key."""
    return plain(key.replace("_", " "))


def figure(key: str) -> str:
    """Words of a figure of a method or of training."""
    return SHARES.get(key) or FIGURES.get(key) or title(key)


KINDS = {"labelled": "labelled", "named": "named only", "unknown": "discovered"}
"""Kind of a class -> word for people."""
