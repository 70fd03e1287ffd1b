"""Options that belong to another one, which is not given: refused, and not ignored."""

from pathlib import Path

import numpy as np
import pytest

from anyclass.cli import main
from tests.commands.conftest import Found

LINES = {
    "fit auto --images IMAGES --class-text x.npy": "--class-text belongs to --features FILE",
    "fit auto --features x.npy --classes a,b --model starter-2": "--model belongs to --images DIR",
    "plan --features x.npy --classes a,b --decoding reduced": "--decoding belongs to --images DIR",
    "fit auto --images IMAGES --classes a,b --label-column x": "--label-column belongs to",
    "fit auto --images IMAGES --labels folders --file-column x": "--file-column belongs to",
    "fit auto --images IMAGES --classes a,b --names n.txt": "--names belongs to --unknown N",
    "plan --images IMAGES --classes a,b --holdout 0.5": "--holdout needs labels",
    "fit open-world --features x.npy --classes a,b --template {}!": "--template belongs to",
    "fit latteclip --images IMAGES --classes a,b --domain food101 --plural x --tune head": (
        "--plural belongs to a noun in --domain"
    ),
    "predict --run RUN --images IMAGES --extra x.npy --out p.csv": "--extra belongs to --features",
    "predict --run RUN --images IMAGES --workers 2 --out p.csv": "--workers belongs to --on ray",
    "evaluate --run RUN --images IMAGES --extra x.npy": "--extra belongs to --features FILE",
    "predict --run RUN --features x.npy --engine torch --out p.csv": "--engine belongs to --images",
    "evaluate --run RUN --features x.npy --engine onnx": "--engine belongs to --images DIR",
    "embed --images IMAGES --part-size 9 --out x.npz": "--part-size belongs to --on ray",
    "embed --images IMAGES --template {}! --out x.npz": "--template is a prompt for class names",
    "describe --images IMAGES --address auto --out x.jsonl": "--address belongs to --on ray",
    "export --run RUN --onnx x.onnx --labels folders": "--labels belongs to --cleanlab DIR",
    "export --run RUN --onnx x.onnx --predictions p.csv": "--predictions belongs to --folders,",
    "export --run RUN --onnx x.onnx --public": "--revision and --public belong to --hub",
}


@pytest.mark.parametrize("line", LINES)
def test_command__refuses_an_option_of_another_one(
    line: str,
    found: Found,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.eye(3, 5))
    places = {"IMAGES": str(found.images), "RUN": str(found.run)}
    assert main([places.get(word, word) for word in line.split()]) == 2
    said = capsys.readouterr()
    assert LINES[line] in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
