"""Map of the embeddings: a sample of the images as points in the plane, by PCA and t-SNE.

A run stores it in `map.parquet`, so that a report needs no features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from anyclass.files import atomic_write
from anyclass.run.content import read_parquet

MAP = "map.parquet"
"""Columns file_name, x and y; positions are from 0 to 1."""

SAMPLE = 2000
"""Maximum number of images on the map."""

WIDTH = 50
"""Principal components that t-SNE works on."""

PERPLEXITY = 30.0
"""Neighbours that t-SNE looks at, if there are three times as many images."""

STEPS = 500
"""Steps of t-SNE: 1,000 take twice as long and move little."""

FEWEST = 5
"""Minimum number of images that are worth a map."""


class EmbeddingMap(NamedTuple):
    """Some images and their places in a square from (0, 0) to (1, 1)."""

    files: list[str]
    """File names."""
    points: Float[np.ndarray, "M 2"]
    """Positions of these images."""


def map_of(
    files: Sequence[str], features: Float[np.ndarray, "M E"] | None, seed: int
) -> EmbeddingMap | None:
    """Map of images; None for fewer than `FEWEST`. Arguments as of `positions`."""
    if features is None or len(files) < FEWEST:
        return None
    return EmbeddingMap(list(files), positions(features, seed))


def sample_rows(n: int, seed: int) -> Int[np.ndarray, " M"]:
    """Draw at most `SAMPLE` of n images at random, in order."""
    if n <= SAMPLE:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:SAMPLE])


def positions(features: Float[np.ndarray, "M E"], seed: int) -> Float[np.ndarray, "M 2"]:
    """Positions of images in a square from (0, 0) to (1, 1).

    The same features and seed give the same positions: t-SNE runs in one thread.

    Args:
        features: features of the images, as the classifier gets them.
        seed: random seed of PCA; t-SNE starts from the first two principal components.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    x = np.asarray(features, np.float64)
    if not np.ptp(x, axis=0).any():  # all images are the same
        return np.full((len(x), 2), 0.5)
    with threadpool_limits(1):
        width = min(WIDTH, len(x) - 1, x.shape[1])
        x = PCA(width, svd_solver="randomized", random_state=seed).fit_transform(x)
        x = x / (x[:, 0].std() or 1.0)
        perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
        tsne = TSNE(
            perplexity=perplexity, init=_start(x), max_iter=STEPS, random_state=seed, n_jobs=1
        )
        y = tsne.fit_transform(x.astype(np.float32)).astype(np.float64)
    low = y.min(0)
    size = float((y.max(0) - low).max()) or 1.0
    middle = (size - (y.max(0) - low)) / 2
    return np.asarray(((y - low + middle) / size).round(4))


def _start(x: Float[np.ndarray, "M P"]) -> Float[np.ndarray, "M 2"]:
    """Start of t-SNE: the first two principal components, small."""
    start = np.zeros((len(x), 2), np.float32)
    start[:, : x.shape[1]] = 1e-4 * x[:, :2]
    return start


def write_map(run: Path, found: EmbeddingMap) -> None:
    """Write `map.parquet`: the position of each image on the map."""
    columns = {
        "file_name": pa.array(found.files, pa.string()),
        "x": pa.array(found.points[:, 0], pa.float32()),
        "y": pa.array(found.points[:, 1], pa.float32()),
    }
    with atomic_write(run / MAP) as draft:
        pq.write_table(pa.table(columns), draft)


def read_map(run: Path) -> dict[str, tuple[float, float]]:
    """File name -> position; empty for a run without a map."""
    if not (run / MAP).is_file():
        return {}
    columns = read_parquet(run / MAP).to_pydict()
    places = zip(columns["x"], columns["y"], strict=True)
    return dict(zip(columns["file_name"], places, strict=True))
