"""Content of the images that a run was fitted on, to find them again under any name."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from anyclass.data import ImageDataset
from anyclass.run.content import read_parquet
from anyclass.run.tables import Row, write_table

FITTED_IMAGES = "images.parquet"
"""File in a run folder: names and checksums of its readable images."""

_COLUMNS = pa.schema([("file_name", pa.string()), ("sha256", pa.binary(32))])


@dataclass(frozen=True)
class FittedImages:
    """Checksums of the images that a run was fitted on."""

    contents: frozenset[str]
    """SHA-256 of each, as hexadecimal digits."""
    trained_on: frozenset[str]
    """Checksums of the images whose labels it was trained on."""

    @classmethod
    def read(cls, run: Path, trained_on: Collection[str]) -> "FittedImages | None":
        """Read the file in a run folder; None if there is none: features, or an older run.

        Args:
            run: a run folder.
            trained_on: names of the images whose labels it was trained on.
        """
        contents = fitted_contents(run)
        if contents is None:
            return None
        contents_trained_on = (contents[name] for name in trained_on if name in contents)
        return cls(frozenset(contents.values()), frozenset(contents_trained_on))

    def among(self, hashes: Sequence[str | None]) -> Bool[np.ndarray, " N"]:
        """Whether each image was fitted on, by the checksums of N images."""
        return np.array([key in self.contents for key in hashes], bool)

    def trained_on_among(self, hashes: Sequence[str | None]) -> Bool[np.ndarray, " N"]:
        """Whether the label of each image was trained on, by the checksums of N images."""
        return np.array([key in self.trained_on for key in hashes], bool)


def fitted_contents(run: Path) -> dict[str, str] | None:
    """SHA-256 of each image of a run by its name; None: features, or an older run."""
    path = run / FITTED_IMAGES
    if not path.is_file():
        return None
    columns = read_parquet(path).to_pydict()
    pairs = zip(columns["file_name"], columns["sha256"], strict=True)
    return {name: digest.hex() for name, digest in pairs}


def write_fitted_images(run: Path, dataset: ImageDataset, hashes: Iterable[str | None]) -> None:
    """Write `images.parquet`.

    Args:
        run: the run folder.
        dataset: the images that were fitted on.
        hashes: SHA-256 of each; those without one are left out.
    """
    write_table(run / FITTED_IMAGES, _rows(dataset, hashes), _COLUMNS)


def _rows(dataset: ImageDataset, hashes: Iterable[str | None]) -> Iterator[Row]:
    for file, key in zip(dataset.files, hashes, strict=True):
        if key is not None:
            yield {"file_name": file, "sha256": bytes.fromhex(key)}
