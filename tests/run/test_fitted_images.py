"""Images of a fit are found again by their content, under any name."""

from pathlib import Path

from anyclass.data import ImageDataset, content_hashes
from anyclass.run.fitted_images import FittedImages, write_fitted_images


def test_fitted_images__are_found_under_other_names(images: Path, tmp_path: Path) -> None:
    dataset = ImageDataset.read(images)[[0, 3, 5]]
    hashes = [*content_hashes(dataset)[:2], None]
    write_fitted_images(tmp_path, dataset, hashes)
    found = FittedImages.read(tmp_path, {dataset.files[3 - 2], "gone.jpg"})
    assert found is not None
    assert found.among([hashes[1], "0" * 64, None, hashes[0]]).tolist() == [
        True,
        False,
        False,
        True,
    ]
    assert found.trained_on_among([hashes[1], hashes[0], None]).tolist() == [True, False, False]


def test_fitted_images__of_a_run_without_them(tmp_path: Path) -> None:
    assert FittedImages.read(tmp_path, ()) is None
