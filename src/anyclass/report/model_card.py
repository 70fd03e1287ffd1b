"""The model card of a classifier: method, data, scores, limits."""

from pathlib import Path

from anyclass.files import read_json
from anyclass.report.html import summarise, to_markdown

LIMITS = """## Limits

* It knows only the classes above: any other image gets the most similar of them.
* CLIP-like models read text in images: a written word can override the object in the image.
* Scores are softmax values, not frequencies; check the calibration error before you rely on them.
* Accuracy was measured on the labelled images only; unlabelled images were not checked.
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
    model = environment["model"]
    licence = LICENCES.get(model["id"], "see the model's own page")
    weights = f"weights: {model['id']}"
    load = "predict_proba(folder)`"
    if config["images"] is None:
        weights = f"no weights; it takes the features of the model behind {model['file']}"
        load = "predict_proba(features)`"
    return "\n".join(
        [
            to_markdown(summarise(run, thumbnails=False)),
            LIMITS,
            "## Model\n",
            f"* {weights} (sha256 {model['weights_sha256'][:16]}), licence: {licence}",
            f"* seed {config['seed']}, anyclass {config['version']}",
            f'* load: `anyclass.Classifier.load("model")`, then `{load}\n',
        ]
    )
