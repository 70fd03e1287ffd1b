"""`serve`: the review page of a run, and predictions for programs."""

import errno
import os
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from tyro.conf import Suppress

from anyclass.backbone import Backbone, EngineName
from anyclass.classifier.classifier import Classifier
from anyclass.commands.predict import load_base, load_classifier
from anyclass.errors import RequestError, printable
from anyclass.files import Json, read_json
from anyclass.run.folder import check_finished, check_no_links

if TYPE_CHECKING:
    from anyclass.review.session import Session

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine reaches."""

PACKAGES = ("fastapi", "uvicorn", "python_multipart")
"""What the extra `serve` installs."""

GRACE = 3
"""Seconds that open requests get at the end."""


def serve(
    run: Path | str,
    host: str = "127.0.0.1",
    port: int = 8765,
    allow_remote: bool = False,
    browser: bool = True,
    device: str = "auto",
    engine: EngineName = "auto",
    allow_pickle: bool = False,
    started: Suppress[Callable[[str], None] | None] = None,
) -> Json:
    """Open a page in the browser on which to review and correct the labels of a run.

    Corrections are saved in RUN/review at once. The page can train again with them; programs can
    send images to /predict. Ctrl-C ends it.

    Args:
        run: a run folder that was fitted on images.
        host: address to listen on. Any address other than 127.0.0.1 needs --allow-remote.
        port: port to listen on; 0 takes a free one.
        allow_remote: let other machines connect. Anyone with the printed address can see the images
            and change labels; the connection is not encrypted.
        browser: open the page in the browser, where there is one.
        device: device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.
        engine: engine of the frozen image encoder: auto takes the fastest on a CPU that agrees with
            torch; on a GPU it is torch, and bf16 can be asked for.
        allow_pickle: accept weights from a local folder that are not safetensors. They can run
            code: use it for sources you trust.
        started: gets the address, with its token, when the server answers.

    Returns:
        `run`: the run that was reviewed last, `corrections`: number of corrected images, `labels`:
        the table of corrections for `fit --labels`, None without corrections.

    Raises:
        RequestError: there is no finished run of images, the port is in use, or a package is
            missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise RequestError(f"serve needs {', '.join(missing)}: pip install 'anyclass[serve]'")
    check_no_links(Path(run))
    check_finished(Path(run))
    remote = host not in LOOPBACK
    if remote and not allow_remote:
        raise RequestError(
            f"--host {host} lets other machines connect: add --allow-remote if that is wanted"
        )
    from anyclass.commands.edit_classes import edit_classes
    from anyclass.review.app import create_app
    from anyclass.review.session import Session, Tools

    with _listening(host, port) as listener:
        address = f"http://{_in_url(host)}:{listener.getsockname()[1]}"
        token = secrets.token_urlsafe(32)
        tools = Tools(_loader(device, engine, allow_pickle), edit_classes)
        session = Session(Path(run), tools)
        try:
            app = create_app(session, token, _hosts(host))
            if remote:
                _say(NOT_PRIVATE)
            _serve(app, listener, f"{address}/?token={token}", browser, started)
        finally:
            session.close()
    return _result(session)


NOT_PRIVATE = (
    "warning: whoever has the address below can see the images and change labels, from any machine "
    "that reaches this one; the connection is not encrypted"
)


def _loader(
    device: str, engine: EngineName, allow_pickle: bool
) -> Callable[[Path], tuple[Backbone, Classifier]]:
    """What loads the model before training and the classifier of a run."""

    def loaded(run: Path) -> tuple[Backbone, Classifier]:
        model = read_json(run / "config.json")["model"]
        base = load_base(run, model, device, allow_pickle, engine)
        return base, load_classifier(run, device, allow_pickle, engine, base)

    return loaded


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        RequestError: the port is in use or not allowed, or the host is not of this machine.
    """
    if not 0 <= port <= 65535:
        raise RequestError(f"--port {port}: give a number from 0 to 65535")
    try:
        listener = socket.create_server((host, port), family=_family(host), backlog=128)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms an answer
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RequestError(
                f"port {port} of {host} is in use: choose another --port; 0 takes a free one"
            ) from error
        why = str(error.strerror).partition(" (while")[0]
        raise RequestError(f"cannot listen on {host}, port {port}: {why}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _in_url(host: str) -> str:
    """The host as it stands in an address: one that is reached, and IPv6 in brackets."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _hosts(host: str) -> list[str]:
    """Values of the Host header that are served, without ports."""
    hosts = ["127.0.0.1", "localhost", "[::1]"]
    if host not in LOOPBACK:
        hosts += [_in_url(host), socket.gethostname(), socket.getfqdn(), *_own_addresses()]
    return hosts


def _own_addresses() -> list[str]:
    """Addresses of this machine, as far as its name tells."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return []
    return sorted({_in_url(str(entry[4][0])) for entry in found})


def _serve(
    app: Any,
    listener: socket.socket,
    address: str,
    browser: bool,
    started: Callable[[str], None] | None,
) -> None:
    """Serve until Ctrl-C, or until the server ends."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=256,
    )
    server = uvicorn.Server(config)
    own = [listener.dup()]  # closed by the server: it may outlive the wait below
    thread = Thread(target=server.run, kwargs={"sockets": own}, name="server", daemon=True)
    thread.start()  # not in the main thread: a notebook runs a loop of its own there
    with suppress(ValueError):  # another thread than the main one takes no signals
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        while thread.is_alive() and not server.started:
            thread.join(0.01)
        _say(f"review page: {address}\nCtrl-C ends it")
        if started is not None:
            started(address)
        if browser and _has_screen():
            webbrowser.open(address)
        while thread.is_alive():
            thread.join(1)
    except KeyboardInterrupt:
        _say("stopping")
    finally:
        server.should_exit = True
        thread.join(GRACE + 2)
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End a server that is told to end as Ctrl-C does: its training ends as well."""
    raise KeyboardInterrupt


def _has_screen() -> bool:
    """Whether a browser can be shown: a browser in the terminal would take it over."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _result(session: "Session") -> Json:
    """What is left when the page is closed."""
    table = session.table
    return {
        "run": str(session.catalogue.run),
        "corrections": session.checked,
        "labels": str(table) if session.checked else None,
    }
