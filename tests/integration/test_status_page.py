"""The status page in a real browser, of a real service that predicts the demo's sequences.

It needs `pip install playwright` and a Chromium (`apt install chromium`, or its path in `CHROMIUM`). With
`SCREENSHOTS=FOLDER` it keeps pictures of the page there.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import SequenceRecord, encode_record
from tests.support.harness import Serve, produce, serving, wait_until
from virnucpro_core.sequence.records import parse_records

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

SAMPLE = Path(__file__).parents[2] / "consumer" / "data" / "sample.fasta"
EVIL = "<img src=x onerror=alert(1)>"
WIDE, PHONE = {"width": 1400, "height": 1000}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A service that has answered every record of the sample, and some that are none."""
    log = tmp_path_factory.mktemp("status") / "serve.log"
    variables = {"VIRNUCPRO_GROUP_ID": "virnucpro-demo", "VIRNUCPRO_INSTANCE_ID": "gpu-0"}
    rounds = 1
    if os.environ.get("SCREENSHOTS"):
        # So that pictures have a history to show, of a device that computes: the sample comes again and again.
        rounds, variables["VIRNUCPRO_FRAME_CACHE"] = 17, "0"
    with serving(log, **variables) as serve:
        records = sample()
        produce(serve.bootstrap, [{"value": b"junk"}] * 3)
        for number in range(rounds):
            produce(serve.bootstrap, ({"value": encode_record(record)} for record in records))
            time.sleep(5 if number else 0)
        wait_for_predictions(serve, rounds * len(records))
        produce(serve.bootstrap, [{"value": encode_record(SequenceRecord(EVIL, records[0].sequence))}])
        wait_for_predictions(serve, rounds * len(records) + 1)
        yield serve


def sample() -> list[SequenceRecord]:
    with SAMPLE.open("rb") as file:
        return [SequenceRecord(header, sequence) for header, sequence in parse_records(file)]


def wait_for_predictions(serve: Serve, count: int) -> None:
    wait_until(lambda: serve.metric("vnp_records_total", outcome="predicted") == count, f"{count} predicted")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, serve: Serve) -> Iterator[Any]:
    """Opens the page; at the end nothing may have gone wrong in it, and nothing may have been asked of another host."""
    contexts, wrong = [], []

    def open_page(viewport: dict[str, int] = WIDE, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append("a dialog: a record's id was run"))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((serve.http, "data:")) else wrong.append(request.url)
            ),
        )
        page.goto(serve.http)
        sync_api.expect(page.locator("#state")).to_contain_text("ready")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def keep(page: Any, serve: Serve, name: str) -> None:
    """Take a picture of a service that works, if pictures are wanted."""
    if folder := os.environ.get("SCREENSHOTS"):
        produce(serve.bootstrap, ({"value": encode_record(record)} for record in sample()))
        page.wait_for_timeout(6000)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_it_shows_what_runs_and_how_it_does(open_page, serve):
    page = open_page()
    text = page.locator("main").inner_text()
    for expected in ("nano", "fp32", "packed", "predicted: virus", "dead letter: malformed", "sequences/0"):
        assert expected in text
    assert page.locator("#latest tr").first.inner_text().split("\t")[1] == EVIL, "as text"
    assert page.locator("#threads tr").count() >= 6
    assert page.locator("#charts svg").count() == 6
    keep(page, serve, "light")


def test_it_goes_on_without_a_reload(open_page, serve):
    page = open_page()
    before = int(page.locator("#answers tr", has_text="malformed").locator("td").last.inner_text())
    produce(serve.bootstrap, [{"value": b"junk"}])
    sync_api.expect(page.locator("#answers tr", has_text="malformed").locator("td").last).to_have_text(
        str(before + 1), timeout=15_000
    )


@pytest.mark.parametrize(
    ("viewport", "scheme", "name"),
    [
        (WIDE, "dark", "dark"),
        (PHONE, "light", "phone"),
        ({"width": 2560, "height": 1200}, "light", ""),
    ],
)
def test_it_fits_the_screen_and_the_scheme(open_page, serve, viewport, scheme, name):
    page = open_page(viewport, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], "no sideways scrolling"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(n) for n in ground[4:-1].split(",")) < 384) == (scheme == "dark")
    verdict = page.locator("#latest tr").first.locator("td").nth(2)
    assert verdict.inner_text() in ("virus", "others", "no open frame")
    box = verdict.bounding_box()
    assert box["x"] + box["width"] <= viewport["width"], "the verdict is seen without scrolling sideways"
    if name:
        keep(page, serve, name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(open_page, scheme):
    page = open_page(scheme=scheme)
    low = page.evaluate(
        """() => {
          const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
          const light = (rgb) => { const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(channel);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
          const ground = (e) => { for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } };
          return [...document.querySelectorAll('body *')]
            .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
            .filter((e) => e.checkVisibility())
            .map((e) => { const [a, b] = [getComputedStyle(e).color, ground(e)].map(light);
              return [e.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; })
            .filter(([, ratio]) => ratio < 4.5);
        }"""
    )
    assert low == []


def test_by_keyboard_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "pause"
    page.keyboard.press("Enter")
    assert page.locator("#pause").inner_text() == "Resume updates"
    stopped = page.locator("#when").inner_text()
    page.wait_for_timeout(4500)
    assert page.locator("#when").inner_text() == stopped
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#when")).not_to_have_text(stopped, timeout=10_000)
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    assert "VIRNUCPRO_GROUP_ID" in page.locator("#settings").inner_text()


def test_for_a_screen_reader(open_page):
    page = open_page()
    names = [section.get_attribute("aria-labelledby") for section in page.locator("section").all()]
    assert all(page.locator(f"#{name}").count() == 1 for name in names)
    for chart in page.locator("#charts svg").all():
        assert chart.get_attribute("role") == "img"
        assert "over the last" in chart.get_attribute("aria-label")
    said = page.locator("#said").inner_text()
    assert said == "Service: ready"
    page.wait_for_timeout(4500)
    assert page.locator("#said").inner_text() == said, "an update that changes nothing is not read out"


def test_a_service_that_is_gone_is_said_so(browser, tmp_path):
    with serving(tmp_path / "serve.log") as serve:
        page = browser.new_page()
        page.goto(serve.http)
        sync_api.expect(page.locator("#state")).to_contain_text("ready")
        assert serve.stop() == 0
        sync_api.expect(page.locator("#state")).to_contain_text("no answer", timeout=15_000)
        assert "does not answer" in page.locator("#said").inner_text()
        page.close()
