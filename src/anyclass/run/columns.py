"""Columns of the tables of a run, and the words that its metrics use; it imports nothing heavy."""

import pyarrow as pa

PREDICTION = pa.schema(
    [
        ("file_name", pa.string()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("rank", pa.int32()),
        ("runner_up", pa.string()),
        ("margin", pa.float32()),
        ("kind", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("familiarity", pa.float32()),
        ("predicted_label", pa.string()),
        ("confirmed", pa.string()),
    ]
)
"""Columns of every prediction table; one row per image, including rejected ones.

`rank` orders the predictions of a table by confidence; 1 is the least sure.
`predicted_label` repeats a `label` that was predicted, so that a change by hand can be seen; a
person writes yes into `confirmed` where a prediction is right.
"""

COMPARED = pa.schema(
    [
        *PREDICTION,
        ("zero_shot_label", pa.string()),
        ("zero_shot_score", pa.float32()),
        ("opinion", pa.string()),
        ("opinion_score", pa.float32()),
        ("label_quality", pa.float32()),
        ("true_label", pa.string()),
    ]
)
"""Columns of a fitted run: also the zero-shot prediction, what the other images say of a given
label (`opinions.py`), and the label that the user gave."""

SUSPICIOUS = pa.schema(
    [COMPARED.field(name) for name in ("file_name", "label", "opinion", "opinion_score")]
    + [COMPARED.field("label_quality")]
)
"""Columns of `suspicious.csv`, one row per suspicious label; it can be read as a label table."""

REJECTED = "rejected"
"""Status of an image that could not be used."""

UNUSUAL = 0.05
"""Familiarity below which a score is reduced: an image that is more unusual than 95 % of the
training images loses its score in proportion."""

UNSEEN = "labels that were not trained on"
"""The labels were hidden from training, or the method does not use labels."""

CROSS_FITTED = "cross-fitted labels"
"""All labels were trained on; each is compared with a prediction that was made without it."""

TRAINING = "training labels"
"""All labels were trained on, so the scores are training scores."""

TRAINING_CAVEAT = (
    "every label was trained on, so these scores are training scores; for an unbiased score "
    "run `anyclass evaluate` on other images, or hold out some labels (--holdout 0.1)"
)
"""Warning about scores on `TRAINING` labels."""
