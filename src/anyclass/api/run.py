"""`Run`: a fitted classifier with everything that its run folder holds."""

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from anyclass.api.predict import predict
from anyclass.api.predictions import Output, Predictions
from anyclass.api.words import names_arguments
from anyclass.classifier.classifier import Classifier
from anyclass.commands.edit_classes import edit_classes
from anyclass.commands.evaluate import evaluate
from anyclass.commands.label_next import COUNT, LABEL_NEXT, rows_to_label
from anyclass.commands.predict import load_classifier
from anyclass.commands.request import check_share
from anyclass.data import ImageDataset
from anyclass.data.classes import plural
from anyclass.data.inputs import ImageSource, image_source
from anyclass.errors import RequestError
from anyclass.files import Json, read_json
from anyclass.report.thumbnails import Thumbnail, thumbnails_of
from anyclass.run.content import read_parquet
from anyclass.run.folder import check_finished, is_run
from anyclass.run.sentences import basis
from anyclass.run.tables import write_table


class Run:
    """A fitted classifier, with the labels, scores and report of the images it was fitted on.

    `anyclass.fit` and `anyclass.load` return it. In a notebook it shows itself.
    """

    def __init__(
        self,
        folder: Path | None,
        classifier: Classifier | None = None,
        device: str = "auto",
        allow_pickle: bool = False,
        source: ImageSource | None = None,
    ) -> None:
        """Take what is known; the rest is read from the folder when it is asked for.

        Args:
            folder: the run folder; None: there is only a classifier.
            classifier: the classifier, if it is loaded already.
            device: device to load it on.
            allow_pickle: accept weights of the base model that are not safetensors.
            source: the images, if they are no folder.
        """
        self.folder = folder
        self._device = device
        self._allow_pickle = allow_pickle
        self.source = source
        if classifier is not None:
            self.classifier = classifier

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier alone: representation, head and classes."""
        return load_classifier(self._run_folder(), self._device, self._allow_pickle)

    @property
    def classes_(self) -> list[str]:
        """Class names in the order of the columns of `predict_proba`."""
        return self.classifier.classes_

    @property
    def metrics(self) -> Json:
        """Scores and further metrics of the fit: the content of `metrics.json`."""
        return dict(read_json(self._run_folder() / "metrics.json"))

    @property
    def report(self) -> Path:
        """The report: one HTML file, without scripts."""
        return self._run_folder() / "report.html"

    @property
    def predictions(self) -> Predictions:
        """Labels of the images that it was fitted on."""
        folder = self._run_folder()
        table = read_parquet(folder / "predictions.parquet")
        index = None if self.source is None else self.source.index
        thumbnail_of = self._thumbnails(folder)
        return Predictions(table, self.classes_, thumbnail_of=thumbnail_of, index=index)

    @property
    def suspicious(self) -> pa.Table | None:
        """Given labels that the other images contradict; None if the method does not tell."""
        from pyarrow import ArrowException, csv

        path = self._run_folder() / "suspicious.csv"
        try:
            return csv.read_csv(path) if path.is_file() else None
        except (OSError, ArrowException) as error:
            raise RequestError(f"{path} is not a CSV table: {error!s:.200}") from error

    @names_arguments
    def predict(
        self,
        images: Any = None,
        *,
        features: Any = None,
        extra: Any = None,
        min_score: float = 0.0,
        image_column: str | None = None,
        output: Output = "default",
    ) -> Any:
        """Predict the label of each image.

        Args:
            images: a folder, a file, a Pillow image, an array (H, W, 3) or (N, H, W, 3), a tensor
                with the channels first, a list of these, or a table or data set with a row per
                image.
            features: features of the images instead, by the model of the run: a file or an array.
            extra: with `features`, further features, if the run had such.
            min_score: leave images with a lower score without a label. The score is the best
                probability, reduced for images that are unlike the training images.
            image_column: column of a table with the images; by default it is looked for.
            output: "default" for `Predictions`, "pandas" for a DataFrame, "arrow" for a Table.

        Returns:
            A row per image in the order of `images`; one that cannot be read has no label, and the
            reason.

        Raises:
            RequestError: there is no image, or the input is of an unknown kind.
        """
        check_share(min_score, "--min-score")
        found = predict(self.classifier, images, features, extra, min_score, image_column)
        return found.as_output(output)

    @names_arguments
    def predict_proba(
        self,
        images: Any = None,
        *,
        features: Any = None,
        extra: Any = None,
        image_column: str | None = None,
        output: Output = "default",
    ) -> Any:
        """Probability of each class for each image; arguments as of `predict`.

        Returns:
            An array (N, C) with the columns of `classes_`, or a table with these columns and the
            names of the images. An image that cannot be read has a row of NaN.
        """
        found = predict(self.classifier, images, features, extra, 0.0, image_column)
        rows: Any = found.probabilities
        columns = [pa.array(rows[:, c]) for c in range(rows.shape[1])]
        if output == "default":
            return rows
        table = pa.table([found.table["file_name"], *columns], ["file_name", *self.classes_])
        return Predictions(table, self.classes_, index=found.index).as_output(output)

    @names_arguments
    def evaluate(
        self,
        images: Any = None,
        labels: Any = None,
        *,
        features: Any = None,
        extra: Any = None,
        min_score: float = 0.0,
        image_column: str | None = None,
        prompt_ensemble: bool = True,
    ) -> Json:
        """Score on labelled images, beside zero-shot and baselines.

        Args:
            images: as for `predict`.
            labels: one per image; a mapping, Series or table by path; a column of the images' own
                table; or "folders", the default for a folder.
            features: features of the images instead.
            extra: with `features`, further features, if the run had such.
            min_score: also score the images with a score of at least this.
            image_column: column of a table with the images.
            prompt_ensemble: also score zero-shot with an ensemble of 80 prompt templates.

        Returns:
            `accuracy`, `zero_shot_accuracy`, `per_class` and more, as `anyclass.evaluate`.
        """
        source = None if images is None else image_source(images, image_column)
        return evaluate(
            self._run_folder(),
            source,
            labels,
            device=self._device,
            allow_pickle=self._allow_pickle,
            min_score=min_score,
            prompt_ensemble=prompt_ensemble,
            features=features,
            extra=extra,
        )

    @names_arguments
    def label_next(self, count: int = COUNT, out: Path | str | None = None) -> pa.Table:
        """The images without a label whose label would teach most, the most useful first.

        Fill the column `label` in, then `anyclass.fit(from_run=run, labels=...)` with the table or
        its file.

        Args:
            count: how many images.
            out: a new file to write the table to, `.csv` or `.parquet`.

        Returns:
            `file_name`, `label` (empty), `predicted` and `score`.

        Raises:
            RequestError: every image has a label, `out` exists, or the images are no longer there.
        """
        if out is not None and Path(out).exists():
            raise RequestError(f"{out} exists already: give another path to out=")
        rows = rows_to_label(self._run_folder(), count, self._images)
        if out is not None:
            write_table(Path(out), rows, LABEL_NEXT)
        return pa.Table.from_pylist(rows, LABEL_NEXT)

    @names_arguments
    def save(self, folder: Path | str, overwrite: bool = False) -> "Run":
        """Copy the run folder, with model, labels, scores and report.

        Args:
            folder: a new or empty folder, which `anyclass.load` and the command line read.
            overwrite: replace a run that is there.

        Raises:
            RequestError: there is something else in `folder`.
        """
        target = Path(folder)
        if self.folder is None:
            self.classifier.save(target)
            return self
        if target.exists() and not target.is_dir():
            raise RequestError(f"{target} is a file: give a new folder")
        if target.is_dir() and any(target.iterdir()):
            if not (overwrite and is_run(target)):
                advice = "add --overwrite or choose another" if is_run(target) else "choose another"
                raise RequestError(f"{target} is not empty: {advice}")
            shutil.rmtree(target)
        hidden = shutil.ignore_patterns(".anyclass*")
        shutil.copytree(self.folder, target, ignore=hidden, dirs_exist_ok=True)
        return self

    def merge(self, *names: str) -> "Run":
        """Merge discovered classes, or add them to a class that was given: probabilities add.

        Nothing is fitted again; all files of the run change together. The class that was given
        keeps its name, else the first one does.

        Raises:
            RequestError: a class does not exist, or two of them were given.
        """
        return self._edited(merge=[names])

    def split(self, name: str) -> "Run":
        """Split a discovered class by 2-means of its images: "discovered 3" into "3a" and "3b".

        Raises:
            RequestError: the class does not exist or was given, has no two different images, or the
                images of the run are no longer there.
        """
        return self._edited(split=[name])

    def reject(self, *names: str) -> "Run":
        """Reject discovered classes: their images get no label.

        Raises:
            RequestError: a class does not exist, or was given.
        """
        return self._edited(reject=names)

    def rename(self, names: Mapping[str, str]) -> "Run":
        """Rename discovered classes: old name -> new name.

        Raises:
            RequestError: a class does not exist or was given, or a name is unusable or taken.
        """
        return self._edited(rename=names)

    def undo(self) -> "Run":
        """Take the last edit of the classes back; up to 50 are remembered.

        Raises:
            RequestError: there is none.
        """
        return self._edited(undo=True)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied: without the classifier, which its folder holds."""
        if self.folder is None:
            raise RequestError(
                "this is a classifier without its run, which cannot be pickled: load the run folder"
            )
        return {name: value for name, value in vars(self).items() if name != "classifier"}

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        from anyclass.api.display import run_html

        return run_html(self)

    def lines(self) -> list[str]:
        """What it is, and how good it is, in a few lines."""
        classifier = self.classifier
        names = ", ".join(classifier.classes_[:8])
        more = f" and {len(classifier.classes_) - 8} more" if len(classifier.classes_) > 8 else ""
        lines = [f"{classifier.method}, {plural(len(classifier.classes_), 'class')}: {names}{more}"]
        if self.folder is None:
            return lines
        metrics = self.metrics
        unreadable = f", {metrics['rejected']} of them unreadable" if metrics["rejected"] else ""
        lines.append(f"fitted on {plural(metrics['n'], 'image')}{unreadable}")
        adapted = metrics["adapted"]
        if adapted:
            before = metrics["zero_shot"]
            zero_shot = f", zero-shot {before['accuracy']:.1%}" if before else ""
            lines.append(f"accuracy {adapted['accuracy']:.1%}{zero_shot}")
        return [*lines, *filter(None, [basis(metrics)])]

    def _run_folder(self) -> Path:
        if self.folder is None:
            raise RequestError("this is a classifier without its run: load the run folder")
        return self.folder

    @names_arguments
    def _edited(self, **edit: Any) -> "Run":
        """Edit the classes in all files of the run; its classifier is loaded anew when needed."""
        edit_classes(self._run_folder(), images=self._images, **edit)
        self.__dict__.pop("classifier", None)
        return self

    @property
    def _images(self) -> ImageDataset | None:
        """The images that it was fitted on, unless they are a folder."""
        return None if self.source is None else self.source.dataset

    def _thumbnails(self, folder: Path) -> Thumbnail:
        memory = None if self._images is None else self._images.memory
        return thumbnails_of(read_json(folder / "config.json")["images"], memory)


@names_arguments
def load(path: Path | str, device: str = "auto", allow_pickle: bool = False) -> Run:
    """Load a run folder, or the folder `model` in it.

    Args:
        path: what `fit(..., out=path)`, `Run.save(path)` or `anyclass fit --out` wrote, or a folder
            that `Classifier.save` wrote.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        allow_pickle: accept weights of the base model that are not safetensors. They can run code.

    Returns:
        The same object as `fit`; of a model alone, one without metrics, predictions and report.

    Raises:
        RequestError: there is no run and no model.
        ModelError: the model is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise RequestError(f"{folder} {problem}: give the folder of a run, or its folder model")
    if (folder / "classifier.json").is_file():
        classifier = Classifier.load(folder, device, allow_pickle)
        return Run(None, classifier, device, allow_pickle)
    check_finished(folder)
    return Run(folder, None, device, allow_pickle)
