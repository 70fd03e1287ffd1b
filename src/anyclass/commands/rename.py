"""`rename`: change the names of discovered classes in all files of a run, without a new fit.

All new files are first written to a scratch folder and then moved. If the move is interrupted, the
next `rename` completes it.
"""

import csv
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tyro.conf import Suppress

from anyclass.captioning import AnyCaptioner
from anyclass.data import Classes
from anyclass.data.classes import normal, readable
from anyclass.errors import RequestError
from anyclass.files import (
    MANIFEST,
    atomic_write,
    csv_cell,
    csv_text,
    lock,
    read_json,
    sha256,
    sweep,
    write_json,
    write_text,
)
from anyclass.naming.class_names import NAMING, TABLE, suggest_with_captioner, write_naming
from anyclass.report.html import write
from anyclass.report.model_card import card
from anyclass.run.folder import SCRATCH, check_finished
from anyclass.run.progress import Progress

Json = dict[str, Any]

COMMIT_FILE = "ready.json"
"""File that commits a prepared rename: name of each file -> whether it was unedited before."""

NAME_COLUMNS = ("label", "runner_up", "predicted_label", "opinion")
"""Columns of tables that contain class names; runs of 0.1 have the first two alone."""

TABLES = ("predictions.csv", "suspicious.csv")
"""CSV tables with class names."""


def rename(
    run: Path | str, accept: bool = False, captioner: Suppress[AnyCaptioner | None] = None
) -> Json:
    """Rename discovered classes as in the column `name` of RUN/classes.csv.

    Only names change, in the classes, the model, the predictions and the report. The class of each
    image stays the same.

    Args:
        run: a run folder with discovered classes.
        accept: rename each class that is still "discovered N" to its suggested name.
        captioner: captioner that suggests new names first; None keeps the suggestions of the run.

    Returns:
        `renamed` (old name: new name), `nameless` (classes that are still "discovered N") and
        `report`.

    Raises:
        RequestError: there is no discovered class, the table is damaged, a name is empty, not
            printable or not unique, or the name of a labelled class was changed.
    """
    run = Path(run)
    check_finished(run)
    with lock(run):
        sweep(run)
        (run / SCRATCH / TABLE).unlink(missing_ok=True)  # the user may have edited the table again
        _commit(run)
        if not (run / NAMING).is_file():
            raise RequestError(f"{run} has no discovered classes to rename")
        classes = Classes.from_json(read_json(run / "classes.json"))
        naming = read_json(run / NAMING)
        if captioner is not None:
            with Progress() as log:
                naming = suggest_with_captioner(run, captioner, log)
        names = _names(run / TABLE, classes)
        if accept:
            names = _accepted(names, [row["suggested"] for row in naming["classes"]])
        _check(run / TABLE, names, classes)
        _prepare(run, _renamed(classes, names), naming)
        _commit(run)
    changed = {old: new for old, new in zip(classes.names, names, strict=True) if old != new}
    nameless = [name for name in names if _is_placeholder(name)]
    return {"renamed": changed, "nameless": nameless, "report": str(run / "report.html")}


def _is_placeholder(name: str) -> bool:
    """Whether a class still has its name from the discovery."""
    return bool(re.fullmatch(r"discovered \d+", name))


def _names(path: Path, classes: Classes) -> list[str]:
    """Read the column `name`, in the order of the classes, also from a spreadsheet's export.

    Raises:
        RequestError: rows or columns are missing, or there are too many rows.
    """
    names: dict[int, str] = {}
    for number, row in enumerate(read_rows(path, ("index", "name")), 2):
        if not any((row["index"], row["name"])):
            continue  # an empty line
        k = int(row["index"]) if re.fullmatch(r"[0-9]{1,9}", row["index"].strip()) else -1
        if not 0 <= k < len(classes):
            raise RequestError(
                f"{path}, row {number}: there is no class {row['index']!r:.40}; "
                f"indices are 0 to {len(classes) - 1}"
            )
        if k in names:
            raise RequestError(f"{path}, row {number}: class {k} occurs twice")
        names[k] = normal(csv_text(row["name"]))
    missing = [str(k) for k in range(len(classes)) if k not in names]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise RequestError(
            f"{path} has no row for class {', '.join(missing[:5])}{more}: restore the removed rows"
        )
    return [names[k] for k in range(len(classes))]


def read_rows(path: Path, required: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read a CSV with a header; a byte order mark, semicolons and tabs are accepted.

    Raises:
        RequestError: it cannot be read, or a required column is missing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8: save it again as CSV UTF-8") from error
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    try:
        table = csv.DictReader(StringIO(text, newline=""), delimiter=separator, strict=True)
        columns = table.fieldnames or ()
        missing = [name for name in required if name not in columns]
        if missing:
            raise RequestError(f"{path} has no column {' and no column '.join(missing)}")
        for row in table:
            yield {name: row[name] or "" for name in columns}
    except csv.Error as error:
        raise RequestError(f"{path} is not a CSV table: {error}") from error


def _accepted(names: Sequence[str], suggested: Sequence[str | None]) -> list[str]:
    """Replace placeholder names by the suggestions, unless another class has that name."""
    names = list(names)
    for k, word in enumerate(suggested):
        if word and _is_placeholder(names[k]) and word not in names:
            names[k] = word
    return names


def _check(path: Path, names: Sequence[str], classes: Classes) -> None:
    """Check the new names of all classes."""
    for k, name in enumerate(names):
        if name != classes.names[k] and classes.kind(k) != "unknown":
            raise RequestError(
                f"{path}: class {k} is {classes.kind(k)}, so it must keep the name "
                f"{classes.names[k]!r:.80}; change the labels and fit again"
            )
        if not name:
            raise RequestError(f"{path}: class {k} has no name; it had {classes.names[k]!r:.80}")
        if not re.sub("[\u200c\u200d]", "", name).isprintable():  # joiners, as in Persian
            raise RequestError(
                f"{path}: the name of class {k}, {name!r:.80}, has invisible characters"
            )
    counts = Counter(names)
    twice = [name for name in counts if counts[name] > 1]
    if twice:
        same = [str(k) for k, name in enumerate(names) if name == twice[0]]
        raise RequestError(
            f"{path}: classes {' and '.join(same)} have the same name {twice[0]!r:.80}; names "
            "must differ, classes are not merged"
        )


def _renamed(classes: Classes, names: Sequence[str]) -> Classes:
    """Rename the classes; prompts change for discovered classes alone."""
    prompts = list(classes.prompts)
    for k, kind in enumerate(classes.kinds):
        if kind == "unknown":
            prompts[k] = readable(names[k])
    return Classes(tuple(names), classes.kinds, tuple(prompts), synonyms=classes.synonyms)


def _prepare(run: Path, classes: Classes, naming: Json) -> None:
    """Write all files that contain class names to the scratch folder, the commit file last."""
    scratch = run / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    old = Classes.from_json(read_json(run / "classes.json")).names
    new = dict(zip(old, classes.names, strict=True))
    write_json(scratch / "classes.json", classes.to_json())
    settings = read_json(run / "model" / "classifier.json")
    write_json(scratch / "model" / "classifier.json", settings | {"classes": classes.to_json()})
    write_json(scratch / "metrics.json", _metrics(read_json(run / "metrics.json"), new))
    rows = [row | {"name": classes.names[row["index"]]} for row in naming["classes"]]
    write_naming(scratch, naming | {"classes": rows})
    _parquet(run / "predictions.parquet", scratch / "predictions.parquet", new)
    for name in TABLES:
        if (run / name).is_file() and next(read_rows(run / name, ("label",)), None):
            _csv(run / name, scratch / name, new)
    names = [p.relative_to(scratch).as_posix() for p in sorted(scratch.rglob("*")) if p.is_file()]
    before = read_json(run / MANIFEST)["files"]
    unedited = {name: name == TABLE or before.get(name) == sha256(run / name) for name in names}
    write_json(scratch / COMMIT_FILE, unedited)


def _commit(run: Path) -> None:
    """Move the prepared files, if they are complete; update report, model card and manifest."""
    scratch = run / SCRATCH
    if (scratch / COMMIT_FILE).is_file():
        unedited = read_json(scratch / COMMIT_FILE)
        for name in unedited:
            with suppress(FileNotFoundError):  # moved before an interruption
                (scratch / name).replace(run / name)
        write_text(run / "model" / "README.md", card(run))
        write(run)
        manifest = read_json(run / MANIFEST)
        ours = [name for name, same in unedited.items() if same]  # the user edited the others
        for name in (*ours, "model/README.md", "report.html"):
            manifest["files"][name] = sha256(run / name)
        write_json(run / MANIFEST, manifest)
    shutil.rmtree(scratch, ignore_errors=True)


def _metrics(metrics: Json, new: Mapping[str, str]) -> Json:
    """Rename the classes in the metrics."""

    def renamed(scores: Any) -> Any:
        rows = scores.get("per_class") if isinstance(scores, dict) else None
        if not isinstance(rows, list):
            return scores
        return scores | {"per_class": [r | {"name": new.get(r["name"], r["name"])} for r in rows]}

    metrics = {key: renamed(value) for key, value in metrics.items()}
    if "discovery" in metrics:
        empty = [new.get(name, name) for name in metrics["discovery"]["empty"]]
        metrics["discovery"] = metrics["discovery"] | {"empty": empty}
    return metrics


def _parquet(source: Path, target: Path, new: Mapping[str, str]) -> None:
    """Rename the classes in a Parquet table."""
    table = pq.read_table(source)
    for column in set(NAME_COLUMNS) & set(table.column_names):
        cells = [new.get(name, name) for name in table[column].to_pylist()]
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(at), pa.array(cells, pa.string()))
    with atomic_write(target) as draft:
        pq.write_table(table, draft)


def _csv(source: Path, target: Path, new: Mapping[str, str]) -> None:
    """Rename the classes in a CSV table; corrections by hand are kept."""
    with atomic_write(target) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = None
        for row in read_rows(source, ("label",)):
            for column in set(NAME_COLUMNS) & set(row):
                name = csv_text(row[column])
                row[column] = csv_cell(new.get(name, name))
            writer = writer or csv.DictWriter(file, row.keys())
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
