"""The page in a real browser: by keyboard, on a phone, in two tabs, through reloads and a server that was killed.

Needs a Chromium: that of the system, or the one in $CHROMIUM; skipped where there is none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfusion_core.labelling.pictures import png
from dfusion_core.labelling.server import LabelServer
from dfusion_core.labelling.serving import served
from dfusion_core.labelling.session import Session
from dfusion_core.labels.answers import FIRST, SKIP, TIE, read_answers
from dfusion_core.labels.asking import Informative
from dfusion_core.labels.content import content_hash

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium, or set $CHROMIUM")

HOSTILE = "<script>document.title='hurt'</script><b>bold</b> & \"quoted\""
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
Serve = Callable[..., AbstractContextManager[LabelServer]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def serve(workspace: Path) -> Serve:
    """Starts a server of the same session, with the file that is there."""
    rng = np.random.default_rng(0)
    pictures = {}
    for prompt in ("a red heart above a blue star", HOSTILE):
        for one in rng.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8):
            pictures[content_hash(one)] = (prompt, one)
    groups: dict[str, list[str]] = {}
    for name, (prompt, _) in pictures.items():
        groups.setdefault(prompt, []).append(name)
    prompts = {name: prompt for name, (prompt, _) in pictures.items()}

    def start(port: int = 0) -> AbstractContextManager[LabelServer]:
        asker = Informative(groups, seed=0)
        session = Session(Path("labels/r00.csv"), asker, prompts, "dfusion label r00", orders=True)
        return served(session, lambda name: png(pictures[name][1]) if name in pictures else None, port=port)

    return start


def begin(page: Any, server: LabelServer, name: str = "ann", kind: str = "pair") -> Any:
    page.goto(server.address)
    page.fill("#name", name)
    page.check(f"input[value={kind}]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#work:not([hidden])")
    return page


def until(page: Any, condition: str) -> None:
    """Wait until an expression holds. Playwright's own waiting evaluates texts, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {condition}")


def wait_for(page: Any, count: int) -> None:
    until(page, f"document.getElementById('count').textContent.startsWith('{count} of ')")


def test_twenty_pairs_by_keyboard_undo_and_reload(browser: Any, serve: Serve) -> None:
    with serve() as server:
        page = begin(browser.new_page(viewport=DESKTOP), server)
        keys = ["1", "2", "="] * 7
        for number, key in enumerate(keys[:20], 1):
            page.keyboard.press(key)
            wait_for(page, number)
            if number == 10:
                page.reload()
                page.wait_for_selector("#work:not([hidden])")
                wait_for(page, 10)
        answers = read_answers(server.session.file)
        assert [one.answer for one in answers] == [{"1": "first", "2": "second", "=": "tie"}[key] for key in keys[:20]]
        assert sum(one.repeat for one in answers) >= 1
        last = page.eval_on_selector_all("#pair img", "images => images.map(one => one.src)")
        page.keyboard.press("u")
        wait_for(page, 19)
        shown = page.eval_on_selector_all("#pair img", "images => images.map(one => one.src)")
        assert shown != last and answers[-1].first in shown[0] and answers[-1].second in shown[1]
        page.keyboard.press("s")
        until(
            page,
            f"!document.getElementById('first').src.includes('{answers[-1].first}')"
            f" || !document.getElementById('second').src.includes('{answers[-1].second}')",
        )
        assert read_answers(server.session.file)[-1].answer == SKIP


def test_it_is_usable_by_name_and_role_alone(browser: Any, serve: Serve) -> None:
    """What a screen reader finds: headings, buttons with names, a status that is read out."""
    with serve() as server:
        page = begin(browser.new_page(), server)
        assert page.get_by_role("heading", level=1).last.is_visible()
        assert page.evaluate("document.activeElement.id") == "prompt"
        page.get_by_role("button", name="second is better").click()
        wait_for(page, 1)
        assert "1 of" in page.locator("[aria-live=polite]").text_content()
        page.get_by_role("button", name="Equally good").click()
        wait_for(page, 2)
        assert [one.answer for one in read_answers(server.session.file)] == ["second", TIE]
        page.keyboard.press("z")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        assert not page.get_by_role("dialog").is_visible()


def test_a_row_is_ordered_by_tapping_and_by_keys(browser: Any, serve: Serve) -> None:
    with serve() as server:
        page = begin(browser.new_page(viewport=PHONE, has_touch=True), server, kind="order")
        wanted = page.eval_on_selector_all("#row li", "items => items.map(one => one.dataset.hash)")[::-1]
        for name in wanted:
            page.locator(f"#row li[data-hash='{name}']").tap()
        page.get_by_role("button", name="Save this order").click()
        wait_for(page, len(wanted) - 1)
        lines = read_answers(server.session.file)
        assert [lines[0].first, *(one.second for one in lines)] == wanted
        items = page.eval_on_selector_all("#row li", "items => items.map(one => one.dataset.hash)")
        page.locator("#row li").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        wait_for(page, 2 * (len(wanted) - 1))
        lines = read_answers(server.session.file)[len(wanted) - 1 :]
        assert [lines[0].first, lines[0].second] == [items[1], items[0]]


def test_a_row_is_ordered_by_dragging(browser: Any, serve: Serve) -> None:
    with serve() as server:
        page = begin(browser.new_page(viewport=DESKTOP), server, kind="order")
        items = page.eval_on_selector_all("#row li", "items => items.map(one => one.dataset.hash)")
        boxes = [item.bounding_box() for item in page.query_selector_all("#row li")]
        middle = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
        page.mouse.move(*middle[0])
        page.mouse.down()
        page.mouse.move(*middle[2], steps=8)
        page.mouse.up()
        found = page.eval_on_selector_all("#row li", "items => items.map(one => one.dataset.hash)")
        assert found == [items[1], items[2], items[0], *items[3:]]


def test_two_tabs_lose_nothing(browser: Any, serve: Serve) -> None:
    with serve() as server:
        context = browser.new_context()
        first, second = (begin(context.new_page(), server) for _ in range(2))
        for number in range(3):
            first.keyboard.press("1")
            second.keyboard.press("2")
            wait_for(second, 2 * number + 2) if number == 2 else second.wait_for_timeout(150)
        assert len(read_answers(server.session.file)) == 6


def test_a_server_that_was_killed_and_started_again(browser: Any, serve: Serve) -> None:
    page = browser.new_page()
    with serve() as server:
        port = server.server_address[1]
        begin(page, server)
        page.keyboard.press("1")
        wait_for(page, 1)
    page.keyboard.press("2")  # nobody is there
    until(page, "document.getElementById('trouble').textContent.includes('does not answer')")
    with serve(port) as server:
        wait_for(page, 2)
        assert [one.answer for one in read_answers(server.session.file)] == [FIRST, "second"]
        assert page.locator("#trouble").text_content() == ""


def test_a_prompt_is_text_and_a_wrong_token_is_refused(browser: Any, serve: Serve) -> None:
    with serve() as server:
        page = begin(browser.new_page(), server)
        for number in range(1, 9):  # the second prompt comes after a block of answers
            page.keyboard.press("1")
            wait_for(page, number)
            if page.locator("#prompt").text_content() == HOSTILE:
                break
        assert page.locator("#prompt").text_content() == HOSTILE and page.locator("#prompt *").count() == 0
        assert page.title() == "dfusion label r00"
        answer = browser.new_page().goto(server.address.replace(server.token, "wrong"))
        assert answer.status == 403


def test_another_page_can_neither_read_nor_answer(browser: Any, serve: Serve) -> None:
    with serve() as server, serve() as other:
        page = browser.new_page()
        page.goto(other.address)  # another origin: another port
        base = server.address.split("/?")[0]
        status = page.evaluate(
            "([url, token]) => fetch(url + '/next', {method: 'POST', body: '{\"labeller\": \"x\"}', headers: "
            "{'Content-Type': 'application/json', 'X-Token': token}}).then(a => a.status, () => 'refused')",
            [base, server.token],
        )
        assert status == "refused"
        sent = page.request.post(
            f"{base}/next", data={"labeller": "x"}, headers={"X-Token": server.token, "Origin": "http://evil.example"}
        )
        assert sent.status == 403


@pytest.mark.few(2)
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("kind", ["pair", "order"])
def test_everything_fits_the_screen(browser: Any, serve: Serve, size: dict[str, int], kind: str) -> None:
    with serve() as server:
        page = begin(browser.new_page(viewport=size, color_scheme="light"), server, kind=kind)
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        button = page.locator("#undo").bounding_box()
        assert button and button["y"] + button["height"] <= size["height"] and button["height"] >= 44
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=str(Path(folder) / f"label-{kind}-{size['width']}.png"))
