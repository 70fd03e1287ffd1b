"""`write_run`: store the result of a fit in a run folder."""

import json
import shutil
from pathlib import Path

import torch

from anyclass.classifier.record import FitRecord
from anyclass.commands.score import Learned
from anyclass.files import read_json, write_json, write_manifest, write_text
from anyclass.naming.naming_files import write_naming
from anyclass.report.html import write_report
from anyclass.report.model_card import card
from anyclass.run.columns import COMPARED, SUSPICIOUS
from anyclass.run.embedding_map import write_map
from anyclass.run.environment import environment
from anyclass.run.fitted_images import write_fitted_images
from anyclass.run.folder import BASELINES, PROBABILITIES, SCRATCH
from anyclass.run.probabilities import ImageProbabilities, write_probabilities
from anyclass.run.tables import compared_rows, suspicious_rows, write_rejected, write_table


def write_run(folder: Path, learned: Learned) -> None:
    """Write all files of a run, the manifest last; remove the scratch folder.

    Args:
        folder: a run folder that `begin` has prepared.
        learned: the result of `score`.

    Raises:
        AnyclassError: the disk is full.
    """
    classifier = learned.classifier
    classifier.save(folder / "model")
    classifier.record.write_artefacts(folder / "model")
    for name, baseline in learned.baselines.items():
        baseline.save(folder / BASELINES / name)
    _write_predictions(folder, learned)
    if learned.hashes is not None:
        write_fitted_images(folder, learned.readable, learned.hashes)
    write_json(folder / "classes.json", classifier.classes.to_json())
    write_json(folder / "metrics.json", learned.metrics)
    if learned.map:
        write_map(folder, learned.map)
    if learned.naming:
        write_naming(folder, learned.naming)
    versions = environment(learned.model, learned.device, learned.started, learned.seconds)
    write_json(folder / "environment.json", versions)
    _write_texts(folder, classifier.record)
    write_text(folder / "model" / "README.md", card(folder))
    write_report(folder, learned.dataset.memory)
    shutil.rmtree(folder / SCRATCH)
    write_manifest(folder)


def _write_predictions(folder: Path, learned: Learned) -> None:
    """Write the label of each image, rejected images and suspicious labels."""
    rows = compared_rows(
        learned.dataset,
        learned.predictions,
        learned.rejections,
        learned.trained_on,
        learned.opinions,
    )
    write_table(folder / "predictions.parquet", rows, COMPARED)
    write_table(folder / "predictions.csv", rows, COMPARED)
    write_rejected(folder / "rejected.csv", learned.rejections)
    if learned.opinions is not None:
        suspicious = suspicious_rows(learned.readable, learned.opinions)
        write_table(folder / "suspicious.csv", suspicious, SUSPICIOUS)
    if learned.classifier.classes.discovered_names:
        adapted = torch.from_numpy(learned.predictions.probabilities())
        found = ImageProbabilities(adapted, adapted.new_zeros(len(adapted), 0))
        write_probabilities(folder / PROBABILITIES, found)


def _write_texts(folder: Path, record: FitRecord) -> None:
    """Write the texts of images, and into the configuration which model wrote them."""
    if author := record.captioned_by:
        config = read_json(folder / "config.json")
        write_json(folder / "config.json", config | {"captioned_by": author})
    lines = [json.dumps(text, ensure_ascii=False) + "\n" for text in record.descriptions]
    write_text(folder / "descriptions.jsonl", "".join(lines))
