"""The classes of a run as the review page lists them: name, kind, images, suggested name."""

from collections.abc import Mapping
from pathlib import Path

from anyclass.classifier.class_edits import is_placeholder
from anyclass.errors import AnyclassError
from anyclass.files import Json, read_json
from anyclass.naming.naming_files import NAMING
from anyclass.review.catalogue import Catalogue


def class_rows(catalogue: Catalogue, labels: Mapping[str, str]) -> list[Json]:
    """The classes of the run, then those that only corrections have; see `schema.ClassRow`.

    Args:
        catalogue: the run.
        labels: corrected labels by file name.
    """
    counts = catalogue.counts(labels)
    names = list(catalogue.classes.names)
    names += sorted({label for label in labels.values() if label} - set(names))
    naming = _naming(catalogue.run)
    kinds: dict[str, str] = dict(zip(catalogue.classes.names, catalogue.classes.kinds, strict=True))
    kinds |= dict.fromkeys(catalogue.classes.rejected, "rejected")
    return [
        {
            "name": name,
            "kind": kinds.get(name, "new"),
            "count": counts[name],
            "suggested": naming.get(name, {}).get("suggested") if is_placeholder(name) else None,
            "hint": (naming.get(name, {}).get("quality") or {}).get("hint"),
        }
        for name in names
    ]


def _naming(run: Path) -> dict[str, Json]:
    """Suggested names of discovered classes, by the name that they have now."""
    if not (run / NAMING).is_file():
        return {}
    try:
        rows = read_json(run / NAMING)["classes"]
        return {row["name"]: row for row in rows if row["kind"] == "unknown"}
    except (AnyclassError, KeyError, TypeError):
        return {}
