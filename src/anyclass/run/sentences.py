"""What the metrics of a run say of its labels, in words, for the screen and the report."""

from collections.abc import Mapping

from anyclass.data.classes import plural
from anyclass.files import Json
from anyclass.run.columns import CROSS_FITTED, TRAINING, UNSEEN

EXPERTS = {"labels": "labels", "text": "class names", "images": "unlabelled images"}
"""Experts of the open-world estimator -> what they learn from."""


FEWEST = 30
"""Minimum number of labels to compare scores with."""

CALIBRATED = 0.1
"""Largest calibration error at which scores are read as probabilities."""


def decision(metrics: Json) -> str:
    """Share of labels, class names and unlabelled images in the decision; empty if not known."""
    shares: Mapping[str, float] = metrics.get("contributions") or {}
    rows = [(shares[key], words) for key, words in EXPERTS.items() if key in shares]
    parts = [f"{words} {100 * share:.0f} %" for share, words in sorted(rows, reverse=True)]
    return ", ".join(parts)


def basis(metrics: Json) -> str:
    """What the scores are computed on, in a few words; empty where labels were just compared."""
    scored = metrics.get("scored_on")
    if scored == CROSS_FITTED:
        labels = plural(metrics["scored"], "label")
        return f"cross-fitted on {labels}: each was predicted without itself"
    if scored == TRAINING:
        labels = plural(metrics["scored"], "label")
        return f"on the {labels} that it was trained on, which says nothing of other images"
    return ""


def expectation(metrics: Json) -> str:
    """How many labels of a run with discovered classes are expected to be right; or empty."""
    found = metrics.get("expected")
    if not found or found["mean_score"] is None:
        return ""
    scores = f"the mean score of the {plural(found['unlabelled'], 'unlabelled image')} is "
    scores += f"{found['mean_score']:.0%}"
    if found.get("accuracy") is None:
        return f"{scores}; nothing says how many are right, so check a sample of them"
    if not found.get("classes"):
        return (
            f"about {found['accuracy']:.0%} of the labels of unlabelled images may be right, often "
            "fewer: so many stay together when a random share of the images is clustered anew. The "
            "mean score is set to that; no label has checked it"
        )
    return (
        f"about {found['accuracy']:.0%} of the labels of unlabelled images are expected to be "
        f"right, as {found['classes']} labelled classes show that were treated as unknown "
        f"({found['images']} images, calibration error {found['calibration_error']:.0%}); {scores}"
    )


def order_only(metrics: Json) -> str:
    """Why the scores of a run are an order and no probabilities; empty if they can be read as such.

    They can where at least `FEWEST` labels show a calibration error of at most `CALIBRATED`, and
    where the mean score was set to the agreement of clusterings.
    """
    found = metrics.get("expected") or {}
    if found.get("accuracy") is not None:
        error = found.get("calibration_error") or 0.0
    elif found or metrics.get("scored_on") not in (UNSEEN, CROSS_FITTED):
        return "no label has checked them"
    elif metrics["scored"] < FEWEST:
        return f"fewer than {FEWEST} labels check them"
    else:
        error = metrics["calibration_error"]
    if error <= CALIBRATED:
        return ""
    return f"on labels they are off by {error:.0%}"


def rounds(metrics: Json) -> list[str]:
    """What changed since the earlier run, one sentence each; nothing for a first round."""
    found = metrics.get("second_round")
    if not found:
        return []
    sentences = [f"labels kept from the earlier run: {found['kept']}, new labels: {found['new']}"]
    where = {
        "unseen": "labels that neither run was trained on",
        "corrected": "new labels, each predicted without itself",
    }
    for key, words in where.items():
        if row := found[key]:
            sentences.append(
                f"accuracy before {row['before']:.1%}, now {row['after']:.1%}, on {words} "
                f"({row['n']})"
            )
    return sentences
