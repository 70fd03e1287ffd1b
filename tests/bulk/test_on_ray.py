"""Bulk work on Ray itself: a cluster of this machine, workers and commands that are killed.

Each test runs processes of its own, so that no test inherits a cluster.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from anyclass.bulk import Bulk, cluster
from anyclass.commands.predict import predict
from anyclass.errors import RequestError
from tests.bulk.test_commands import check_same, rows

ROOT = Path(__file__).parents[2]
SLOW = [pytest.mark.slow, pytest.mark.timeout(1200)]


def python(*arguments: Any, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with this package, from the folder of the tests' files."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def test_on_ray__without_ray(fitted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RequestError, match=r"needs the package ray: pip install 'anyclass\[ray\]'"):
        predict(fitted.run, fitted.images, tmp_path / "bulk", bulk=Bulk(on="ray"))
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("killed", [pytest.param(k, marks=SLOW) for k in ("worker", "command")])
def test_on_ray__one_row_per_image_after_a_kill(
    killed: str, tiny_clip: Any, tmp_path: Path, own_cache: Path
) -> None:
    done = python(
        *[ROOT / "benchmarks" / "ray_predict.py", "--images", 1500, "--part-size", 50],
        *["--model", tiny_clip(), "--engine", "torch", "--size", 40, "--kill", killed],
        *["--work", tmp_path / "work"],
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["rows"] == 1500
    assert result["unreadable"] == 1
    assert result["result"] == {"n": 1500, "rejected": 1}
    wrong = ("duplicates", "missing", "rows_that_differ_from_one_process")
    assert {key: result[key] for key in wrong} == dict.fromkeys(wrong, 0)
    if killed == "command":
        assert 15 <= result["parts_kept"] < 30
        assert result["kept_parts_computed_again"] == 0


PROTECTED = """
import http.client, json, os, subprocess, sys, urllib.request, urllib.error
from pathlib import Path
from anyclass.bulk import Bulk, cluster

def listening(pids):
    inodes = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes[target[8:-1]] = pid
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, _, port = fields[1].partition(":")
                place = ".".join(str(byte) for byte in reversed(bytes.fromhex(host[-8:])))
                known = len(host) == 8 and place != "0.0.0.0"
                yield (place if known else "127.0.0.1"), int(port, 16)

def below(pid):
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
        except OSError:
            continue
    found = {pid}
    while more := {c for c, p in parents.items() if p in found} - found:
        found |= more
    return found

def says(host, port):
    try:
        request = urllib.request.Request(
            f"http://{host}:{port}/get_or_create_runtime_env", data=b"x"
        )
        return urllib.request.urlopen(request, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):  # it speaks gRPC
        return 0

bulk = Bulk(on="ray", workers=1)
ray = cluster._ray(bulk)
result = {}
with cluster._connected(ray, bulk):
    from ray._common.usage import usage_lib
    result["usage"] = usage_lib.usage_stats_enabled()
    address = ray.get_runtime_context().gcs_address
    folder = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
    result["mode"] = oct(folder.stat().st_mode & 0o777)
    result["dashboard"] = ray._private.worker.get_dashboard_url()
    ray.get(ray.remote(lambda: 1).remote())
    mine = below(os.getpid())
    others = mine - {os.getpid()}
    titles = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in others}
    pages = {pid for pid, title in titles.items() if "dashboard/dashboard.py" in title}
    result["pages"] = sorted(listening(pages))
    ports = sorted(listening(mine))
    result["ports"] = len(ports)
    result["http"] = sorted({says(*port) for port in ports})
    code = f"import ray; ray.init(address={address!r})"
    code += "; print(ray.get(ray.remote(lambda: 7).remote()))"
    token = os.environ["RAY_AUTH_TOKEN"]
    for name, environment in {
        "nothing": {},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        "right": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
    }.items():
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
        done = subprocess.run([sys.executable, "-c", code], env={**kept, **environment},
                              capture_output=True, text=True)
        result[name] = done.stdout.strip()[-1:] if done.returncode == 0 else "refused"
result["left"] = folder.exists()
result["processes"] = len(below(os.getpid())) - 1
print(json.dumps(result))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_ray__a_cluster_of_this_machine_answers_only_who_has_the_token() -> None:
    done = python("-c", PROTECTED)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.pop("ports") > 2
    assert result.pop("http") == [0, 401], "gRPC everywhere, and one HTTP port that refuses"
    assert result == {
        "usage": False,
        "mode": "0o700",
        "dashboard": "",
        "pages": [],
        "nothing": "refused",
        "wrong": "refused",
        "right": "7",
        "left": False,
        "processes": 0,
    }


POISON = """
import os, signal, sys
from dataclasses import dataclass
import pyarrow as pa
from anyclass.bulk import Bulk, cluster, results
from anyclass.bulk.results import Tally
from anyclass.bulk.sources import read_source
from anyclass.bulk.worker import ChunkResult, Task
from anyclass.errors import AnyclassError
from anyclass.run.progress import Progress

@dataclass(frozen=True)
class Job:
    def open(self, cpus, say):
        def compute(chunk):
            if "image3.png" in chunk.names:
                os.kill(os.getpid(), signal.SIGKILL)
            return ChunkResult(pa.table({"name": list(chunk.names)}), Tally(len(chunk.names)))
        return compute

images, out = sys.argv[1:]
source = read_source(images, 1)
results.begin(out, {}, False)
task = Task(Job(), source._replace(parts=()), out, results.checksum({}), 1, None, os.getcwd())
bulk = Bulk(on="ray", workers=2)
try:
    for number, tally in cluster.compute(task, source.parts, bulk, "cpu", Progress()):
        print(number)
except AnyclassError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_ray__an_image_that_kills_each_worker_ends_the_command(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(6):
        (images / f"image{i}.png").write_bytes(b"x")
    done = python("-c", POISON, images, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "its worker was killed 4 times" in done.stdout
    assert "part 3: image3.png" in done.stdout


CLUSTER = """
import os, sys, tempfile
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
context = ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error",
                   object_store_memory=100 * 2**20)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_ray__a_cluster_by_its_address(fitted: Any, images: Path, tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64}
    run = ["predict", "--run", fitted.run, "--images", images, "--engine", "torch"]
    run += ["--device", "cpu", "--on", "ray", "--part-size", "4", "--workers", "2"]
    head = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **token},
    )
    assert head.stdin is not None
    assert head.stdout is not None
    try:
        address = head.stdout.readline().strip()
        words = ["-m", "anyclass", *run, "--address", address, "--out", tmp_path / "bulk"]
        done = python(*words, "--json", **token)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["n"] == 14
        refused = python(*words[:-1], tmp_path / "other")
        assert refused.returncode == 2
        assert f"--address {address}: no Ray cluster can be reached" in refused.stderr
    finally:
        head.stdin.close()
        head.wait(60)
        head.stdout.close()
    predict(fitted.run, images, tmp_path / "a.parquet", engine="torch", device="cpu")
    check_same(rows(tmp_path / "bulk"), parquet.read_table(tmp_path / "a.parquet").to_pylist())


@pytest.mark.parametrize(
    ("has", "bulk", "device", "workers", "gpus"),
    [
        ({"CPU": 12.0, "GPU": 3.0}, Bulk(), "auto", 3, 1),
        ({"CPU": 12.0, "GPU": 3.0}, Bulk(on="ray", workers=2), "cuda", 2, 1),
        ({"CPU": 12.0, "GPU": 3.0}, Bulk(on="ray", cpus=5), "cpu", 2, 0),
        ({"CPU": 2.0}, Bulk(on="ray", cpus=5), "auto", 1, 0),
        ({"CPU": 7.0}, Bulk(), "auto", 7, 0),
    ],
)
def test_size__a_gpu_each_or_cores(
    has: dict[str, float], bulk: Bulk, device: str, workers: int, gpus: int
) -> None:
    assert cluster._Size.of(has, bulk, device) == (workers, gpus)
