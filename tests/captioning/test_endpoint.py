"""The captioner `endpoint` against a real server on this machine that misbehaves in every way."""

import gzip
import io
import json
import re
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image
from pydantic import ValidationError

from anyclass.captioning import CaptionContext, Captioner, CaptionRequest, Endpoint, image, jpeg
from anyclass.captioning import endpoint as module
from anyclass.captioning.response_cache import ResponseCache, key_of
from anyclass.data import content_hashes
from anyclass.errors import AnyclassError, RequestError

KEY = "sk-a-key-that-nobody-may-see"


@pytest.fixture
def endpoint(server: Any) -> Endpoint:
    """Asks the server, one question at a time and without a second try."""
    return Endpoint(url=server.url, model="llava", concurrency=1, retries=0, timeout=20)


@dataclass
class Asked:
    """A captioner, the server that it asks, what about, and what it says."""

    server: Any
    endpoint: Endpoint
    requests: list[CaptionRequest]
    context: CaptionContext
    log: Any

    def describe(self, some: list[CaptionRequest] | None = None, **fields: Any) -> list[str | None]:
        """Texts of the requests, or of some of them; `fields` of the captioner are other ones."""
        requests = self.requests if some is None else some
        return replace(self.endpoint, **fields).describe(requests, self.context, self.log)

    def right(self, some: list[CaptionRequest] | None = None) -> list[str]:
        """What the server says when all is well."""
        requests = self.requests if some is None else some
        shown = [jpeg(image(request, self.context.dataset, 672)) for request in requests]
        pairs = zip(shown, requests, strict=True)
        return [self.server.sentence(file, request.question) for file, request in pairs]


@pytest.fixture
def asked(
    server: Any,
    endpoint: Endpoint,
    requests: list[CaptionRequest],
    context: CaptionContext,
    log: Any,
) -> Asked:
    """Nobody has asked anything yet."""
    return Asked(server, endpoint, requests, context, log)


def test_endpoint__asks_with_the_image_first(asked: Asked) -> None:
    assert asked.describe(concurrency=3) == asked.right()
    assert asked.describe([]) == []
    assert {call.path for call in asked.server.calls} == {"/v1/chat/completions"}
    body = dict(asked.server.calls[0].body)
    (message,) = body.pop("messages")
    assert body == {"model": "llava", "max_tokens": 77, "temperature": 0.0}
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert {call.question for call in asked.server.calls} == {"What is it?", "What are they?"}
    sizes = {Image.open(io.BytesIO(call.image)).size for call in asked.server.calls}
    assert sizes == {(30 + i, 20) for i in range(12)} | {(672, 672)}
    assert asked.log.warnings == []


def test_endpoint__what_is_known_needs_no_server(asked: Asked) -> None:
    said = asked.describe()
    asked.server.calls.clear()
    assert asked.describe() == said
    assert asked.server.calls == []
    for field in ({"temperature": 1.0}, {"max_tokens": 9}, {"size": 29}, {"model": "other"}):
        asked.describe(asked.requests[:1], **field)
    assert len(asked.server.questions) == 4


def test_endpoint__equal_images_are_asked_once(asked: Asked) -> None:
    asked.context.dataset.path(4).write_bytes(asked.context.dataset.path(1).read_bytes())
    said = asked.describe()
    assert said[4] == said[1]
    assert len(asked.server.questions) == 12


def test_endpoint__takes_the_only_model(asked: Asked) -> None:
    asked.describe(asked.requests[:2], model="")
    assert [call.path for call in asked.server.calls] == [
        "/v1/models",
        *["/v1/chat/completions"] * 2,
    ]
    assert {call.body["model"] for call in asked.server.questions} == {"llava"}


@pytest.mark.parametrize(
    ("models", "text"),
    [
        (["a", "b:7b"], "has several models: 'a', 'b:7b': choose one"),
        ([], "has no model: load one"),
    ],
)
def test_endpoint__several_models_or_none_is_a_wrong_request(
    asked: Asked, models: list[str], text: str
) -> None:
    asked.server.models = models
    with pytest.raises(RequestError, match=text):
        asked.describe(model="")
    assert asked.server.questions == []


def test_endpoint__no_such_model_lists_those_there_are(asked: Asked) -> None:
    asked.server.models = ["qwen", "llava"]
    asked.server.always = asked.server.json({"error": {"message": "model not found"}}, 404)
    with pytest.raises(RequestError, match="no model 'gone'. It has 'qwen', 'llava'"):
        asked.describe(model="gone")
    assert len(asked.server.questions) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_endpoint__a_busy_server_is_asked_again(asked: Asked, status: int) -> None:
    asked.server.replies = [asked.server.json({}, status, Retry_After="0.01") for _ in range(9)]
    assert asked.describe(retries=9, concurrency=2) == asked.right()
    assert len(asked.server.questions) == len(asked.requests) + 9
    assert asked.log.warnings == []


def test_endpoint__a_server_cannot_make_it_wait_for_long(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("openai._base_client.time.sleep", waits.append)
    far = ("100000", "inf", "Fri, 31 Dec 2100 23:59:59 GMT", "-3", "soon")
    asked.server.replies = [asked.server.json({}, 429, Retry_After=value) for value in far]
    asked.describe(asked.requests[:1], retries=5)
    assert len(asked.server.questions) == 6
    assert waits[:2] == [60.0, 60.0]
    assert max(waits[2:]) < 1


def drip(head: bool) -> Callable[[BaseHTTPRequestHandler], None]:
    """A byte at a time: each comes well within the time, all of them never."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        if head:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        else:
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    return reply


@pytest.mark.parametrize("head", [True, False])
def test_endpoint__a_slow_drip_ends_in_time(asked: Asked, head: bool) -> None:
    asked.server.replies = [drip(head)]
    started = time.monotonic()
    assert asked.describe(timeout=0.3)[0] is None
    assert time.monotonic() - started < 5
    assert "no complete answer within 0.3 seconds" in asked.log.warnings[0]


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 2**16)


def reset(handler: BaseHTTPRequestHandler) -> None:
    at_once = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
    handler.connection.close()


def endless_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-More: " + b"x" * 4000 + b"\r\n")


LOGIN = b"<!DOCTYPE html><html><title>Sign in</title><script>alert(1)</script></html>"
EVENTS = b'data: {"choices": [{"delta": {"content": "Seen"}}]}\n\ndata: [DONE]\n\n'
BOMB = gzip.compress(b" " * 2**26)
"""65 kB, which become 64 MB."""

BAD = {
    "HTML": (lambda server: server.body(LOGIN, Content_Type="text/html"), "cannot be read"),
    "HTML that says JSON": (lambda server: server.body(LOGIN), "cannot be read"),
    "HTML of a gateway": (lambda server: server.body(LOGIN, 502, Content_Type="text/html"), "502"),
    "a stream": (
        lambda server: server.body(EVENTS, Content_Type="text/event-stream"),
        "cannot be read",
    ),
    "an image": (lambda server: server.body(b"\x89PNG\0\xff", Content_Type="image/png"), "read"),
    "a bomb": (lambda server: server.body(BOMB, Content_Encoding="gzip"), "compressed"),
    "a bomb in a bomb": (
        lambda server: server.body(gzip.compress(BOMB), Content_Encoding="gzip, gzip"),
        "compressed",
    ),
    "a bomb unsaid": (lambda server: server.body(BOMB), "cannot be read"),
    "endless headers": (lambda server: endless_headers, "RemoteProtocolError"),
    "endless": (lambda server: endless, "longer than 1048576 bytes"),
    "reset": (lambda server: reset, "(ReadError|RemoteProtocolError|disconnected)"),
    "truncated": (lambda server: server.body(b'{"choices"', length=500), "RemoteProtocolError"),
    "JSON cut off": (lambda server: server.body(b'{"choices": ['), "cannot be read"),
    "deep JSON": (lambda server: server.body(b"[" * 10**5), "cannot be read"),
    "another shape": (lambda server: server.json(["choices"]), "cannot be read"),
    "null": (lambda server: server.said(None), "was empty"),
    "empty": (lambda server: server.said(" \n"), "was empty"),
    "no text": (lambda server: server.said([1, 2]), "of type list"),
    "compressed": (lambda server: server.body(b"x", Content_Encoding="gzip"), "compressed"),
    "refused": (
        lambda server: server.json({"error": {"message": "no image"}}, 400),
        "no image",
    ),
    "broken": (lambda server: server.json({"error": "out of memory"}, 500), "500"),
}


@pytest.mark.parametrize("kind", BAD)
def test_endpoint__a_bad_answer_costs_one_text_and_is_asked_again(asked: Asked, kind: str) -> None:
    bad, reason = BAD[kind]
    asked.server.replies = [bad(asked.server)]
    some = asked.requests[:10]
    wanted = asked.right(some)
    assert asked.describe(some) == [None, *wanted[1:]]
    (warning,) = asked.log.warnings
    assert warning.startswith("1 of 10 questions have no answer; the first because ")
    assert re.search(reason, warning), warning
    asked.server.calls.clear()
    assert asked.describe(some) == wanted
    assert len(asked.server.questions) == 1


def test_endpoint__the_name_of_the_content_does_not_matter(asked: Asked) -> None:
    body = json.dumps({"choices": [{"message": {"content": "A dog."}}]}).encode()
    asked.server.replies = [asked.server.body(body, Content_Type="text/plain")]
    assert asked.describe(asked.requests[:1]) == ["A dog."]


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (LOGIN, {"Content_Type": "text/html"}, "JSONDecodeError"),
        (BOMB, {"Content_Encoding": "gzip"}, "compressed"),
        (b" " * (2**20 + 1), {}, "longer than 1048576 bytes"),
    ],
    ids=["HTML", "bomb", "long"],
)
def test_endpoint__a_list_of_models_that_is_none_is_one_line(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, body: bytes, headers: Any, words: str
) -> None:
    reply = asked.server.body(body, **headers)
    monkeypatch.setattr(asked.server, "enter", lambda call: reply)
    with pytest.raises(AnyclassError, match=f"does not list its models .*{words}.*/v1") as one:
        asked.describe(model="")
    assert len(str(one.value).splitlines()) == 1
    assert "<script>" not in str(one.value)


def test_endpoint__hangs_up_on_an_endless_answer(asked: Asked) -> None:
    sent: list[int] = []

    def counted(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while len(sent) < 2000:
            sent.append(handler.wfile.write(b" " * 2**16))

    asked.server.replies = [counted]
    asked.describe()
    assert sum(sent) < 2**25  # what the machine buffers on the way, and not all of 2 ** 27


def test_endpoint__failures_in_a_row_end_it(asked: Asked) -> None:
    many = [CaptionRequest((0,), "What is it?", "object", variant) for variant in range(200)]
    asked.server.always = asked.server.json({"error": {"message": "out of memory"}}, 500)
    with pytest.raises(AnyclassError, match="12 consecutive questions.*out of memory"):
        asked.describe(many, concurrency=4)
    assert len(asked.server.questions) <= 12 + 4


def test_endpoint__a_redirect_is_not_followed(
    asked: Asked, start_server: Callable[[], Any]
) -> None:
    other = start_server()
    asked.server.always = asked.server.json({}, 307, Location=f"{other.url}/chat/completions")
    with pytest.raises(AnyclassError, match=f"redirects to '{other.url}/chat"):
        asked.describe(asked.requests[:3], retries=2)
    assert other.calls == []
    assert len(asked.server.questions) == 3


@pytest.mark.parametrize("status", [401, 403])
def test_endpoint__a_wrong_key_stops_at_once_and_is_shown_nowhere(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("ANYCLASS_ENDPOINT_KEY", KEY)
    asked.server.replies = [asked.server.json({"error": {"message": f"{KEY} has no quota"}}, 400)]
    asked.describe()
    asked.server.always = asked.server.json({"error": {"message": f"wrong key: {KEY}"}}, status)
    with pytest.raises(RequestError) as refused:
        asked.describe()
    assert asked.server.questions[-1].headers["authorization"] == f"Bearer {KEY}"
    assert len(asked.server.questions) == len(asked.requests) + 1
    assert f"HTTP {status}" in str(refused.value)
    assert "ANYCLASS_ENDPOINT_KEY" in str(refused.value)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    shown = [str(refused.value), repr(asked.endpoint), *map(str, asked.log)]
    assert [text for text in shown if KEY in text] == []
    assert [data for data in written if KEY.encode() in data] == []
    assert "<ANYCLASS_ENDPOINT_KEY> has no quota" in asked.log.warnings[0]


@pytest.mark.parametrize("key", ["two words", "line\nfeed", "schlüssel"])
def test_endpoint__a_key_that_no_header_can_hold(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("ANYCLASS_ENDPOINT_KEY", key)
    with pytest.raises(RequestError, match="that no key has") as refused:
        asked.describe()
    assert key not in str(refused.value)
    assert asked.server.calls == []


def test_endpoint__nothing_of_the_machine_or_of_other_keys_is_sent(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "SECRET")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: SECRET")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.com")
    asked.describe(asked.requests[:1], model="")
    names = {"host", "connection", "accept", "accept-encoding", "user-agent", "authorization"}
    for call in asked.server.calls:
        assert set(call.headers) <= names | {"content-type", "content-length"}
        assert "SECRET" not in str(call)
        assert call.headers["authorization"] == "Bearer none"


def test_endpoint__no_proxy_sees_what_stays_here(
    asked: Asked, start_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_server()
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert asked.describe() == asked.right()
    assert proxy.calls == []


def test_endpoint__another_machine_is_refused_before_any_connection(
    requests: list[CaptionRequest],
    context: CaptionContext,
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[Any] = []

    def never(*address: Any, **how: Any) -> None:
        tried.append(address)
        raise AssertionError(f"a connection to {address}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, never)
    monkeypatch.setattr(socket.socket, "connect", never)
    for how in (
        Endpoint(url="https://api.example.com/v1", model="m"),
        Endpoint(url="https://api.example.com/v1", allow_remote="example.com"),
        Endpoint(url="http://api.example.com/v1", allow_remote="api.example.com"),
    ):
        with pytest.raises(RequestError) as refused:
            how.describe(requests, context, log)
        assert refused.value.exit_code == 2
    assert tried == []


def test_endpoint__says_first_what_leaves_the_machine(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "remote_host", lambda url, allowed: "api.example.com")
    monkeypatch.setattr(module, "proxy_for", lambda host: None)
    asked.describe(asked.requests[:2])
    assert asked.log.warnings == [
        "sending 2 images to api.example.com, in 2 questions of about 0.3 MB in total, "
        "at an unknown price."
    ]
    asked.describe(price_in=2000.0, price_out=1000.0)
    assert asked.log.warnings[1].startswith("sending 12 images to api.example.com, in 11 ")
    assert asked.log.warnings[1].endswith("for $14.18.")
    first = next(i for i, numbers in enumerate(asked.log) if numbers.get("done", 0) > 2)
    assert asked.log.index({"warning": asked.log.warnings[1]}) < first
    asked.describe()
    assert len(asked.log.warnings) == 2


def test_endpoint__no_server_is_one_line(
    requests: list[CaptionRequest], context: CaptionContext, log: Any
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    for model in ("", "llava"):
        how = Endpoint(url=url, model=model, retries=0)
        with pytest.raises(AnyclassError, match=f"no server answers at {url} .*ollama serve") as no:
            how.describe(requests, context, log)
        assert "\n" not in str(no.value)


def test_endpoint__no_list_of_models(asked: Asked) -> None:
    wrong = replace(asked.endpoint, url=asked.server.url.removesuffix("/v1"), model="")
    asked.server.models = None
    for how in (wrong, replace(asked.endpoint, model="")):
        with pytest.raises(AnyclassError, match="does not list its models .*end in /v1"):
            how.describe(asked.requests, asked.context, asked.log)


def test_endpoint__never_more_at_once_than_allowed(asked: Asked) -> None:
    asked.server.seconds = 0.03
    asked.describe(concurrency=3)
    assert 1 < asked.server.most_under_way <= 3  # `test_dispatch` waits until it is 3


def test_endpoint__sends_pixels_alone(
    server: Any, endpoint: Endpoint, context: CaptionContext, log: Any
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    more = {"comment": b"SECRET comment", "xmp": b"<x>SECRET xmp</x>", "icc_profile": b"SECRET icc"}
    for row in (0, 1):
        image = Image.new("RGB", (50, 40), (200, 10 * row, 30))
        image.save(context.dataset.path(row), "JPEG", exif=exif, **more)
        assert context.dataset.path(row).read_bytes().count(b"SECRET") == 4
    both = [
        CaptionRequest((0,), "What is it?", "object"),
        CaptionRequest((0, 1), "What are they?", "object"),
    ]
    endpoint.describe(both, context, log)
    assert len(server.questions) == 2
    for call in server.questions:
        for mark in (b"SECRET", b"Exif", b"xmp", b"\xff\xfe", b"\xff\xe1", b"\xff\xe2"):
            assert mark not in call.image
        assert "SECRET" not in json.dumps(call.body)


def test_endpoint__an_unreadable_image_is_a_failure(asked: Asked) -> None:
    asked.context.dataset.path(3).write_bytes(b"no image")
    assert asked.describe()[3] is None
    assert "an image cannot be used (not an image" in asked.log.warnings[0]
    assert len(asked.server.questions) == 12


def test_endpoint__a_missing_package_names_the_extra(
    requests: list[CaptionRequest],
    context: CaptionContext,
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "anyclass.captioning.server", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(RequestError, match=r"pip install 'anyclass\[lmm\]'"):
        Endpoint(model="m").describe(requests, context, log)


def test_endpoint__estimate() -> None:
    """24 x 24 tokens and 30 for a question; 672 x 672 / 3 bytes; 1.2 seconds, four at once."""
    cost = Endpoint().estimate(1000)
    assert cost[:6] == (606_000, 77_000, 5.0, 0.0, "", None)
    host = "api.example.com"
    away = Endpoint(url=f"https://{host}/v1", allow_remote=host, price_in=0.5, price_out=2.0)
    assert away.estimate(1000)[:5] == (606_000, 77_000, 5.0, 150.528, host)
    assert away.estimate(1000).dollars == pytest.approx(0.303 + 0.154)
    assert replace(away, concurrency=1, size=336).estimate(1000)[:3] == (174_000, 77_000, 20.0)
    with pytest.raises(RequestError, match="--allow-remote api.example.com"):
        replace(away, allow_remote="").estimate(1000)


@pytest.mark.parametrize(
    "field",
    [{"size": 0}, {"concurrency": 0}, {"timeout": 0}, {"retries": -1}, {"max_failures": 1.5}],
)
def test_endpoint__impossible_settings(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Endpoint(**field)


def test_endpoint__is_a_describer_and_keeps_no_key() -> None:
    assert isinstance(Endpoint(), Captioner)
    assert not [name for name in Endpoint.__dataclass_fields__ if "key" in name]


# --- found again


def test_endpoint__the_same_question_at_another_address_is_known(
    asked: Asked, start_server: Callable[[], Any]
) -> None:
    said = asked.describe()
    other = start_server()
    slash = f"{asked.server.url}/"
    for url in (other.url, slash, asked.server.url.replace("127.0.0.1", "localhost")):
        assert asked.describe(url=url) == said
    assert (len(asked.server.questions), other.questions) == (13, [])


def test_endpoint__a_size_that_changes_no_image_is_the_same_question(asked: Asked) -> None:
    said = asked.describe()
    asked.server.calls.clear()
    assert asked.describe(size=41) == said
    assert asked.server.calls == [], "the largest single image has 41 pixels"
    asked.describe(size=40)
    assert len(asked.server.questions) == 1, "that one; the collage does not depend on the size"


def test_endpoint__answers_of_the_keys_of_old_are_found(asked: Asked) -> None:
    """Version 0.1 had the address and all settings of the image in the key."""
    picture = {"size": 672, "side": 672, "gap": 20, "jpeg": 90}
    old = {
        "kind": "endpoint",
        "url": asked.server.url.replace("127.0.0.1", "localhost"),
        "picture": picture,
    }
    old |= {"model": "llava", "max_tokens": 77, "temperature": 0.0}
    hashes = content_hashes(asked.context.dataset)
    with ResponseCache(asked.log) as cache:
        for i, request in enumerate(asked.requests):
            of_images = [str(hashes[row]) for row in request.rows]
            cache.keep(key_of(old, request.question, 0, of_images), f"text {i}")
    wanted = [f"text {i}" for i in range(13)]
    assert asked.describe() == wanted
    elsewhere = replace(asked.endpoint, url="http://127.0.0.1:1/v1")
    assert elsewhere.describe(asked.requests, asked.context, asked.log) == wanted, "kept anew"
    assert asked.server.questions == []


def test_endpoint__without_a_server_the_model_that_was_there_counts(
    start_server: Callable[[], Any],
    endpoint: Endpoint,
    requests: list[CaptionRequest],
    context: CaptionContext,
    log: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nameless = replace(endpoint, url=start_server().url, model="")
    said = nameless.describe(requests, context, log)
    gone = AnyclassError("no server answers.")
    monkeypatch.setattr("anyclass.captioning.server.Server._models", Mock(side_effect=gone))
    assert nameless.describe(requests, context, log) == said
    assert log.warnings == [
        "no server answers. Until then answers of llava, which was there, count."
    ]
    with pytest.raises(AnyclassError, match="no server answers"):
        replace(nameless, url="http://127.0.0.1:1/v1").describe(requests, context, log)
    wrong = RequestError("the key is wrong")
    monkeypatch.setattr("anyclass.captioning.server.Server._models", Mock(side_effect=wrong))
    with pytest.raises(RequestError, match="key is wrong"):
        nameless.describe(requests, context, log)
