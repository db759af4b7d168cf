"""The report as a browser has it: no noise, nothing fetched, all by keyboard, on a telephone, in print.

It needs Chromium and no services.
"""

import base64
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.chromium import Browser, chromium
from tests.release.swept import Left, leave
from ttl.release.report import write_report

REACHABLE = """
[...document.querySelectorAll('a[href], summary, [tabindex="0"]')].filter(
  one => !one.closest('details:not([open])') || one.matches('details:not([open]) > summary'))
"""

FOCUSED = """
(() => { const one = document.activeElement, box = one.getBoundingClientRect(), style = getComputedStyle(one);
  return {place: reachable.indexOf(one), seen: box.bottom > 0 && box.top < innerHeight && box.right > 0,
          outline: style.outlineStyle != 'none' && parseFloat(style.outlineWidth) >= 2}; })()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it: a race, several classes' figures, pictures, a failure."""
    root = tmp_path_factory.mktemp("films")
    layout = leave(root, Left(packed=True, raced=True, failed=True, seeds=2))
    return write_report(layout, root / "reports")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here."""
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, page: Path) -> Browser:
    """The browser, at the page as it is first seen."""
    started.look()
    started.open(page)
    return started


def test_it_is_quiet_and_fetches_nothing(browser: Browser, page: Path) -> None:
    assert browser.told("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []
    asked = [one["request"]["url"] for one in browser.told("Network.requestWillBeSent")]
    assert [one for one in asked if not one.startswith("data:")] == [page.as_uri()]
    assert browser.run("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert browser.run("document.images.length") > 2


def test_the_keyboard_reaches_every_part_in_order_and_one_sees_where_one_is(browser: Browser) -> None:
    count = browser.run(f"(window.reachable = {REACHABLE}).length")
    assert count > 10
    places = []
    for _ in range(count):
        browser.press("Tab")
        found = browser.run(FOCUSED)
        assert found["seen"], f"element {found['place']} has the focus, and is not in the window"
        assert found["outline"], f"element {found['place']} does not show its focus"
        places.append(found["place"])
    assert places == list(range(count))


def test_keys_skip_to_the_results_and_open_what_is_folded(browser: Browser) -> None:
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Skip to the results"
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "main"
    folded = "document.querySelector('details:not([open])')"
    browser.run(f"window.folded = {folded}; folded.querySelector('summary').focus()")
    assert browser.run("folded.open") is False
    browser.press("Enter")
    assert browser.run("folded.open") is True
    assert browser.run("folded.querySelector('svg').getBoundingClientRect().height") > 100


def test_who_hears_the_page_hears_what_each_figure_is(browser: Browser) -> None:
    nodes = [one for one in browser.ask("Accessibility.getFullAXTree")["nodes"] if not one.get("ignored")]
    roles = ("image", "table", "heading")
    of = {role: [one for one in nodes if one["role"]["value"] == role] for role in roles}
    assert len(of["image"]) > 8
    for role, found in of.items():
        assert all(one["name"]["value"].strip() for one in found), role
    assert any("ROC curve of <ill>" in one["name"]["value"] for one in of["image"])


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_only_wide_tables_scroll_sideways(browser: Browser, width: int) -> None:
    browser.look(width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_print_has_everything_on_white_paper(browser: Browser) -> None:
    browser.look(dark=True)
    colour = "getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
    assert browser.run(colour) == "rgb(21, 24, 28)rgb(232, 235, 239)"
    browser.look(dark=True, media="print")
    assert browser.run("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    folded = "document.querySelector('details:not([open]) svg').getBoundingClientRect().height"
    assert browser.run(folded) > 100
    assert browser.run("document.querySelector('nav').getBoundingClientRect().height") == 0
    inside = "[...document.querySelectorAll('figure, tr')].map(one => getComputedStyle(one).breakInside)"
    assert set(browser.run(inside)) == {"avoid"}


def test_it_prints_to_several_pages_and_none_is_blank(browser: Browser) -> None:
    browser.look(dark=True)
    printed = base64.b64decode(browser.ask("Page.printToPDF", printBackground=True)["data"])
    pages = written(printed)
    assert len(pages) >= 3
    assert all(words > 20 for words in pages), pages


def written(document: bytes) -> list[int]:
    """Return, of each page of a PDF of Chromium's, how many pieces of text it has."""
    objects = dict(re.findall(rb"(\d+) 0 obj\n(.*?)endobj", document, re.DOTALL))
    found = []
    for body in objects.values():
        if not re.search(rb"/Type /Page\b(?!s)", body):
            continue
        (number,) = re.findall(rb"/Contents (\d+) 0 R", body)
        stream = re.search(rb"stream\r?\n(.*?)\r?\nendstream", objects[number], re.DOTALL)
        assert stream
        found.append(len(re.findall(rb"T[jJ]\b", zlib.decompress(stream[1]))))
    return found
