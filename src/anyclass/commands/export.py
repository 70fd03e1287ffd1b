"""`export`: take a run to other tools: ONNX, the hub, open_clip, labelling tools."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

from PIL import Image
from tyro.conf import Suppress, arg

from anyclass.classifier.classifier import Classifier
from anyclass.classifier.hub import CARD, check_name, upload
from anyclass.commands.label_next import LABEL_NEXT, rows_to_label
from anyclass.commands.option_owners import check_owner, flag_of
from anyclass.commands.precomputed import check_images
from anyclass.commands.predict import load_classifier
from anyclass.data import ImageDataset, open_image
from anyclass.data.classes import plural
from anyclass.errors import ImageError, RequestError
from anyclass.exporting.checkpoint import check_trained, write_checkpoint
from anyclass.exporting.cleanlab import write_cleanlab
from anyclass.exporting.fiftyone import write_fiftyone
from anyclass.exporting.folders import write_folders
from anyclass.exporting.label_studio import write_label_studio
from anyclass.exporting.new_paths import new_paths
from anyclass.exporting.onnx_model import check_exportable, write_onnx
from anyclass.exporting.predictions import LabelledPredictions
from anyclass.files import Json, read_json
from anyclass.run.content import read_parquet
from anyclass.run.earlier import EarlierRun
from anyclass.run.folder import check_finished
from anyclass.run.progress import Callback, Progress
from anyclass.run.tables import write_table

CHECKED = 8
"""Number of images of the run on which the ONNX file is compared with PyTorch."""

ENDINGS = {"onnx": ".onnx", "label_studio": ".json", "fiftyone": ".json", "label_next": ".csv"}
"""Target that is a file -> its ending; the others are folders."""

TABLES = {"folders", "label_studio", "fiftyone"}
"""Targets that need predictions alone."""

MODELS = {"onnx", "open_clip", "cleanlab"}
"""Targets that need the model."""

NOTHING = (
    "nothing to export: give one of --onnx FILE, --open-clip DIR, --hub OWNER/NAME, --folders DIR, "
    "--label-studio FILE, --fiftyone FILE, --cleanlab DIR, --label-next FILE"
)


def export(
    run: Path | str,
    onnx: Path | str | None = None,
    open_clip: Path | str | None = None,
    hub: Annotated[str | None, arg(metavar="OWNER/NAME")] = None,
    folders: Path | str | None = None,
    label_studio: Path | str | None = None,
    fiftyone: Path | str | None = None,
    cleanlab: Path | str | None = None,
    label_next: Path | str | None = None,
    images: Path | str | None = None,
    predictions: Path | str | None = None,
    labels: Annotated[str | None, arg(metavar="folders|FILE")] = None,
    revision: str | None = None,
    public: bool = False,
    allow_pickle: bool = False,
    callback: Suppress[Callback | None] = None,
) -> Json:
    """Write a run for other tools. Nothing that exists is overwritten, and no image is moved.

    Args:
        run: a run folder.
        onnx: file to write, `.onnx`: preprocessing, image encoder and head as one graph for ONNX
            Runtime, compared with PyTorch before it is written.
        open_clip: folder to write: the trained model as a checkpoint for open_clip.
        hub: repository on the Hugging Face hub to upload the classifier to: safetensors, JSON and
            card. A new one is private. The token is that of `hf auth login`, or HF_TOKEN.
        folders: folder to write: a folder per class with links to its images.
        label_studio: file to write, `.json`: tasks with pre-annotations for Label Studio. The
            labelling configuration is written beside it. `fit --labels` reads the export back.
        fiftyone: file to write, `.json`: images, labels and predictions for FiftyOne.
        cleanlab: folder to write: predicted probabilities and labels of the labelled images.
        label_next: file to write, `.csv`: the 30 images whose label would teach most, with an empty
            column `label`. Fill it in, then `fit --from RUN --labels FILE`.
        images: folder of the images; by default that of the run.
        predictions: table of `anyclass predict` for other images; by default that of the run.
        labels: for cleanlab, other labels than those of the run: `folders`, or a table.
        revision: branch on the hub; by default main.
        public: make a new repository on the hub public.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        callback: gets `stage`, `done` and `total`.

    Returns:
        For each target what was written, and `notes`.

    Raises:
        RequestError: there is no finished run or nothing to export, a file exists, or a target
            cannot take this run.
        AnyclassError: an exported model differs from the run's, or a file cannot be written; what
            was written so far is removed.
    """
    run = Path(run)
    check_finished(run)
    paths = _new_targets(
        onnx=onnx,
        open_clip=open_clip,
        folders=folders,
        label_studio=label_studio,
        fiftyone=fiftyone,
        cleanlab=cleanlab,
        label_next=label_next,
    )
    if not paths and hub is None:
        raise RequestError(NOTHING)
    if hub is not None:
        check_name(hub)
    elif revision is not None or public:
        raise RequestError("--revision and --public belong to --hub OWNER/NAME: leave them out")
    _check_tables(paths, labels, predictions)
    config = read_json(run / "config.json")
    used = config["images"] if images is None else images
    root = None if used is None else Path(used)
    classifier = load_classifier(run, "cpu", allow_pickle) if MODELS & set(paths) else None
    if classifier is not None:
        _check_model(classifier, paths, root)
    result: Json = {"notes": []}
    with new_paths(_all_files(paths)):
        if TABLES & set(paths):
            table = run / "predictions.parquet" if predictions is None else Path(predictions)
            found = LabelledPredictions.read(table, root)
            _write_tables(run, config["method"], paths, found, result)
        if "label_next" in paths:
            result["label_next"] = _write_label_next(run, paths["label_next"])
        if classifier is not None:
            _write_models(run, config, classifier, paths, result)
        if classifier is not None and root is not None and "cleanlab" in paths:
            dataset, known = _labelled(run, classifier, root, labels)
            with Progress(callback=callback) as log:
                done = write_cleanlab(paths["cleanlab"], classifier, dataset, known, log)
            result["cleanlab"] = done
            result["notes"] += _in_sample(done)
    if hub is not None:
        result["hub"] = _upload(run, hub, revision, public)
        result["notes"] += _not_for_others(config["model"])
    return result


def _check_tables(paths: dict[str, Path], labels: object, predictions: object) -> None:
    """Refuse a table that no target reads."""
    check_owner("labels", labels is not None, "cleanlab" in paths, "--cleanlab DIR")
    tables = "--folders, --label-studio and --fiftyone"
    check_owner("predictions", predictions is not None, bool(TABLES & set(paths)), tables)


def _upload(run: Path, hub: str, revision: str | None, public: bool) -> Json:
    """Upload the classifier of a run; arguments as for `export`."""
    card = (run / "model" / CARD).read_text("utf-8")
    return upload(run / "model", hub, card, revision, not public)


def _new_targets(**targets: Path | str | None) -> dict[str, Path]:
    """Paths of the targets that were given.

    Raises:
        RequestError: as for `_check_new`, or two targets have one path.
    """
    paths = {name: Path(path) for name, path in targets.items() if path is not None}
    used: dict[Path, str] = {}
    for name, path in paths.items():
        _check_new(name, path)
        first = used.setdefault(path.absolute(), name)
        if first != name:
            raise RequestError(
                f"{flag_of(first)} and {flag_of(name)} are both {path}: give each its own path"
            )
    return paths


def _check_new(target: str, path: Path) -> None:
    """Refuse a path that something lies at, before anything is computed.

    Raises:
        RequestError: the file exists, the folder is not empty, or the ending is another one.
    """
    flag = flag_of(target)
    ending = ENDINGS.get(target)
    if ending is None:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise RequestError(f"{flag} {path}: give a new folder, or an empty one")
        return
    if path.suffix != ending:
        raise RequestError(f"{flag} {path}: the file name must end in {ending}")
    for file in _all_files({target: path}):
        if file.exists():
            raise RequestError(f"{file} exists already: give another path to {flag}")


def _all_files(paths: dict[str, Path]) -> list[Path]:
    """Files and folders of some targets."""
    beside = [path.with_suffix(".xml") for name, path in paths.items() if name == "label_studio"]
    return [*paths.values(), *beside]


def _write_tables(
    run: Path, method: str, paths: dict[str, Path], found: LabelledPredictions, result: Json
) -> None:
    """Write what needs predictions alone."""
    result["notes"] += found.left_out()
    classes = read_json(run / "classes.json")["names"]
    if "folders" in paths:
        result["folders"] = write_folders(paths["folders"], found)
        result["notes"] += _not_for_torchvision(result["folders"])
    if "label_studio" in paths:
        version = f"anyclass {method}"
        result["label_studio"] = write_label_studio(paths["label_studio"], found, classes, version)
    if "fiftyone" in paths:
        result["fiftyone"] = write_fiftyone(paths["fiftyone"], found, classes, run.resolve().name)


def _write_label_next(run: Path, path: Path) -> Json:
    """Write the images whose label would teach most."""
    rows = rows_to_label(run)
    write_table(path, rows, LABEL_NEXT)
    return {"file": str(path), "images": len(rows)}


def _check_model(classifier: Classifier, paths: dict[str, Path], images: Path | None) -> None:
    """Refuse a target that cannot take this classifier, before anything is written.

    Raises:
        RequestError: it has no model, did not train it, or does not fit into one graph; or there
            are no images to predict.
    """
    check_images(classifier)
    if "cleanlab" in paths and images is None:
        raise RequestError(
            "--cleanlab predicts the labelled images, and the run does not say where they are: "
            "give --images DIR"
        )
    if "open_clip" in paths:
        check_trained(classifier)
    if "onnx" in paths:
        check_exportable(classifier)


def _write_models(
    run: Path, config: Json, classifier: Classifier, paths: dict[str, Path], result: Json
) -> None:
    """Write the model in other formats."""
    if "onnx" in paths:
        check = write_onnx(classifier, paths["onnx"], _examples(run, config))
        result["onnx"] = {"file": str(paths["onnx"]), **check._asdict()}
    if "open_clip" in paths:
        result["open_clip"] = write_checkpoint(classifier, paths["open_clip"])


def _examples(run: Path, config: Json) -> list[Image.Image]:
    """Some images of the run that can still be read."""
    if config["images"] is None:
        return []
    root = Path(config["images"])
    table = read_parquet(run / "predictions.parquet", ["file_name"])
    examples = []
    for name in table["file_name"].to_pylist()[:CHECKED]:
        with suppress(ImageError):
            examples.append(open_image(root / name, root))
    return examples


def _labelled(
    run: Path, classifier: Classifier, root: Path, labels: str | None
) -> tuple[ImageDataset, frozenset[str]]:
    """Images with the labels of the run, or with others; and those that were trained on."""
    names = classifier.classes_
    earlier = EarlierRun.read(run)
    of_run = str(root.resolve()) == earlier.config["images"]
    if labels is not None:
        known = earlier.trained_on if of_run else frozenset[str]()
        return ImageDataset.read(root, names, labels), known
    files = tuple(sorted(earlier.known.labels))
    given = [earlier.known.labels[file] for file in files]
    return ImageDataset.with_labels(root.resolve(), files, given, names), earlier.trained_on


def _in_sample(done: Json) -> list[str]:
    """What to say where cleanlab gets probabilities by a model that has seen the labels."""
    if not done["trained_on"]:
        return []
    return [
        f"{done['trained_on']} of {done['images']} labels in {done['folder']} were trained on: "
        "cleanlab wants probabilities by a model that has not seen them. Hold labels out "
        "(--holdout), or give other labelled images (--images DIR --labels folders)"
    ]


def _not_for_torchvision(done: Json) -> list[str]:
    """What to say where ImageFolder would leave out images without a word."""
    count = sum(done["other_endings"].values())
    if not count:
        return []
    endings = ", ".join(ending or "no ending" for ending in done["other_endings"])
    return [
        f"torchvision's ImageFolder leaves out {plural(count, 'image')} in {done['folder']} by the "
        f"ending ({endings}): give it `is_valid_file` and a `loader` that read them"
    ]


def _not_for_others(model: str) -> list[str]:
    """What to say where others cannot load the model."""
    if not model.startswith("local-dir:"):
        return []
    return [f"who loads it needs the model at the same place: it was fitted on {model}"]
