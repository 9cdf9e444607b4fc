"""One person's browser: what the tests of the page share."""

import base64
import os
import re
import shutil
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

LANGUAGES = ("de", "en")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # ms: torch may have to be loaded first, on a machine that trains at the same time
expect.set_options(timeout=PATIENCE)
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# Words of one language that the other's page must not show; taken from the files, so it follows them.
WORD = re.compile(r"[^\W\d_]{4,}")


@pytest.fixture(scope="module")
def browser():
    if not os.path.exists(CHROMIUM) and not os.environ.get("CI"):
        pytest.skip("there is no Chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    return tmp_path_factory.mktemp("screenshots")


class Visit:
    """One person's browser: opens pages, and remembers what nobody should see."""

    def __init__(self, site, context):
        self.site, self.page, self.wrong = site, context.new_page(), []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", self._asked)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.wrong.append(f"{error.message}\n{error.stack}"))
        self.page.on("response", lambda r: self.wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)

    def _asked(self, request):
        if (
            urlsplit(request.url).scheme in ("http", "https", "ws", "wss")
            and urlsplit(request.url).hostname != "127.0.0.1"
        ):
            self.wrong.append(f"a request to another host: {request.url}")

    def _said(self, message):
        # gradio says this of its open streams when the page is left for another one.
        left = "AbortError: " in message.text or "Connection errored out" in message.text
        if message.type == "error" and not left:
            self.wrong.append(message.text)

    def open(self, query: str, lang: str = "en"):
        lang = "" if "lang=" in query else f"lang={lang}"
        self.page.goto(f"{self.site.url}/?{'&'.join(filter(None, (query, lang)))}")
        self.page.wait_for_selector("html[data-ready]", state="attached")
        return self.page

    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.page.url).query).items()}


@pytest.fixture
def visit(site, browser):
    contexts = []

    def start(**options) -> Visit:
        contexts.append(browser.new_context(viewport=WIDE, locale="en-GB", **options))
        contexts[-1].visit = Visit(site, contexts[-1])
        return contexts[-1].visit

    yield start
    wrong = [text for context in contexts for text in context.visit.wrong]
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def en(visit):
    return visit()


def source(page, selector: str) -> str:
    """The picture that is shown there, as a data URL."""
    return page.locator(f"{selector} img").first.get_attribute("src")


def picture(page, selector: str) -> bytes:
    return base64.b64decode(source(page, selector).partition(",")[2])


def changes(page, selector: str, old: str | None):
    """Waits until another picture is there."""
    page.wait_for_function(
        "([selector, old]) => ![undefined, old].includes(document.querySelector(`${selector} img`)?.src)",
        arg=[selector, old],
    )


def says(page, **expected: str):
    """Waits until the address bar says so."""
    page.wait_for_function(
        "(expected) => { const now = new URLSearchParams(location.search);"
        " return Object.entries(expected).every(([name, text]) => now.get(name) === text); }",
        arg=expected,
    )


def middle(page, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
    page.locator(selector).first.scroll_into_view_if_needed()
    box = page.locator(selector).first.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def overflow(page) -> list[str]:
    """What is wider than the screen or than the box around it."""
    return page.evaluate(
        """() => {
            const found = [];
            const width = document.documentElement.scrollWidth;
            if (width > innerWidth) {
                const wide = [...document.body.querySelectorAll('*')].filter(
                    (n) => n.offsetParent && n.getBoundingClientRect().right > innerWidth + 1);
                const names = wide.slice(-3).map((n) => n.outerHTML.slice(0, 120));
                found.push(`page ${width} > ${innerWidth}: ${names.join(' | ')}`);
            }
            const texts = 'button, label, label span, figcaption, .title, .facts, .card, .notice, h2, h3';
            const inputs = '.katex-display, input[role=listbox], input[type=number]';
            for (const n of document.querySelectorAll(`${texts}, ${inputs}`)) {
                const scrolls = ['auto', 'scroll'].includes(getComputedStyle(n).overflowX);
                if (!n.offsetParent || !n.clientWidth || scrolls || n.closest('[aria-hidden=true], .thumbs')) continue;
                if (n.scrollWidth > n.clientWidth + 5)
                    found.push(`cut ${n.tagName} ${(n.value || n.textContent).trim().slice(0, 60)}`
                        + ` ${n.scrollWidth} > ${n.clientWidth}`);
            }
            return found;
        }"""
    )


def only(lang: str) -> set[str]:
    """Words (lower case) that stand in this language's file alone."""

    from apps import i18n  # imports gradio, which reads what conftest sets first

    def words(which: str) -> set[str]:
        return {word.lower() for text in i18n.texts(which).values() for word in WORD.findall(text)}

    (other,) = (each for each in LANGUAGES if each != lang)
    return words(lang) - words(other)


def read(page) -> str:
    """Everything that can be read on the page, or heard, or appears under the mouse; less gradio's own knobs."""
    return page.evaluate(
        """() => [document.title, document.body.innerText,
            ...[...document.querySelectorAll('[title], [aria-label], [placeholder], [alt]')]
                .filter((n) => n.offsetParent)
                .filter((n) => !n.closest('.overflow-menu, .slider_input_container, .head, .source-selection'))
                .filter((n) => !n.closest('.upload-container'))
                .flatMap((n) => ['title', 'aria-label', 'placeholder', 'alt'].map((name) => n.getAttribute(name))),
            ...[...document.querySelectorAll('input[role=listbox]')].map((n) => n.value)].join('\\n')"""
    )
