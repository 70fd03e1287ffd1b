"""The server's answers: to good requests, to wrong ones, to hostile ones, to many at once."""

import asyncio
import random
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.types import ASGIApp

from anyclass.commands.edit_classes import edit_classes
from anyclass.data import open_bytes
from anyclass.review import schema, uploads
from anyclass.review.app import create_app
from anyclass.review.session import Session
from tests.conftest import SHAPES, draw_shape
from tests.review.conftest import BROKEN, HOSTILE_CLASS, HOSTILE_FILE

TOKEN = "token"
Client = httpx.AsyncClient


@lru_cache(maxsize=1)
def server_of(session: Session) -> ASGIApp:
    return create_app(session, TOKEN, ["127.0.0.1"])


def run_with(session: Session, work: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
    """Run `work` with a client of the session's server."""

    async def go() -> Any:
        transport = httpx.ASGITransport(server_of(session), raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {TOKEN}"}
        base = "http://127.0.0.1:1"
        async with Client(transport=transport, base_url=base, headers=headers) as client:
            return await work(client)

    return asyncio.run(go())


def ask(session: Session, method: str, path: str, **more: Any) -> httpx.Response:
    return run_with(session, lambda client: client.request(method, path, **more))  # type: ignore[no-any-return]


def png(image: Image.Image) -> bytes:
    with BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


SQUARE = png(draw_shape(SHAPES["red square"], 2))


def test_pages__hold_no_code_and_nothing_from_elsewhere(session: Session) -> None:
    for path in ("/", "/docs"):
        page = ask(session, "GET", path)
        assert page.status_code == 200
        assert "http" not in page.text.replace("http://127.0.0.1:1", "").replace("httpx", "")
        assert page.text.count("<script") == (1 if path == "/" else 0)
        assert " on" + "click" not in page.text and "style=" not in page.text
    docs = ask(session, "GET", "/docs").text
    assert "&lt;script&gt;alert(2)" in docs and HOSTILE_CLASS not in docs
    assert ask(session, "GET", "/page.js").headers["content-type"].startswith("text/javascript")
    assert ask(session, "GET", "/page.css").headers["content-type"].startswith("text/css")


def test_view_and_rows(session: Session) -> None:
    found = ask(session, "GET", "/api/view", params={"sort": "file_name"}).json()["ids"]
    assert len(found) == 29
    rows = ask(session, "GET", "/api/rows", params={"ids": found[:3]}).json()["rows"]
    assert [row["id"] for row in rows] == found[:3]
    assert rows[0]["file_name"] == HOSTILE_FILE
    given = ask(session, "GET", "/api/view", params={"label": HOSTILE_CLASS}).json()["ids"]
    assert set(given) >= {i for i in found if session.catalogue.label(i, {}) == HOSTILE_CLASS}
    assert ask(session, "GET", "/api/rows", params={"ids": [99]}).status_code == 409
    assert ask(session, "GET", "/api/view", params={"sort": "x"}).status_code == 422


def test_images__by_row_only(session: Session) -> None:
    kite = session.catalogue.files.index("kite-1.png")
    for path, longest in (("/thumbnails", 70), ("/images", 70)):
        answer = ask(session, "GET", f"{path}/{kite}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["cache-control"].startswith("private")
        with Image.open(BytesIO(answer.content)) as image:
            assert image.size == (longest, 44)
        broken = session.catalogue.files.index(BROKEN)
        for wrong, status in ((broken, 404), (30, 404), (-1, 422), ("kite-1.png", 422)):
            assert ask(session, "GET", f"{path}/{wrong}").status_code == status
        for wrong in ("../etc/passwd", "..%2f..%2fetc%2fpasswd", "%00", "0/../../x"):
            assert ask(session, "GET", f"{path}/{wrong}").status_code in (404, 422)


def test_corrections__and_their_table(session: Session) -> None:
    body = {"ids": [0, 1], "label": "ö kite"}
    state = ask(session, "POST", "/api/corrections", json=body).json()
    assert (state["checked"], state["undo"]) == (2, "2 images: ö kite")
    table = ask(session, "GET", "/api/corrections.csv")
    assert table.text.splitlines()[0] == "file_name,label" and table.text.count("ö kite") == 2
    assert ask(session, "POST", "/api/undo").json()["ids"] == [0, 1]
    assert ask(session, "POST", "/api/undo").status_code == 409
    for wrong in ({"ids": [], "label": "x"}, {"ids": [0]}, {"ids": ["a"], "label": "x"}, [1], {}):
        assert ask(session, "POST", "/api/corrections", json=wrong).status_code == 422
    for name in ("a\nb", " ", "\u202e"):
        wrong = {"ids": [0], "label": name}
        assert ask(session, "POST", "/api/corrections", json=wrong).status_code == 409
    text = {"content-type": "text/plain"}  # what a form of another page could send
    body = b'{"ids": [0], "label": "x"}'  # type: ignore[assignment]
    assert ask(session, "POST", "/api/corrections", content=body, headers=text).status_code == 422
    assert len(session.corrections) == 0


def test_classes__reach_edit_classes(session: Session, edits: list[Any]) -> None:
    body = {"merge": [["discovered 1", "discovered 2"]]}
    assert ask(session, "POST", "/api/classes", json=body).status_code == 200
    assert edits[0]["merge"] == [("discovered 2", "discovered 1")]  # the first one stays
    assert ask(session, "POST", "/api/classes", json={}).status_code == 409


def test_training__without_a_label(session: Session) -> None:
    assert "no new label" in ask(session, "POST", "/api/training").json()["detail"]
    assert ask(session, "GET", "/api/training").json()["state"] == "idle"
    assert ask(session, "DELETE", "/api/training").json()["state"] == "idle"
    assert ask(session, "GET", "/api/training/result").status_code == 409
    assert ask(session, "POST", "/api/training/open").status_code == 409


def test_useful(session: Session) -> None:
    session.index.wait()
    found = ask(session, "GET", "/api/useful", params={"count": 4}).json()
    assert (len(found["ids"]), found["message"]) == (4, "")


def bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    data = bytearray(png(Image.new("1", (8, 8))))
    data[16:24] = (60_000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def test_predict__a_batch_with_bad_images(session: Session) -> None:
    session.index.wait()
    uploads = [
        ("a.png", SQUARE),
        ("b.png", b"no image"),
        (HOSTILE_FILE, png(draw_shape(SHAPES["blue disc"], 1))),
        ("eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        ("bomb.png", bomb()),
        ("empty.png", b""),
    ]
    files = [("images", upload) for upload in uploads]
    answer = ask(session, "POST", "/predict?top=2&nearest=3", files=files)
    rows = answer.json()["predictions"]
    assert [row["file_name"] for row in rows] == [name for name, _ in uploads]
    assert [row["status"] == "ok" for row in rows] == [True, False, True, False, False, False]
    assert "pixels" in rows[4]["reason"]
    for row in (rows[0], rows[2]):
        assert len(row["top"]) == 2 and row["label"] == row["top"][0]["label"]
        assert row["score"] == row["top"][0]["probability"] >= row["top"][1]["probability"]
        assert 0 <= row["familiarity"] <= 1
    nearest = rows[0]["nearest"]  # the same image is in the run
    assert nearest[0]["file_name"] == "square-2.png"
    assert nearest[0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert nearest[0]["known"] and nearest[0]["label"] == "red square"
    similar = [near["similarity"] for near in nearest]
    assert similar == sorted(similar, reverse=True) and len(similar) == 3


def test_predict__decodes_as_the_run(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.index.wait()
    reduced = replace(session.index._predictor.preprocessing, decoding="reduced")
    monkeypatch.setattr(session.index._predictor, "preprocessing", reduced)
    sizes = []

    def noted(*arguments: Any, **options: Any) -> Image.Image:
        image = open_bytes(*arguments, **options)
        sizes.append(image.size)
        return image

    monkeypatch.setattr(uploads, "open_bytes", noted)
    photograph = BytesIO()
    Image.new("RGB", (1200, 800), "red").save(photograph, "JPEG")
    file = ("images", ("a.jpg", photograph.getvalue()))
    answer = ask(session, "POST", "/predict", files=[file]).json()["predictions"]
    assert answer[0]["status"] == "ok"
    assert sizes == [(300, 200)]


def test_predict__agrees_with_the_run(session: Session) -> None:
    catalogue = session.catalogue
    rows = [i for i in range(30) if catalogue.columns["status"][i] == "ok"]
    files = [("images", (catalogue.files[i], catalogue.path(i).read_bytes())) for i in rows]
    answer = ask(session, "POST", "/predict", files=files).json()["predictions"]
    assert [row["label"] for row in answer] == [catalogue.columns["label"][i] for i in rows]
    scores = [catalogue.columns["score"][i] for i in rows]
    assert [row["score"] for row in answer] == pytest.approx(scores, abs=1e-4)
    assert all(row["nearest"] == [] for row in answer)


def test_predict__while_the_classes_are_edited(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are those of the classifier that predicted; it has one class more than the run now."""
    file = ("images", ("a.png", SQUARE))
    expected = ask(session, "POST", "/predict", files=[file]).json()["predictions"][0]
    session._tools = session._tools._replace(edit_classes=edit_classes)
    predict = session.index.predict

    def edited_meanwhile(*arguments: Any) -> Any:
        found = predict(*arguments)
        session.edit(schema.ClassEdit(merge=[("discovered 1", "red square")]))
        return found

    monkeypatch.setattr(session.index, "predict", edited_meanwhile)
    answer = ask(session, "POST", "/predict", files=[file])
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["top"] == expected["top"]


FIELD = "give 1 to 64 images as the multipart field `images`: see /docs"


def test_predict__wrong_requests(session: Session) -> None:
    image = ("images", ("a.png", SQUARE))
    for path, files, status in (
        ("/predict", [], 422),
        ("/predict", [image] * 65, 422),
        ("/predict?top=0", [image], 422),
        ("/predict", [("other", ("a.png", SQUARE))], 422),
    ):
        answer = ask(session, "POST", path, files=files)
        assert answer.status_code == status
        assert list(answer.json()) == ["detail"]
        assert answer.json()["detail"].endswith(FIELD)
        assert "a.png" not in answer.text
        assert len(answer.text) < 300
    answer = ask(session, "POST", "/predict", content=SQUARE)
    assert answer.json()["detail"] == f"body.images: Field required; {FIELD}"
    assert ask(session, "POST", "/predict", json={"images": ["/etc/passwd"]}).status_code == 422
    assert ask(session, "POST", "/predict", data={"images": "/etc/passwd"}).status_code == 422


def test_failure__shows_nothing_of_the_inside(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("secret inside")

    monkeypatch.setattr(session, "state", fail)
    answer = ask(session, "GET", "/api/state")
    assert answer.status_code == 500
    assert "secret" not in answer.text and "Traceback" not in answer.text


KINDS: list[tuple[str, str, dict[str, Any], set[int]]] = [
    ("GET", "/api/state", {}, {200}),
    ("GET", "/api/view?sort=changed", {}, {200}),
    ("GET", "/api/rows?ids=1&ids=7", {}, {200}),
    ("GET", "/api/rows?ids=5000", {}, {409}),
    ("GET", "/thumbnails/4", {}, {200}),
    ("GET", "/images/5", {}, {200}),
    ("GET", "/thumbnails/x", {}, {422}),
    ("POST", "/api/corrections", {"json": {"ids": [3, 4], "label": "kite"}}, {200}),
    ("POST", "/api/corrections", {"content": b"{", "headers": {"content-type": "a/b"}}, {422}),
    ("POST", "/api/undo", {}, {200, 409}),
    ("POST", "/predict?nearest=2", {"files": [("images", ("a.png", SQUARE))]}, {200}),
    ("POST", "/predict", {"files": [("images", ("a.png", b"broken"))]}, {200}),
    ("POST", "/predict", {"content": b"x" * 1000}, {422}),
    ("GET", "/nowhere", {}, {404}),
]
"""Method, path, content, status codes: good and bad requests of many clients."""


async def many(client: Client, clients: int, requests: int) -> int:
    """Clients that ask at the same time, each its own requests in its own order."""

    async def one(seed: int) -> int:
        draw = random.Random(seed)
        for method, path, more, expected in draw.choices(KINDS, k=requests):
            answer = await client.request(method, path, **more)
            assert answer.status_code in expected, (method, path, answer.text)
        return requests

    return sum(await asyncio.gather(*(one(seed) for seed in range(clients))))


def consistent(session: Session) -> None:
    """What is on disk is what is in memory, and undo walks back to the beginning."""
    from anyclass.review.corrections import Corrections

    again = Corrections(session.corrections.path)
    assert again.labels == session.corrections.labels
    again.close()
    while session.corrections.last() is not None:
        session.undo()
    assert len(session.corrections) == 0


def test_many_clients__at_the_same_time(session: Session) -> None:
    assert run_with(session, lambda client: many(client, 50, 4)) == 200
    consistent(session)


@pytest.mark.slow
def test_many_clients__for_a_while(session: Session) -> None:
    assert run_with(session, lambda client: many(client, 50, 60)) == 3000
    consistent(session)


def test_source__never_builds_markup_in_the_page() -> None:
    import anyclass.review.app as app

    script = (Path(app.__file__).parent / "page.js").read_text("utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in script
