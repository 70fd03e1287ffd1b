"""Fifty clients at once, half of them hostile: good requests are answered, memory stays bounded."""

import io
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from PIL import Image

from tests.review.conftest import Reviewed

pytestmark = pytest.mark.slow

CLIENTS = 50
SECONDS = 60
MOST_GROWTH = 300
"""MiB that the server may grow by after a warm-up: caches of torch and of the allocator."""
TIMEOUT = 60


class Server(NamedTuple):
    """A server in a process of its own."""

    pid: int
    port: int
    token: str

    @property
    def mebibytes(self) -> float:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@pytest.fixture
def server(reviewed: Reviewed, tmp_path: Path) -> Iterator[Server]:
    if not Path("/proc/self/status").exists():
        pytest.skip("memory of another process is read from /proc")
    run = Path(shutil.copytree(reviewed.run, tmp_path / "run"))
    main = "import sys; from anyclass.cli import main; sys.exit(main())"
    options = ["--run", str(run), "--port", "0", "--no-browser", "--engine", "torch"]
    with subprocess.Popen(
        [sys.executable, "-c", main, "serve", *options], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "anyclass serve: loading PyTorch ...\n"
        found = re.search(r":(\d+)/\?token=(\S+)", process.stderr.readline())
        assert found is not None
        yield Server(process.pid, int(found[1]), found[2])
        process.terminate()


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


IMAGE = png(60, 40)
BOMB = png(20_000, 20_000)  # 400 million pixels in 50 kB


def good(client: httpx.Client, draw: random.Random) -> tuple[str, int, int]:
    """A request of the page or of a program: its name, status and the expected one."""
    i = draw.randrange(20)
    kind = draw.choice(("state", "view", "rows", "thumbnail", "image", "predict", "correct"))
    if kind == "predict":
        answer = client.post("/predict?nearest=3", files={"images": ("a.png", IMAGE)})
        assert answer.json()["predictions"][0]["status"] == "ok"
    elif kind == "correct":
        body = {"ids": [i], "label": f"class {i % 5}"}
        answer = client.post("/api/corrections", json=body)
    else:
        paths = {
            "state": "/api/state",
            "view": "/api/view?sort=most_confident",
            "rows": f"/api/rows?ids={i}&ids={i + 1}",
            "thumbnail": f"/thumbnails/{i + 2}",
            "image": f"/images/{i + 2}",
        }
        answer = client.get(paths[kind])
    return kind, answer.status_code, 200


def bad(client: httpx.Client, draw: random.Random) -> tuple[str, int, int]:
    """A request that is refused: its name, status and the expected one."""
    kind = draw.choice(list(BAD))
    method, path, more, expected = BAD[kind]
    answer = client.request(method, path, **more)
    if kind == "bomb":
        assert answer.json()["predictions"][0]["status"] == "rejected"
    assert "Traceback" not in answer.text
    return kind, answer.status_code, expected


BAD: dict[str, tuple[str, str, dict, int]] = {
    "no token": ("GET", "/api/state", {"headers": {"authorization": ""}}, 401),
    "wrong token": ("POST", "/predict", {"headers": {"authorization": "Bearer x"}}, 401),
    "token in the URL": ("GET", "/api/state?token=x", {"headers": {"authorization": ""}}, 401),
    "foreign host": ("GET", "/api/state", {"headers": {"host": "evil.example"}}, 400),
    "too large": ("POST", "/api/undo", {"content": b"x" * (2**21 + 1)}, 413),
    "no length": ("POST", "/predict", {"content": iter([b"x"])}, 411),
    "no JSON": ("POST", "/api/corrections", {"content": b"{["}, 422),
    "no such image": ("GET", "/images/99999", {}, 404),
    "traversal": ("GET", "/images/..%2f..%2fetc%2fpasswd", {}, 404),
    "no id": ("GET", "/thumbnails/%00", {}, 422),
    "no such path": ("GET", "/api/../../etc/passwd", {}, 404),
    "wrong method": ("PUT", "/api/state", {}, 405),
    "bomb": ("POST", "/predict", {"files": {"images": ("a.png", BOMB)}}, 200),
    "no multipart": ("POST", "/predict", {"content": b"--x\r\n" * 100}, 422),
}


def hang_up(server: Server) -> None:
    """Promise a body, and leave in the middle of it."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.token}"
        raw.sendall(f"{head}\r\nContent-Length: 100000\r\n\r\nabc".encode())


def act(server: Server, number: int, until: float) -> Counter[tuple[str, int, int]]:
    """Send requests until it is time; counts names with statuses."""
    draw = random.Random(number)
    found: Counter[tuple[str, int, int]] = Counter()
    headers = {"authorization": f"Bearer {server.token}"}
    url = f"http://127.0.0.1:{server.port}"
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=TIMEOUT) as client:
        while time.monotonic() < until:
            if number % 2:
                found[good(client, draw)] += 1
            elif draw.random() < 0.1:
                hang_up(server)
                found["hang up", 0, 0] += 1
            else:
                found[bad(client, draw)] += 1
    return found


@pytest.mark.timeout(600)
def test_fifty_clients__good_ones_are_answered_and_memory_is_bounded(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert act(server, 1, time.monotonic() + 8)  # the model is loaded
    act(server, 2, time.monotonic() + 2)
    before = server.mebibytes
    until = time.monotonic() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as threads:
        counts = threads.map(lambda number: act(server, number, until), range(CLIENTS))
        found = sum(counts, Counter())
    after = server.mebibytes
    with capsys.disabled():
        wrong = sum(n for (_, status, wanted), n in found.items() if status != wanted)
        print(
            f"\n{found.total()} requests of {CLIENTS} clients in {SECONDS} s, {wrong} with "
            f"another status than expected, RSS {before:.0f} -> {after:.0f} MiB"
        )
    assert {key for key in found if key[1] != key[2]} == set()
    assert {kind for kind, _, _ in found} >= {*BAD, "hang up", "predict", "correct", "rows"}
    assert after < before + MOST_GROWTH
