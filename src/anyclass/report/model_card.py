"""The model card: what a classifier is, what made it, how good it is, where it will fail."""

from pathlib import Path

from anyclass.files import read_json
from anyclass.report.html import summarise, to_markdown

LIMITS = """## Limits

* It knows the classes above and no other: an image of something else gets the nearest of them.
* CLIP-like models read text in images: a written word can outvote what is shown.
* Scores are softmax values, not frequencies; look at the calibration error before you rely on them.
* What was not labelled was not checked: the accuracy is that of the labelled images only.
"""

LICENCES = {
    "starter": "Apache-2.0 (image tower tf_efficientnet_lite0), MIT (text tower MiniLM-L6) and MIT "
    "(the bridge; docs/starter.md names what it was trained on)",
}
"""Licences of weights that are known here."""


def card(run: Path) -> str:
    """`model/README.md` of a run folder whose tables are written."""
    config, environment = read_json(run / "config.json"), read_json(run / "environment.json")
    model = environment["model"]
    licence = LICENCES.get(model["id"], "see the model's own page")
    return "\n".join(
        [
            to_markdown(summarise(run, thumbnails=False)),
            LIMITS,
            "## Model\n",
            f"* weights: {model['id']} (sha256 {model['weights_sha256'][:16]}), licence: {licence}",
            f"* seed {config['seed']}, anyclass {config['version']}",
            '* load: `anyclass.Classifier.load("model")`, then `predict_proba(folder)`\n',
        ]
    )
