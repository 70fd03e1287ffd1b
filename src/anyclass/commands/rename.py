"""`rename`: discovered classes get names, in every file of a run, and nothing is fitted again.

New files are prepared aside. From the moment that all are whole they are put in place, or, after a
kill, by the next `rename`: old or new names, never a mix for long.
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
from anyclass.data.classes import normal
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
from anyclass.naming.class_names import NAMING, TABLE, described, write_naming
from anyclass.report.html import write
from anyclass.report.model_card import card
from anyclass.run.folder import SCRATCH, check_finished
from anyclass.run.progress import Progress

Json = dict[str, Any]

READY = "ready.json"
"""Marks that everything is prepared: the names of the files, and which of them were the run's."""

RENAMED = ("label", "runner_up")
"""Columns of predictions that hold names of discovered classes."""


def rename(
    run: Path | str, accept: bool = False, captioner: Suppress[AnyCaptioner | None] = None
) -> Json:
    """Give discovered classes the names in the column `name` of RUN/classes.csv.

    Only names change, in the classes, the model, the predictions and the report: which image is
    in which class stays as it is.

    Args:
        run: a run folder with discovered classes.
        accept: take the suggested name of every class that is still called "discovered N".
        captioner: first has discovered classes named by whom; those names are then suggested.

    Returns:
        `renamed` (old name: new name), `nameless` (classes that are still called "discovered N")
        and `report`.

    Raises:
        RequestError: there is no discovered class, the table is damaged, a name is empty, not
            visible text or taken, or a labelled class was given another one.
    """
    run = Path(run)
    check_finished(run)
    with lock(run):
        sweep(run)
        (run / SCRATCH / TABLE).unlink(missing_ok=True)  # the user may have gone on editing
        _put_in_place(run)
        if not (run / NAMING).is_file():
            raise RequestError(f"{run} has no discovered classes, so there is nothing to rename")
        classes = Classes.from_json(read_json(run / "classes.json"))
        naming = read_json(run / NAMING)
        if captioner is not None:
            with Progress() as log:
                naming = described(run, captioner, log)
        names = _names(run / TABLE, classes)
        if accept:
            names = _accepted(names, [row["suggested"] for row in naming["classes"]])
        _check(run / TABLE, names, classes)
        _prepare(run, _called(classes, names), naming)
        _put_in_place(run)
    changed = {old: new for old, new in zip(classes.names, names, strict=True) if old != new}
    nameless = [name for name in names if _nameless(name)]
    return {"renamed": changed, "nameless": nameless, "report": str(run / "report.html")}


def _nameless(name: str) -> bool:
    return bool(re.fullmatch(r"discovered \d+", name))


def _names(path: Path, classes: Classes) -> list[str]:
    """The column `name`, in the order of the classes, whatever a spreadsheet made of the table.

    Raises:
        RequestError: rows or columns are missing, or there are too many.
    """
    names: dict[int, str] = {}
    for number, row in enumerate(read_rows(path, ("index", "name")), 2):
        if not any((row["index"], row["name"])):
            continue  # an empty line
        k = int(row["index"]) if re.fullmatch(r"[0-9]{1,9}", row["index"].strip()) else -1
        if not 0 <= k < len(classes):
            raise RequestError(
                f"{path}, row {number}: there is no class {row['index']!r:.40}, "
                f"the indices are 0 to {len(classes) - 1}"
            )
        if k in names:
            raise RequestError(f"{path}, row {number}: class {k} is there twice")
        names[k] = normal(csv_text(row["name"]))
    if lost := [str(k) for k in range(len(classes)) if k not in names]:
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise RequestError(
            f"{path} has no row for class {', '.join(lost[:5])}{more}: put back what was removed"
        )
    return [names[k] for k in range(len(classes))]


def read_rows(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV with a header, also with a byte order mark, semicolons or tabs.

    Raises:
        RequestError: it cannot be read, or lacks one of the columns that are needed.
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
        if lost := [name for name in needed if name not in columns]:
            raise RequestError(f"{path} has no column {' and no column '.join(lost)} any more")
        for row in table:
            yield {name: row[name] or "" for name in columns}
    except csv.Error as error:
        raise RequestError(f"{path} is not a CSV table: {error}") from error


def _accepted(names: Sequence[str], suggested: Sequence[str | None]) -> list[str]:
    """Suggestions for those without a name, as long as nobody else is called so."""
    names = list(names)
    for k, word in enumerate(suggested):
        if word and _nameless(names[k]) and word not in names:
            names[k] = word
    return names


def _check(path: Path, names: Sequence[str], classes: Classes) -> None:
    """Refuse names that cannot be given, each in one line."""
    for k, name in enumerate(names):
        if name != classes.names[k] and classes.kind(k) != "unknown":
            raise RequestError(
                f"{path}: class {k} is {classes.kind(k)}, so it stays {classes.names[k]!r:.80}; to "
                "change that, change the labels and fit again"
            )
        if not name:
            raise RequestError(f"{path}: class {k} has no name; it was {classes.names[k]!r:.80}")
        if not re.sub("[\u200c\u200d]", "", name).isprintable():  # joiners, as in Persian
            raise RequestError(
                f"{path}: the name of class {k}, {name!r:.80}, has characters that cannot be seen"
            )
    counts = Counter(names)
    if twice := [name for name in counts if counts[name] > 1]:
        same = [str(k) for k, name in enumerate(names) if name == twice[0]]
        raise RequestError(
            f"{path}: classes {' and '.join(same)} would both be {twice[0]!r:.80}; names "
            "must differ, and classes are not merged"
        )


def _called(classes: Classes, names: Sequence[str]) -> Classes:
    """The classes under new names; only discovered ones have another prompt."""
    own = [kind != "unknown" for kind in classes.kinds]
    rows = zip(own, classes.prompts, names, strict=True)
    prompts = tuple(prompt if kept else name.replace("_", " ") for kept, prompt, name in rows)
    return Classes(tuple(names), classes.kinds, prompts)


def _prepare(run: Path, classes: Classes, naming: Json) -> None:
    """Write every file that holds names anew, aside, and then the mark that all are there."""
    aside = run / SCRATCH
    shutil.rmtree(aside, ignore_errors=True)
    old = Classes.from_json(read_json(run / "classes.json")).names
    new = dict(zip(old, classes.names, strict=True))
    write_json(aside / "classes.json", classes.to_json())
    settings = read_json(run / "model" / "classifier.json")
    write_json(aside / "model" / "classifier.json", settings | {"classes": classes.to_json()})
    write_json(aside / "metrics.json", _metrics(read_json(run / "metrics.json"), new))
    rows = [row | {"name": classes.names[row["index"]]} for row in naming["classes"]]
    write_naming(aside, naming | {"classes": rows})
    _parquet(run / "predictions.parquet", aside / "predictions.parquet", new)
    if (run / "predictions.csv").is_file():
        _csv(run / "predictions.csv", aside / "predictions.csv", new)
    names = [p.relative_to(aside).as_posix() for p in sorted(aside.rglob("*")) if p.is_file()]
    before = read_json(run / MANIFEST)["files"]
    ours = {name: name == TABLE or before.get(name) == sha256(run / name) for name in names}
    write_json(aside / READY, ours)


def _put_in_place(run: Path) -> None:
    """Move what is prepared, if it is whole, and write again what is made of it."""
    aside = run / SCRATCH
    if (aside / READY).is_file():
        ours = read_json(aside / READY)
        for name in ours:
            with suppress(FileNotFoundError):  # a kill came after this one
                (aside / name).replace(run / name)
        write_text(run / "model" / "README.md", card(run))
        write(run)
        manifest = read_json(run / MANIFEST)
        same = [name for name, unchanged in ours.items() if unchanged]  # else by the user's hand
        for name in (*same, "model/README.md", "report.html"):
            manifest["files"][name] = sha256(run / name)
        write_json(run / MANIFEST, manifest)
    shutil.rmtree(aside, ignore_errors=True)


def _metrics(metrics: Json, new: Mapping[str, str]) -> Json:
    """The same numbers under new names."""

    def called(scores: Any) -> Any:
        rows = scores.get("per_class") if isinstance(scores, dict) else None
        if not isinstance(rows, list):
            return scores
        return scores | {"per_class": [r | {"name": new.get(r["name"], r["name"])} for r in rows]}

    metrics = {key: called(value) for key, value in metrics.items()}
    if "discovery" in metrics:
        empty = [new.get(name, name) for name in metrics["discovery"]["empty"]]
        metrics["discovery"] = metrics["discovery"] | {"empty": empty}
    return metrics


def _parquet(source: Path, target: Path, new: Mapping[str, str]) -> None:
    table = pq.read_table(source)
    for column in RENAMED:
        cells = [new.get(name, name) for name in table[column].to_pylist()]
        at = table.schema.get_field_index(column)
        table = table.set_column(at, table.schema.field(at), pa.array(cells, pa.string()))
    with atomic_write(target) as draft:
        pq.write_table(table, draft)


def _csv(source: Path, target: Path, new: Mapping[str, str]) -> None:
    """The table with what was corrected by hand in it."""
    with atomic_write(target) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = None
        for row in read_rows(source, RENAMED):
            for column in RENAMED:
                name = csv_text(row[column])
                row[column] = csv_cell(new.get(name, name))
            writer = writer or csv.DictWriter(file, row.keys())
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
