"""The model card of a classifier: what it is, how good it is, its limits, how to load it."""

from pathlib import Path

from anyclass.files import read_json
from anyclass.report.html import literal, percent, summarise, to_markdown
from anyclass.report.words import Json

LIMITS = """## Limits

* It knows only the classes above: any other image gets the most similar of them.
* CLIP-like models read text in images: a written word can override the object in the image.
"""

LICENCES = {
    "starter": "Apache-2.0 (image encoder tf_efficientnet_lite0), MIT (text encoder MiniLM-L6) and "
    "MIT (the bridge; docs/starter.md lists its training data)",
}
"""Licences of known weights."""


def card(run: Path) -> str:
    """Text of `model/README.md` for a run folder whose tables are written."""
    config = read_json(run / "config.json")
    environment = read_json(run / "environment.json")
    summary = summarise(run, thumbnails=False)
    model = environment["model"]
    licence = LICENCES.get(model["id"], "see the model's own page")
    weights = f"weights: {model['id']}"
    load = "predict_proba(folder)`"
    author = config.get("captioned_by")
    captions = [f"* captions of the training images: {literal(author)}"] if author else []
    if config["images"] is None:
        weights = f"no weights; it takes the features of the model behind {model['file']}"
        load = "predict_proba(features)`"
    return "\n".join(
        [
            to_markdown(summary),
            LIMITS + "".join(f"* {limit}\n" for limit in _limits(summary)),
            "## Model\n",
            f"* {weights} (sha256 {model['weights_sha256'][:16]}), licence: {licence}",
            *captions,
            f"* seed {config['seed']}, anyclass {config['version']}",
            f'* load: `anyclass.Classifier.load("model")`, then `{load}\n',
        ]
    )


def _limits(summary: Json) -> list[str]:
    """What the scores of this run can and cannot tell."""
    found = summary["calibration"]
    limits = ["Nobody has compared its scores with labels: a high score may well be wrong."]
    if found:
        limits = [
            f"Scores and the share that is right differ by {percent(found['error'])} on average "
            f"(expected calibration error on {found['n']} labels that were not trained on)."
        ]
    if summary["headline"]:
        limits.append("The accuracy is that of the labelled images: the others were not checked.")
    return limits
