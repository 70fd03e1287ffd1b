"""Who may ask for what: Host, token, origin, size; in-process, without a socket."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from anyclass.review.protection import HEADERS, MOST_BYTES, MOST_JSON, protected

TOKEN = "the-token"
BASE = "http://127.0.0.1:8765"
COOKIE = {"cookie": f"anyclass_8765={TOKEN}"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the number of bytes it got."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


App = Callable[..., Any]


def ask(
    method: str, path: str, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    """One request to the protected echo."""
    app = protected(echo, TOKEN, ["127.0.0.1", "localhost", "[::1]"], uploads=("/predict",))

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(send())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        {"cookie": "anyclass_8765=wrong"},
        {"cookie": f"anyclass_9999={TOKEN}"},
        {"cookie": 'anyclass_8765="; ;=;\\'},
        {"authorization": "Bearer töken".encode().decode("latin-1")},
    ],
)
def test_token__is_needed(headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in ("/", "/api/state", "/page.js", "/predict", "/openapi.json", "/nowhere"):
        answer = ask("GET", path, encoded)  # type: ignore[arg-type]
        assert answer.status_code == 401
        assert "anyclass serve" in answer.json()["detail"]
        assert TOKEN not in answer.text


@pytest.mark.parametrize("headers", [COOKIE, BEARER])
def test_token__as_cookie_or_header(headers: dict[str, str]) -> None:
    assert ask("GET", "/api/state", headers).text == "0"
    assert ask("POST", "/api/undo", headers, content=b"abc").text == "3"


def test_token__in_the_address_becomes_a_cookie() -> None:
    answer = ask("GET", f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert all(part in cookie for part in ("httponly", "samesite=strict", "anyclass_8765"))
    assert ask("GET", "/?token=wrong").status_code == 401
    assert ask("GET", f"/api/state?token={TOKEN}").status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost:1", 200),
        ("[::1]:8765", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_host__must_be_ours(host: str, status: int) -> None:
    assert ask("GET", "/api/state", {**BEARER, "host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [(BASE, 200), ("http://127.0.0.1:9999", 403), ("http://evil.example", 403), ("null", 403)],
)
def test_origin__of_a_change_must_be_ours(origin: str, status: int) -> None:
    headers = {**COOKIE, "origin": origin}
    assert ask("POST", "/api/undo", headers).status_code == status
    assert ask("GET", "/api/state", headers).status_code == 200
    assert ask("POST", "/api/undo", {**BEARER, "origin": origin}).status_code == 200


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/api/corrections", MOST_JSON + 1, 413),
        ("/predict", MOST_JSON + 1, 200),
        ("/predict", MOST_BYTES + 1, 413),
        ("/predict", "-1", 413),
        ("/predict", "1e9", 413),
    ],
)
def test_size__is_refused_before_anything_is_read(
    path: str, length: int | str, status: int
) -> None:
    app = protected(echo, TOKEN, ["127.0.0.1"], uploads=("/predict",))
    read = []
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        read.append(1)
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {"host": "127.0.0.1", "content-length": str(length), **BEARER}
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "scheme": "http"}
    scope["headers"] = [(k.encode(), v.encode()) for k, v in headers.items()]
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == status
    assert bool(read) == (status == 200)


def test_size__must_be_known() -> None:
    async def chunks() -> Any:
        yield b"a"

    answer = ask("POST", "/predict", BEARER, content=chunks())
    assert answer.status_code == 411


def test_headers__of_every_answer() -> None:
    for answer in (ask("GET", "/"), ask("GET", "/", BEARER), ask("GET", "/", {"host": "evil"})):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers
        assert "'unsafe-inline'" not in answer.headers["content-security-policy"]
