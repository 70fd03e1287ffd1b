"""Notices before a run: skipped files, long computations."""

from anyclass.backbone import Precision
from anyclass.backbone.engine import has_amx
from anyclass.commands.duration import (
    TEXTS_PER_MINUTE,
    minutes_per_epoch,
    pairs_per_minute,
    texts,
)
from anyclass.data import ImageDataset
from anyclass.methods import Workload

TARGET_MINUTES = 10
"""Duration of training that shorter settings are suggested for."""


def notices(
    dataset: ImageDataset,
    workload: Workload,
    device: str,
    precision: Precision = "auto",
    prompt_ensemble: bool = True,
) -> list[str]:
    """Notices before a run, one sentence each.

    Args:
        dataset: images and classes.
        workload: computations of the method.
        device: torch device.
        precision: precision of training.
        prompt_ensemble: whether zero-shot is also scored with the 80 prompt templates.
    """
    sentences = [*dataset.skipped, *workload.remarks]
    if device != "cpu":
        return sentences
    sentences += _many_texts(texts(dataset, prompt_ensemble, 0))
    if workload.trains == "all":
        sentences.append("no GPU: training from pixels takes hours, --tune head takes minutes")
    amx = has_amx()
    bf16 = precision == "bf16"
    if bf16 and not amx:
        sentences.append(
            "this processor has no AMX: --precision bf16 makes convolutions such as the starter's "
            "slower than float32"
        )
    if precision == "fp16":
        sentences.append("--precision fp16 is for GPUs without bfloat16: on a CPU it is slow")
    rate = pairs_per_minute(precision)
    faster = ", with --precision bf16 half of it" if amx and not bf16 else ""
    return [*sentences, *_long_training(len(dataset), workload, rate, faster)]


def _many_texts(count: int) -> list[str]:
    """Notice if encoding the texts of the classes takes long."""
    if count <= TEXTS_PER_MINUTE:
        return []
    return [
        f"the zero-shot baseline with 80 prompt templates encodes {count:,} texts, about "
        f"{count / TEXTS_PER_MINUTE:.0f} minutes with the starter the first time; "
        "--no-prompt-ensemble skips it"
    ]


def _long_training(images: int, workload: Workload, rate: int, faster: str) -> list[str]:
    """Notice if training on pairs of views takes long without a GPU."""
    tuning = workload.pairs
    if tuning is None or tuning.tune != "tail" or not images:
        return []
    if tuning.views == 0:
        return ["no GPU: --views 0 reads all images again in each epoch and takes hours or days"]
    per_epoch = minutes_per_epoch(images, tuning, rate)
    minutes = per_epoch * (tuning.epochs + workload.text_epochs)
    if minutes <= 2 * TARGET_MINUTES:
        return []
    epochs = _share(tuning.epochs, TARGET_MINUTES / minutes)
    text_epochs = _share(workload.text_epochs, TARGET_MINUTES / minutes)
    shorter = f"--epochs {epochs}" + (f" --tes-epochs {text_epochs}" if text_epochs else "")
    shortened = per_epoch * (epochs + text_epochs)
    return [
        f"no GPU: with the starter on two cores training takes about {minutes:.0f} minutes, "
        f"with {shorter} about {shortened:.0f}{faster}"
    ]


def _share(epochs: int, share: float) -> int:
    """Share of a number of epochs: at least one, but 0 of 0."""
    return max(1, int(epochs * share)) if epochs else 0
