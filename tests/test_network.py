"""Commands as processes, and whom they speak to: nobody, or the endpoint that was given.

Every process notes the addresses that Python connects to and looks up. Where the system allows it,
the commands run in a network of their own, whose only name server notes what native code looks up.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import anyclass
from tests.conftest import SHAPES, Fitted, draw_shapes

pytestmark = pytest.mark.slow

NOTE_ADDRESSES = """
import json, os, sys

def note(event, arguments):
    if event in EVENTS and not (event == "socket.connect" and isinstance(arguments[1], str)):
        with open(os.environ["ADDRESSES"], "a") as file:
            file.write(json.dumps([event, str(arguments[ADDRESS.get(event, 0):])]) + "\\n")

ADDRESS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
          "socket.sendmsg", "urllib.Request", "http.client.connect")
sys.addaudithook(note)
"""
"""sitecustomize.py of the commands; a path in `socket.connect` is a socket of this machine."""

ISOLATED = """
import json, socket, subprocess, sys, threading
names, resolv, *command = sys.argv[1:]
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["mount", "--bind", resolv, "/etc/resolv.conf"], check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))

def answer():
    while True:
        asked, sender = server.recvfrom(4096)
        with open(names, "a") as file:
            file.write(json.dumps(asked[12:-5].decode("latin-1")) + "\\n")
        server.sendto(asked[:2] + b"\\x81\\x83" + asked[4:6] + b"\\0" * 6 + asked[12:], sender)

threading.Thread(target=answer, daemon=True).start()
process = subprocess.Popen(command)
sys.exit(process.wait())
"""
"""Runs a command where only the loopback exists; the name server there knows no name."""

IN_A_NETWORK = ("unshare", "--map-root-user", "--net", "--mount")


class Guard(NamedTuple):
    """Runs commands and notes whom they speak to."""

    folder: Path
    isolated: bool

    def run(self, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.words(command), env=self.environment, text=True, capture_output=True, **more
        )

    def words(self, command: tuple[str, ...]) -> list[str]:
        """The command line that runs a command under guard."""
        if not self.isolated:
            return list(command)
        names = [str(self.folder / "names.jsonl"), str(self.folder / "resolv.conf")]
        return [*IN_A_NETWORK, sys.executable, "-I", "-c", ISOLATED, *names, *command]

    @property
    def environment(self) -> dict[str, str]:
        source = str(Path(anyclass.__file__).parents[1])
        usual = {k: v for k, v in os.environ.items() if k not in UNSET}
        return usual | {
            "PYTHONPATH": os.pathsep.join([str(self.folder / "site"), source]),
            "ADDRESSES": str(self.folder / "addresses.jsonl"),
            "HF_HOME": str(self.folder / "hub"),
        }

    @property
    def addresses(self) -> list[list[str]]:
        """What Python connected to or looked up."""
        return _lines(self.folder / "addresses.jsonl")

    @property
    def names(self) -> list[str]:
        """What anything looked up."""
        return _lines(self.folder / "names.jsonl")


UNSET = {"HF_HUB_OFFLINE", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY"}
"""What could make the commands silent from outside."""


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _guard(folder: Path, isolated: bool) -> Guard:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(NOTE_ADDRESSES)
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions attempts:1 timeout:1\n")
    return Guard(folder, isolated)


def _can_isolate(folder: Path) -> bool:
    """Whether this system allows networks and mounts of one's own."""
    if not shutil.which("unshare"):
        return False
    return _guard(folder, True).run(sys.executable, "-c", "").returncode == 0


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    (tmp_path / "try").mkdir()
    (tmp_path / "guard").mkdir()
    return _guard(tmp_path / "guard", _can_isolate(tmp_path / "try"))


def command(*words: object) -> tuple[str, ...]:
    """Words of an `anyclass` command."""
    main = "import sys; from anyclass.cli import main; sys.exit(main())"
    return (sys.executable, "-c", main, *map(str, words))


SERVE = """
import http.client, sys
import anyclass

def started(address):
    host, _, token = address.removeprefix("http://").partition("/?token=")
    client = http.client.HTTPConnection("127.0.0.1", int(host.partition(":")[2]))
    head = b'--x\\r\\nContent-Disposition: form-data; name="images"; filename="a.png"\\r\\n\\r\\n'
    body = head + open(sys.argv[2], "rb").read() + b"\\r\\n--x--\\r\\n"
    kind = "multipart/form-data; boundary=x"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    client.request("POST", "/predict", body, headers)
    assert b'"status":"ok"' in client.getresponse().read()
    print(client.port, flush=True)
    raise KeyboardInterrupt

anyclass.serve(sys.argv[1], port=0, browser=False, started=started)
"""
"""Serves a run until an image is predicted, for which the model is loaded."""


@pytest.mark.timeout(900)
def test_guard__sees_addresses_and_names(guard: Guard) -> None:
    look_up = "import socket; socket.create_connection(('telemetry.example', 443), 1)"
    assert guard.run(sys.executable, "-c", look_up).returncode == 1
    assert [entry[0] for entry in guard.addresses] == ["socket.getaddrinfo"]
    connect = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    guard.run(sys.executable, "-c", connect)
    assert ["socket.connect", "(('127.0.0.1', 9),)"] in guard.addresses
    if not guard.isolated:
        pytest.skip("this system allows no network of one's own: native look-ups are not seen")
    guard.run("getent", "hosts", "native.example")
    assert any("native" in name for name in guard.names)


@pytest.mark.timeout(1800)
def test_commands__speak_to_nobody(
    guard: Guard, tmp_path: Path, tiny_clip: Callable[..., str]
) -> None:
    images = draw_shapes(tmp_path / "images")
    run = tmp_path / "run"
    of_images = ("--images", images, "--labels", "folders")
    table = tmp_path / "new.csv"
    for words in (
        ("plan", *of_images, "--model", tiny_clip()),
        ("fit", "auto", *of_images, "--model", tiny_clip(), "--out", run),
        ("predict", "--run", run, "--images", images, "--out", table),
        ("evaluate", "--run", run, "--images", images),
        ("report", "--run", run),
        ("export", "--run", run, "--onnx", tmp_path / "model.onnx"),
        ("demo", "--out", tmp_path / "demo"),
    ):
        ended = guard.run(*command(*words))
        assert ended.returncode == 0, (words, ended.stderr)
    assert guard.addresses == []
    assert _serve(guard, run, next(images.rglob("*.png"))) == []
    assert guard.names == []


def _serve(guard: Guard, run: Path, image: Path) -> list[list[str]]:
    """Serve a run, predict an image, and return whom others than this client spoke to."""
    before = len(guard.addresses)
    ended = guard.run(sys.executable, "-c", SERVE, str(run), str(image))
    assert ended.returncode == 0, ended.stderr
    port = ended.stdout.strip()
    found = guard.addresses[before:]
    assert port in str(found)
    return [entry for entry in found if f"127.0.0.1', {port}" not in str(entry)]


@pytest.mark.timeout(900)
def test_describe__speaks_to_the_endpoint_only(tmp_path: Path, fitted: Fitted, server: Any) -> None:
    (tmp_path / "guard").mkdir()
    guard = _guard(tmp_path / "guard", isolated=False)
    ended = guard.run(
        *command("describe", "--images", fitted.images, "--out", tmp_path / "texts.jsonl"),
        *("--model", fitted.model, "--captioner", "endpoint"),
        *("--captioner.url", server.url, "--captioner.model", "llava"),
    )
    assert ended.returncode == 0, ended.stderr
    assert len(server.questions) == sum(shape.count for shape in SHAPES.values()) - 1
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    connected = ["socket.connect", f"(('{host}', {port}),)"]
    assert connected in guard.addresses
    others = [entry for entry in guard.addresses if entry != connected]
    assert [entry for entry in others if f"'{host}', {port}" not in str(entry)] == []
