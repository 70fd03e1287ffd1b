"""The review page in headless Chromium, as a person uses it."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from anyclass.review.app import create_app
from anyclass.review.second_round import before_after
from anyclass.review.session import Session
from tests.conftest import SHAPES, draw_shape
from tests.review.conftest import HOSTILE_CLASS, HOSTILE_FILE, Reviewed

expect.set_options(timeout=30_000)  # a page answers late where all cores are busy

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
TOKEN = "page-token"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium of the system, without a download."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"Chromium does not start: {str(error)[:200]}")
        yield started
        started.close()


@pytest.fixture
def address(session: Session) -> Iterator[str]:
    """The address of a server of the session, on a free port."""
    app = create_app(session, TOKEN, ["127.0.0.1"])
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/?token={TOKEN}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def page(browser: Browser, address: str, session: Session) -> Iterator[Page]:
    """The page with its images; a dialog, an error or a request to elsewhere fails the test."""
    session.index.wait()
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    opened.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
    opened.on("pageerror", lambda error: wrong.append(f"error {error}"))
    opened.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    opened.on("request", lambda r: wrong.append(r.url) if elsewhere(r.url, address) else None)
    opened.goto(address)
    expect(opened.locator(".tile b").first).not_to_be_empty()
    yield opened
    context.close()
    assert [text for text in wrong if "favicon" not in text] == []


def elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address.split("?")[0], "blob:", "data:"))


def order_by(page: Page, order: str) -> None:
    page.select_option("#sort", order)
    expect(page.locator("#grid")).to_have_attribute("data-order", order)
    expect(page.locator(".tile b").first).not_to_be_empty()


def go_to(page: Page, file: str) -> None:
    """Choose an image by a click."""
    page.locator(f'.tile[title^="{file}"]').click()
    expect(page.locator("#file")).to_have_text(file)


def labels(session: Session) -> dict[str, str]:
    return dict(session.corrections.labels)


def eventually(what: Any, expected: Any) -> None:
    """Wait until `what()` is as expected: the page saves in the background."""
    for _ in range(300):
        if what() == expected:
            return
        time.sleep(0.02)
    assert what() == expected


def test_rank__stands_in_place_of_a_score_that_is_an_order_alone(
    page: Page, session: Session
) -> None:
    for ranked, words in ((0, r"[\d.]+ %"), (20, "rank 1")):
        session.catalogue.__dict__["ranked"] = ranked
        page.reload()
        order_by(page, "least_confident")
        predicted = page.locator('.tile[data-flag=""] .label span')
        expect(predicted.first).to_have_text(re.compile(f"^{words}$"))
    expect(page.locator("#facts")).to_contain_text("1 of 20, 1 is the least sure")
    expect(page.locator("#top .value").first).to_have_text("")


def test_token__is_taken_out_of_the_address(page: Page, address: str, browser: Browser) -> None:
    assert page.url == address.split("?")[0]
    stranger = browser.new_page()
    answer = stranger.goto(address.split("?")[0])
    assert answer is not None and answer.status == 401
    stranger.close()


def test_page__is_light_or_dark_as_the_screen_is(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    assert brightness(page, "color") < 60 < 230 < brightness(page, "backgroundColor")
    light = page.screenshot()
    page.emulate_media(color_scheme="dark")
    assert brightness(page, "backgroundColor") < 60 < 200 < brightness(page, "color")
    assert page.screenshot() != light


def brightness(page: Page, name: str) -> float:
    """Mean of red, green and blue of a colour of the body, 0 to 255."""
    colour = page.evaluate(f"getComputedStyle(document.body).{name}")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_keys__confirm_number_and_undo(page: Page, session: Session) -> None:
    order_by(page, "file_name")
    go_to(page, "kite-0.png")
    row = session.rows([session.catalogue.files.index("kite-0.png")])[0]
    page.keyboard.press("Enter")
    eventually(lambda: labels(session), {"kite-0.png": row["label"]})
    expect(page.locator("#file")).to_have_text("kite-1.png")  # on to the next one
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("2")
    eventually(lambda: labels(session), {"kite-0.png": row["top"][1]["label"]})
    page.keyboard.press("Control+z")
    eventually(lambda: labels(session), {"kite-0.png": row["label"]})
    page.locator("#undo").click()
    eventually(lambda: labels(session), {})
    expect(page.locator("#undo")).to_be_disabled()


def test_keys__type_ahead(page: Page, session: Session) -> None:
    order_by(page, "file_name")
    go_to(page, "kite-0.png")
    page.keyboard.type("squ")
    expect(page.locator("#matches li")).to_have_text(["red square", "new class: squ"])
    page.keyboard.press("Enter")
    eventually(lambda: labels(session), {"kite-0.png": "red square"})
    expect(page.locator("#status")).to_have_text("1 image: red square")  # the page knows it too
    page.keyboard.type("Bück dich")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("There is no such class")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    eventually(lambda: labels(session).get("kite-1.png"), "Bück dich")
    expect(page.locator("#classes", has_text="Bück dich")).to_be_visible()
    page.keyboard.type("x")
    page.keyboard.press("Escape")
    assert len(labels(session)) == 2
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Delete")
    eventually(lambda: list(labels(session)), ["kite-0.png"])


def test_selection__with_shift_and_control(page: Page, session: Session) -> None:
    order_by(page, "file_name")
    go_to(page, "kite-0.png")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.locator('.tile[title^="disc-1.png"]').click(modifiers=["Control"])
    expect(page.locator("#position")).to_contain_text("4 selected")
    page.keyboard.type("discovered 1")
    page.keyboard.press("Enter")
    expected = dict.fromkeys(
        ("kite-0.png", "kite-1.png", "kite-2.png", "disc-1.png"), "discovered 1"
    )
    eventually(lambda: labels(session), expected)
    page.keyboard.press("Control+z")
    eventually(lambda: labels(session), {})
    page.keyboard.press("Control+a")
    expect(page.locator("#position")).to_contain_text("29 selected")
    page.keyboard.press("Escape")
    expect(page.locator("#position")).not_to_contain_text("selected")


def test_names__are_never_markup(page: Page, session: Session) -> None:
    order_by(page, "file_name")
    tile = page.locator(".tile").first
    expect(tile).to_have_attribute(
        "aria-label", f"{session.catalogue.label(0, {}) or ''}, {HOSTILE_FILE}".lstrip()
    )
    tile.click()
    expect(page.locator("#file")).to_have_text(HOSTILE_FILE)
    page.keyboard.type('">')
    expect(page.locator("#matches li").first).to_have_text(HOSTILE_CLASS)
    page.keyboard.press("Enter")
    eventually(lambda: labels(session), {HOSTILE_FILE: HOSTILE_CLASS})
    page.locator("#classes button", has_text=HOSTILE_CLASS).click()
    expect(page.locator(".tile b").first).to_have_text(HOSTILE_CLASS)
    assert page.locator("body script, body img[src='x']").count() == 0


ATTACK = "'\"></option></b><img src=x onerror=alert(3)><script>alert(4)</script>\\"


def hostile(value: Any) -> Any:
    """A value with an attack behind every text that is not a word of the protocol."""
    if isinstance(value, dict):
        return {key: item if key in WORDS else hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return f"{value} {ATTACK}" if isinstance(value, str) else value


WORDS = {"kind", "status", "state", "model"}
"""Fields with a fixed set of values; a message in `model` would make the page wait."""


@pytest.mark.slow
def test_texts__of_every_view_are_never_markup(
    page: Page, session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    texts = ("state", "rows", "result", "undo")
    for name in texts:
        real = getattr(session, name)
        changed = lambda *a, real=real: hostile(real(*a))  # noqa: E731
        monkeypatch.setattr(session, name, changed)
    rows = session.rows
    every = {"opinion": ATTACK, "zero_shot_label": ATTACK, "runner_up": ATTACK, "suspicious": True}
    monkeypatch.setattr(session, "rows", lambda ids: [row | every for row in rows(ids)])
    state = session.state
    about = {"suggested": ATTACK, "hint": ATTACK, "kind": "unknown"}
    monkeypatch.setattr(
        session, "state", lambda: state() | {"classes": [c | about for c in state()["classes"]]}
    )
    page.reload()
    expect(page.locator("h1")).to_contain_text(ATTACK)
    for order in ("suspicious", "changed", "most_confident", "file_name"):
        page.select_option("#sort", order)
        expect(page.locator("#grid")).to_have_attribute("data-order", order)
    expect(page.locator(".tile b").first).to_contain_text("alert(4)")
    page.locator(".tile").nth(2).click()
    expect(page.locator("#facts")).to_contain_text(ATTACK)
    page.locator("#classes button", has_text="discovered 1").click()
    expect(page.locator("#class-hint")).to_contain_text(ATTACK)
    for tool in ("rename", "merge", "split", "reject"):
        page.locator(f"#{tool}").click()
        expect(page.locator("#dialog-title")).to_contain_text("alert(3)")
        page.locator("#dialog-buttons button", has_text="Cancel").click()
    page.locator("#rename").click()
    page.locator("#dialog input").fill(ATTACK)
    page.locator("#dialog-buttons .primary").click()
    expect(page.locator("#undo")).to_have_attribute("title", re.compile("Undo: .*alert"))
    page.locator("#undo").click()
    expect(page.locator("#status")).to_contain_text("Undone")
    expect(page.locator("#position")).to_have_text("1 of 29")  # letters are for images on the page
    page.keyboard.type("disc")
    expect(page.locator("#matches li").first).to_contain_text("alert(3)")
    page.keyboard.press("Escape")
    found = hostile(before_after(session.catalogue.run, session.catalogue.run))
    page.evaluate("(found) => { ask = async () => found; return showComparison(); }", found)
    expect(page.locator("#dialog-title")).to_have_text("Before and after")
    inside = "body script, img[src='x'], [onerror], [onclick]"
    assert page.locator(inside).count() == 0


def test_orders__and_classes(page: Page, session: Session) -> None:
    for order in ("least_confident", "most_confident", "changed", "suspicious"):
        rows = session.view(order, None, "all")  # type: ignore[arg-type]
        order_by(page, order)
        expect(page.locator("#position")).to_have_text(f"1 of {len(rows)}" if rows else "")
        if rows:
            title = f"{session.catalogue.files[rows[0]]}\n{session.catalogue.label(rows[0], {})}"
            expect(page.locator("#tile-0")).to_have_attribute("title", title)
    page.select_option("#sort", "useful")
    found = session.useful(60)
    expect(page.locator("#position")).to_have_text(f"1 of {len(found)}")
    page.select_option("#sort", "file_name")
    page.select_option("#show", "checked")
    expect(page.locator("#empty")).to_be_visible()


def test_discovered_classes__are_renamed_merged_split_rejected(
    page: Page, session: Session, edits: list[dict[str, Any]]
) -> None:
    page.locator("#classes button", has_text="discovered 1").click()
    page.locator("#rename").click()
    page.locator("#dialog input").fill("kite")
    page.keyboard.press("Enter")
    eventually(lambda: [edit["rename"] for edit in edits], [{"discovered 1": "kite"}])
    expect(page.locator("#status")).to_contain_text("Done")
    page.locator("#classes button", has_text="discovered 1").click()
    page.locator("#merge").click()
    page.locator("#dialog input").fill("discovered 2")
    page.locator("#dialog-buttons button", has_text="Merge").click()
    eventually(lambda: [edit["merge"] for edit in edits][1:], [[("discovered 2", "discovered 1")]])
    expect(page.locator("#classes [aria-current=true]")).to_contain_text("discovered 2")
    for name in ("split", "reject"):
        page.locator("#classes button", has_text="discovered 2").click()
        page.locator(f"#{name}").click()
        page.locator("#dialog-buttons .primary").click()
        eventually(lambda name=name: edits[-1][name], ["discovered 2"])
        expect(page.locator("#status")).to_contain_text("Done")
    page.locator("#classes button", has_text="red square").click()
    expect(page.locator("#class-tools")).to_be_hidden()


def test_new_images__are_chosen_and_dropped(page: Page, tmp_path: Path) -> None:
    draw_shape(SHAPES["red square"], 2).save(tmp_path / HOSTILE_FILE)
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#files", [tmp_path / HOSTILE_FILE, tmp_path / "text.png"])
    results = page.locator(".result")
    expect(results).to_have_count(2)
    expect(results.nth(0).locator(".bars li")).to_have_count(4)
    expect(results.nth(0).locator(".near figure")).to_have_count(12)
    expect(results.nth(0).locator(".near img").first).to_have_attribute("alt", "square-2.png")
    expect(results.nth(0).locator("> img")).to_have_count(1)
    expect(results.nth(1)).to_contain_text("Not readable")
    expect(results.nth(1).locator("> .none")).to_have_text("no preview in this browser")
    close = page.get_by_role("button", name="Close")
    expect(close).to_be_focused()
    close.click()
    drop_image(page)
    expect(page.locator(".result", has_text="dropped.png")).to_have_count(1)


def test_page__nothing_lies_over_anything_else(page: Page) -> None:
    for width in (400, 700, 1000, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for bar in (".toolbar", "header"):
            check_boxes(page, bar, width)


def check_boxes(page: Page, bar: str, width: int) -> None:
    """What a bar of the page holds lies within the page, and each in its own place."""
    boxes = page.locator(bar).evaluate(
        """bar => [...bar.querySelectorAll("select, input, span, button, a, h1, p")]
            .map(one => one.getBoundingClientRect()).filter(box => box.width)
            .map(box => [box.left, box.top, box.right, box.bottom])"""
    )
    assert len(boxes) > 3
    for i, a in enumerate(boxes):
        assert 0 <= a[0] and a[2] <= width, (bar, width, a)
        for b in boxes[:i]:
            apart = a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
            assert apart, (bar, width, a, b)


def drop_image(page: Page) -> None:
    """Drop an image on the page."""
    page.evaluate(
        """async () => {
            const canvas = document.createElement("canvas");
            canvas.width = 40; canvas.height = 30;
            const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
            const data = new DataTransfer();
            data.items.add(new File([blob], "dropped.png", { type: "image/png" }));
            dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }"""
    )


def test_training__again(
    page: Page, session: Session, reviewed: Reviewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """if True:
        import shutil, sys, time
        print("training: 2 of 3", file=sys.stderr, flush=True)
        time.sleep({seconds})
        shutil.copytree({run!r}, sys.argv[-1])
    """
    endless = code.format(seconds=600, run=str(reviewed.run))
    monkeypatch.setattr("anyclass.review.training._CODE", endless)
    expect(page.locator("#train")).to_be_disabled()
    page.keyboard.press("Enter")
    page.locator("#train").click()
    expect(page.locator("#training-line")).to_have_text("training: 2 of 3")
    page.locator("#training-cancel").click()
    expect(page.locator("#training-line")).to_have_text("Training was cancelled")
    short = code.format(seconds=0, run=str(reviewed.run))
    monkeypatch.setattr("anyclass.review.training._CODE", short)
    page.locator("#train").click()
    expect(page.locator("#dialog-title")).to_have_text("Before and after")
    expect(page.locator("#dialog table")).to_contain_text("Mean score")
    page.locator("#dialog-buttons .primary").click()
    expect(page.locator("h1")).to_have_text("run_2")
    expect(page.locator(".tile b").first).not_to_be_empty()
    assert session.catalogue.run.name == "run_2"


def test_page__shows_what_is_wrong(page: Page, session: Session) -> None:
    answer = json.dumps({"detail": "the disk is full"})
    page.evaluate(
        """(answer) => {
            const usual = window.fetch;
            window.fetch = (path, options) =>
                path === "api/corrections"
                    ? Promise.resolve(new Response(answer, { status: 409 }))
                    : usual(path, options);
        }""",
        answer,
    )
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("the disk is full")
    expect(page.locator(".tile .flag", has_text="yours")).to_have_count(0)
    assert labels(session) == {}
