"""Names and titles of the baselines that stand beside the result of a run."""

LINEAR_PROBE = "linear_probe"
KMEANS = "kmeans"
KMEANS_WITH_LABELS = "kmeans_with_labels"

BEFORE = {"zero_shot": "Zero-shot", "zero_shot_ensemble": "Zero-shot, 80 templates"}
"""Scores of the model before training: key in `metrics.json` -> title."""

FITTED = {
    LINEAR_PROBE: "Linear probe",
    KMEANS: "k-means",
    KMEANS_WITH_LABELS: "k-means with labels",
}
"""Baselines that a run fits for comparison: name in its files -> title. Those that belong to a
single method have their titles in its `info`."""


def on_screen(baseline: str) -> str:
    """Title of a fitted baseline in a line of text; its own name if it is not known."""
    return FITTED.get(baseline, baseline.replace("_", " ")).lower()
