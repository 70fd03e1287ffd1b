"""Commands by torchrun: real processes that train together, that are killed, that refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from anyclass.cli import main
from anyclass.distributed import torchrun
from anyclass.distributed.torchrun import local_device
from anyclass.errors import RequestError
from anyclass.methods import METHODS
from tests.commands.killed import Place, draw_place, steps_of

TRAINING = ["--batch-size", "33", "--device", "cpu", "--engine", "torch", "--seed", "3"]
LATTECLIP = ["latteclip", "--classes", "names.txt", "--tune", "tail", "--steps", "40", *TRAINING]
GET = ["get", "--labels", "some.csv", "--unknown", "2", "--epochs", "8", "--tes-epochs", "8"]
GET += ["--lr", "0.001", "--words", "3", "--stop-collapsed-from", "None", *TRAINING]


@pytest.fixture(scope="module")
def place(tiny_clip: Callable[..., str], tmp_path_factory: Any) -> Place:
    folder = tmp_path_factory.mktemp("torchrun")
    return draw_place(folder, folder, tiny_clip())


def fit_words(place: Place, words: list[str], out: Path) -> list[str]:
    found = [str(place.folder / w) if w.endswith((".txt", ".csv")) else w for w in words]
    inputs = ["--images", str(place.images), "--model", place.model]
    return ["fit", *found, *inputs, "--out", str(out)]


def start(
    words: list[str], cache: Path, processes: int = 2, restarts: int = 0
) -> subprocess.Popen[str]:
    """Start a command; with one process as it is, with several by torchrun."""
    runner = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    runner += ["--max-restarts", str(restarts)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORCHELASTIC")}
    environment |= {"ANYCLASS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, *(runner if processes > 1 else []), "-m", "anyclass", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Standard output and error of a command that succeeds."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]
    return out, error


def child_of(launcher: int, rank: int) -> int:
    """Number of a process of torchrun."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            told = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if parent == launcher and f"RANK={rank}".encode() in told:
            return int(folder.name)
    raise AssertionError(f"torchrun has no process {rank}")


def kill_when_saved(process: subprocess.Popen[str], rank: int, saved: Path) -> None:
    """Kill one process once there is a new checkpoint."""
    began = time.time()
    while process.poll() is None:
        found = [path for path in saved.glob("*/*.safetensors") if path.stat().st_mtime > began]
        if found:
            os.kill(child_of(process.pid, rank), signal.SIGKILL)
            return
        time.sleep(0.01)
    raise AssertionError("it has ended before it was killed")


def cached_rows(cache: Path) -> dict[str, int]:
    """Number of rows in each folder of a cache of features."""
    counts = Counter[str]()
    for path in cache.glob("features/*/*.safetensors"):
        counts[path.parent.name] += len(load_file(path)["rows"])
    assert counts
    return counts


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "classifier.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("words", [LATTECLIP, GET], ids=["latteclip", "get"])
def test_torchrun__killed_and_whole_equal_one_process(
    words: list[str], place: Place, tmp_path: Path
) -> None:
    one = tmp_path / "one"
    two = tmp_path / "two"
    broken = tmp_path / "broken"
    finish(start(fit_words(place, words, one), tmp_path / "cache one", processes=1))
    out, error = finish(start(fit_words(place, words, two), tmp_path / "cache"))
    assert out.count("report ") == 1
    assert error.count("loading PyTorch") == 1
    words = fit_words(place, words, broken)
    process = start(words, tmp_path / "cache broken")
    kill_when_saved(process, 1, broken / "unfinished")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.count("another process of this training has ended") <= 1  # torchrun kills it
    assert "site-packages/anyclass" not in said
    assert "src/anyclass" not in said
    assert not (broken / "manifest.json").exists()
    process = start(words, tmp_path / "cache broken", restarts=1)
    kill_when_saved(process, 0, broken / "unfinished")
    finish(process)
    assert weights(broken).keys() == weights(two).keys() == weights(one).keys()
    for name, tensor in weights(broken).items():
        assert torch.equal(tensor, weights(two)[name]), name
        assert (tensor.float() - weights(one)[name].float()).abs().max() < 1e-4, name
    for name in ("predictions.csv", "classes.json", "descriptions.jsonl", "rejected.csv"):
        assert (broken / name).read_bytes() == (two / name).read_bytes(), name
    assert sorted(map(str, steps_of(broken / "log.jsonl"))) == sorted(
        map(str, steps_of(two / "log.jsonl"))
    )
    embedded = cached_rows(tmp_path / "cache one")
    assert cached_rows(tmp_path / "cache") == cached_rows(tmp_path / "cache broken") == embedded


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_torchrun__asks_each_question_once(place: Place, tmp_path: Path, start_server: Any) -> None:
    server = start_server()
    captioner = ["--captioner", "endpoint", "--captioner.model", "llava"]
    captioner += ["--captioner.url", server.url]
    words = fit_words(place, [*LATTECLIP, "--regroup", "once", *captioner], tmp_path / "run")
    finish(start(words, tmp_path / "cache"))
    questions = [json.dumps(question.body, sort_keys=True) for question in server.questions]
    assert len(questions) > 160
    assert len(set(questions)) == len(questions)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_torchrun__says_an_error_once(place: Place, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").touch()
    process = start(fit_words(place, LATTECLIP, tmp_path / "run"), tmp_path / "cache")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert error.count("contains other files (thesis.doc ...); choose another --out") == 1
    assert "another process" not in error
    assert "src/anyclass" not in error


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torchrun tells the second of its two processes, and the store that they share."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    told = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "RANK": "1"}
    told |= {
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torchrun, "_state", torchrun._State())
    yield
    del store  # it serves till here


REFUSED = {
    "predict --run RUN --images .": "torchrun shares the training of fit among processes",
    "fit open-world --images {images} --classes {names}": "open-world trains no encoder",
    "fit latteclip --tune head --images {images} --classes {names}": "one process is enough",
    "fit reclip --images {images} --classes {names}": "reclip does not share its training among",
}


@pytest.mark.parametrize("command", REFUSED)
def test_torchrun__refuses_what_one_process_does(
    command: str, launched: None, images: Path, names: Path, capsys: Any
) -> None:
    words = [word.format(images=images, names=names) for word in command.split()]
    assert main(words) == 2
    said = capsys.readouterr()
    assert REFUSED[command] in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""


def test_torchrun__one_process_says_why(
    launched: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert main(["audit"]) == 2
    assert "start audit without it" in capsys.readouterr().err
    monkeypatch.setattr(torchrun, "_state", torchrun._State())  # another process
    assert main(["audit"]) == 2
    assert capsys.readouterr().err == ""


def test_device__is_the_own_gpu_of_a_process(
    launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert local_device("cuda") == "cuda:1"
    assert local_device("cpu") == "cpu"
    with pytest.raises(RequestError, match="--device cuda:0 is one GPU for all processes"):
        local_device("cuda:0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(RequestError, match="2 processes and 1 GPUs in .*--nproc-per-node gpu"):
        local_device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert local_device("cuda:0") == "cuda:0"


def test_methods__that_processes_share_train_an_encoder() -> None:
    shared = set()
    for name, kind in METHODS.items():
        method: Any = kind()
        if not kind.info.divisible:
            assert not method.workload(10, 3).divisible
            continue
        shared.add(name)
        for tune in (*kind.info.divisible, "head"):
            tuned = replace(method, tuning=replace(method.tuning, tune=tune))
            assert tuned.workload(10, 3).divisible == (tune != "head"), (name, tune)
    assert {"latteclip", "get"} <= shared
