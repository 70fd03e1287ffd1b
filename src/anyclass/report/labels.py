"""Labels of a run for its report: how many each class has, and which look wrong."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from anyclass.files import Json, csv_text
from anyclass.report.gallery import LISTED
from anyclass.report.thumbnails import Thumbnail
from anyclass.report.words import plain
from anyclass.run.columns import SUSPICIOUS
from anyclass.run.content import read_rows


def label_counts(table: pa.Table) -> Counter[str]:
    """Number of labels that the user gave to each class, from a table of predictions."""
    return Counter(name for name in table["true_label"].to_pylist() if name)


def suspicious_table(path: Path, thumbnail_of: Thumbnail) -> Json | None:
    """Suspicious labels from `suspicious.csv`: count and the first rows; None without the file."""
    if not path.is_file():
        return None
    rows = list(read_rows(path, SUSPICIOUS.names))
    return {"count": len(rows), "rows": [_suspect(row, thumbnail_of) for row in rows[:LISTED]]}


def _number(cell: str) -> float:
    """A cell as a number; 0 where a person wrote something else."""
    try:
        return float(cell)
    except ValueError:
        return 0.0


def _suspect(row: dict[str, str], thumbnail_of: Thumbnail) -> Json:
    """One suspicious label, with its thumbnail."""
    return {
        "file_name": plain(csv_text(row["file_name"])),
        "label": plain(csv_text(row["label"]), 80),
        "opinion": plain(csv_text(row["opinion"]), 80),
        "opinion_score": _number(row["opinion_score"]),
        "label_quality": _number(row["label_quality"]),
        "src": thumbnail_of(csv_text(row["file_name"])),
    }
