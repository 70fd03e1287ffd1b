"""The model card of a classifier: what it is, how good it is, its limits, how to load it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from anyclass.backbone.recommended import RECOMMENDED
from anyclass.files import Json, read_json
from anyclass.report.html import literal, markdown_table, percent, to_markdown
from anyclass.report.summary import summarise

LIMITS = """## Limits

* It knows only the classes above: any other image gets the most similar of them.
* CLIP-like models read text in images: a written word can override the object in the image.
"""

LICENCES = {choice.model: choice.licence for choice in RECOMMENDED} | {
    "starter": "Apache-2.0 (image encoder tf_efficientnet_lite0), MIT (text encoder MiniLM-L6) and "
    "MIT (the bridge; docs/starter.md lists its training data)",
}
"""Licences of known weights, as their publishers state them."""

SOFTWARE = ("anyclass", "torch", "open_clip_torch")
"""Packages whose versions a result depends on most."""


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
        weights = f"no weights; it takes the features of the model behind {model.get('file')}"
        load = "predict_proba(features)`"
    return "\n".join(
        [
            to_markdown(summary),
            *_confusions(summary["confusion"]),
            *_discovered(summary["discovered"]),
            LIMITS + "".join(f"* {limit}\n" for limit in _limits(summary)),
            "## Model\n",
            f"* {weights} (sha256 {model['weights_sha256'][:16]}), licence: {licence}",
            *captions,
            f"* seed {config['seed']}, {_software(environment['packages'])}",
            f'* load: `anyclass.Classifier.load("model")`, then `{load}\n',
        ]
    )


def _confusions(confusion: Json) -> list[str]:
    """The confusion matrix; with many classes only the most frequent mistakes."""
    if not confusion["total"]:
        return []
    if not confusion["rows"]:
        head = ("true class", "predicted as", "images")
        return ["## Most frequent mistakes\n", *markdown_table(head, confusion["mistakes"])]
    names = [name for name, _ in confusion["rows"]]
    counts = []
    for name, cells in confusion["rows"]:
        counts.append((name, *(count for count, _ in cells)))
    columns = ("true class ↓ predicted →", *map(literal, names))
    return ["## Confusion matrix\n", *markdown_table(columns, counts)]


def _discovered(classes: Sequence[Json]) -> list[str]:
    """Discovered classes with what they may be called."""
    if not classes:
        return []
    head = ("class", "images", "suggested name", "confidence", "nearest class")
    rows = (
        (
            row["name"],
            row["count"],
            row["suggested"] or "–",
            row["confidence"] or "–",
            row["quality"]["nearest"] if row["quality"] else "–",
        )
        for row in classes
    )
    return ["## Discovered classes\n", *markdown_table(head, rows)]


def _software(packages: Mapping[str, str]) -> str:
    """Versions of the packages that matter most."""
    return ", ".join(f"{name} {packages[name]}" for name in SOFTWARE if name in packages)


def _limits(summary: Json) -> list[str]:
    """What the scores of this run can and cannot tell."""
    found = summary["calibration"]
    limits = [
        "Nobody has compared its scores with labels: a high score may well be wrong. They sort "
        "images by how sure the model is, and are no probabilities."
    ]
    if found:
        limits = [
            f"Scores and the share that is right differ by {percent(found['error'])} on average "
            f"(expected calibration error on {found['n']} labels that were not trained on)."
        ]
    if summary["headline"]:
        limits.append("The accuracy is that of the labelled images: the others were not checked.")
    return limits
