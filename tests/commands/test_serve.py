"""`anyclass serve`: what it refuses, that it answers, and that Ctrl-C ends it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import anyclass
from anyclass.cli import main
from anyclass.commands import serve as command
from anyclass.errors import RequestError
from tests.conftest import Fitted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "nowhere"], "nowhere contains no run"),
        (["--run", "RUN", "--host", "0.0.0.0"], "add --allow-remote"),
        (["--run", "RUN", "--port", "70000"], "from 0 to 65535"),
        (
            ["--run", "RUN", "--host", "no such host", "--allow-remote"],
            "cannot listen on no such host, port",
        ),
    ],
)
def test_serve__refuses_in_one_line(
    fitted: Fitted, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(fitted.run) if word == "RUN" else word for word in options]
    assert main(["serve", *words, "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_serve__port_in_use(fitted: Fitted, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--run", str(fitted.run), "--port", port, "--no-browser"]) == 2
    assert f"port {port} of 127.0.0.1 is in use: choose another --port" in capsys.readouterr().err


def test_serve__without_the_extra(fitted: Fitted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(RequestError, match=r"needs uvicorn: pip install 'anyclass\[serve\]'"):
        anyclass.serve(fitted.run)


def test_serve__run_of_features(fitted: Fitted, tmp_path: Path) -> None:
    run = Path(shutil.copytree(fitted.run, tmp_path / "run"))
    config = json.loads((run / "config.json").read_text("utf-8"))
    (run / "config.json").write_text(json.dumps(config | {"images": None}))
    with pytest.raises(RequestError, match="fitted on features, so there is no image to show"):
        anyclass.serve(run, port=0, browser=False)


def test_hosts__of_an_address() -> None:
    assert command._hosts("127.0.0.1") == ["127.0.0.1", "localhost", "[::1]"]
    assert "192.168.7.7" in command._hosts("192.168.7.7")
    assert socket.gethostname() in command._hosts("0.0.0.0")
    assert command._in_url("fe80::1") == "[fe80::1]"


@pytest.mark.usefixtures("no_other_machine")
def test_serve__in_python_answers_until_it_is_stopped(
    fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(fitted.run, tmp_path / "run"))
    opened: list[str] = []
    monkeypatch.setattr(command.webbrowser, "open", opened.append)
    monkeypatch.setattr(command, "_has_screen", lambda: True)
    answers: dict[str, Any] = {}

    def started(address: str) -> None:
        """Ask while it runs, then end it as Ctrl-C does."""
        base, _, token = address.partition("/?token=")
        with httpx.Client(base_url=base, trust_env=False) as client:
            answers["stranger"] = client.get("/api/state").status_code
            client.headers["authorization"] = f"Bearer {token}"
            body = {"ids": [0], "label": "red square"}
            answers["corrected"] = client.post("/api/corrections", json=body).json()["checked"]
            image = next((fitted.images / "red square").glob("*.jpg"))
            files = {"images": image.open("rb")}
            answers["predicted"] = client.post("/predict", files=files).json()["predictions"]
            files["images"].close()
        raise KeyboardInterrupt

    result = anyclass.serve(run, port=0, device="cpu", engine="torch", started=started)
    table = run / "review" / "corrections.csv"
    assert result == {"run": str(run), "corrections": 1, "labels": str(table)}
    assert (answers["stranger"], answers["corrected"]) == (401, 1)
    assert answers["predicted"][0]["status"] == "ok"
    assert table.is_file()
    assert opened == []  # the browser comes after `started`, which ended it


def test_serve__a_server_that_ends_late_still_has_its_socket(
    fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine, or a second Ctrl-C: an error of the thread would be a warning, so fail."""
    monkeypatch.setattr(command, "GRACE", -2)  # wait no time at all

    def interrupt(address: str) -> None:
        raise KeyboardInterrupt

    run = Path(shutil.copytree(fitted.run, tmp_path / "run"))
    command.serve(run, port=0, device="cpu", engine="torch", started=interrupt)
    for thread in threading.enumerate():
        if thread.name == "server":
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_serve__is_ended_by_a_signal(fitted: Fitted, end: signal.Signals) -> None:
    code = "import sys; from anyclass.cli import main; sys.exit(main())"
    options = [
        "serve",
        "--run",
        str(fitted.run),
        "--port",
        "0",
        "--no-browser",
        "--engine",
        "torch",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stderr is not None
    assert process.stderr.readline() == "anyclass serve: loading PyTorch ...\n"
    first = process.stderr.readline()
    assert re.fullmatch(r"review page: http://127\.0\.0\.1:\d+/\?token=[\w-]{43}\n", first)
    process.stderr.readline()
    process.send_signal(end)
    out, err = process.communicate()
    watchdog.cancel()
    assert (process.returncode, out) == (0, "no label was corrected\n")
    assert "Traceback" not in err


def test_warning__where_other_machines_may_connect(
    fitted: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(fitted.run, tmp_path / "run"))
    stop: Callable[[str], None] = lambda address: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    anyclass.serve(run, "0.0.0.0", 0, allow_remote=True, browser=False, started=stop)
    assert "warning: whoever has the address below" in capsys.readouterr().err
