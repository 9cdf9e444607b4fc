"""The page in a real browser: what fingers, keys and links do, in both languages, wide and narrow, light and dark."""

import base64
import io
import os
import re
import shutil
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from conftest import LANGUAGES
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from apps import i18n
from apps.vae_playground import HOME, SECTIONS
from pipelines import Problem, recipe

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # ms: torch may have to be loaded first, on a machine that trains at the same time
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
        left = "AbortError: signal is aborted" in message.text or "Connection errored out" in message.text
        if message.type == "error" and not left:
            self.wrong.append(message.text)

    def open(self, query: str = "", lang: str = "en"):
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


def is_open(page, section: str):
    expect(page.locator(".sections [role=tab][aria-selected=true]").first).to_be_visible()
    page.wait_for_function(
        "(name) => (new URLSearchParams(location.search).get('section') ?? 'plane') === name", arg=section
    )


# ---- the plane ------------------------------------------------------------------------------------------------------


def test_drag_the_point_and_the_picture_follows(en):
    page = en.open()
    first = source(page, "#decoded")
    assert first, "the first picture is there at once"
    page.mouse.move(*middle(page, "#plane canvas", 0.55, 0.7))
    page.mouse.down()
    page.mouse.move(*middle(page, "#plane canvas", 0.2, 0.3), steps=5)
    changes(page, "#decoded", first)
    page.mouse.up()
    # The bar says where the finger ended: at 20 % and 30 % of a square from -3 to 3.
    page.wait_for_function("() => Math.abs(new URLSearchParams(location.search).get('x') - -1.8) < 0.02")
    page.wait_for_function("() => Math.abs(new URLSearchParams(location.search).get('y') - 1.2) < 0.02")
    x, y = (float(en.query()[name]) for name in "xy")

    def shows_this_place():
        settings = recipe.read(picture(page, "#decoded")).settings
        return abs(settings["x"] - x) < 1e-6 and abs(settings["y"] - y) < 1e-6

    for _ in range(100):  # the last picture comes when the model has been loaded
        if shows_this_place():
            break
        changes(page, "#decoded", source(page, "#decoded"))
    assert shows_this_place()


def test_arrow_keys_move_the_point(en):
    page = en.open()
    first = source(page, "#decoded")
    page.locator("#plane canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    changes(page, "#decoded", first)
    says(page, x=f"{HOME[0] + 0.12:.2f}", y=f"{HOME[1] + 0.36:.2f}")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS", "the page did not scroll away or lose the focus"


def test_a_movement_right_after_opening_is_not_undone(en):
    """What the link asked for may still be computed when the first finger moves."""
    page = en.open("tab=vae_playground&x=0&y=0")
    page.locator("#plane canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowUp"):
        page.keyboard.press(key)
    says(page, x="0.12", y="0.36")
    page.wait_for_load_state("networkidle")
    says(page, x="0.12", y="0.36")
    expect(page.get_by_label(i18n.say("vae.plane.x", "en"))).to_have_value("0.12")


def test_numbers_and_the_grid_follow_too(en):
    page = en.open()
    first = source(page, "#decoded")
    page.get_by_label(i18n.say("vae.plane.x", "en")).fill("-2")
    page.keyboard.press("Tab")
    changes(page, "#decoded", first)
    before = page.locator("#plane canvas").screenshot()
    page.get_by_label(i18n.say("vae.plane.grid", "en")).check()
    says(page, grid="1")
    page.wait_for_function("() => document.querySelector('#plane .legend').children.length === 0")
    assert page.locator("#plane canvas").screenshot() != before


def test_the_model_picker_changes_the_plane(en):
    page = en.open()
    first, before = source(page, "#decoded"), page.locator("#plane canvas").screenshot()
    page.get_by_label(i18n.say("vae.model", "en")).click()
    page.get_by_role("option", name=i18n.say("models.vae-fashion-2d", "en")).click()
    changes(page, "#decoded", first)
    expect(page.locator("#plane .legend")).to_contain_text("T-shirt")
    assert page.locator("#plane canvas").screenshot() != before
    says(page, model="vae-fashion-2d")
    page.get_by_label(i18n.say("vae.model", "en")).click()
    page.get_by_role("option", name=i18n.say("models.vae-digits-16d", "en")).click()
    expect(page.get_by_label(i18n.say("vae.plane.across", "en"))).to_have_value("pc1")
    says(page, across="pc1")


def test_a_point_becomes_an_end_of_the_way(en):
    page = en.open("tab=vae_playground&x=0.6&y=-1.2")
    page.get_by_role("button", name=i18n.say("vae.plane.as_a", "en")).click()
    is_open(page, "interpolate")
    says(page, a="p:0.6:-1.2")


# ---- drawing --------------------------------------------------------------------------------------------------------


def draw(page, selector: str, *points: tuple[float, float]):
    page.mouse.move(*middle(page, selector, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*middle(page, selector, *point), steps=6)
    page.mouse.up()


def test_draw_a_digit_and_see_it_rebuilt(en):
    page = en.open("tab=vae_playground&section=reconstruct")
    changes(page, "#rebuilt", None)
    first = source(page, "#rebuilt")
    draw(page, "#draw canvas", (0.25, 0.2), (0.75, 0.2), (0.45, 0.85))
    changes(page, "#rebuilt", first)
    page.wait_for_function("() => (new URLSearchParams(location.search).get('input') ?? '').startsWith('s:')")
    expect(page.locator("#rebuilt img")).to_have_count(3)
    seen = np.asarray(Image.open(io.BytesIO(picture(page, "#rebuilt"))).convert("L"))
    assert seen[:168].mean() > 15 and (seen > 200).any(), "what was drawn is what the model sees"
    drawing = page.url

    page.locator("#draw [data-clear]").click()
    expect(page.locator("#draw .hint")).to_be_visible()

    page.goto(drawing)  # a drawing is in the link
    page.wait_for_selector("html[data-ready]", state="attached")
    changes(page, "#rebuilt", None)
    again = np.asarray(Image.open(io.BytesIO(picture(page, "#rebuilt"))).convert("L"))
    assert (seen == again).all()


def test_an_empty_drawing_is_one_sentence(en):
    page = en.open("tab=vae_playground&section=reconstruct&input=", "de")
    said = page.get_by_text(i18n.say("problems.empty_drawing", "de"))
    said.first.wait_for()
    page.wait_for_load_state("networkidle")
    expect(said).to_have_count(1)


def test_upload_a_picture_of_a_digit(en, tmp_path):
    page = en.open("tab=vae_playground&section=reconstruct")
    changes(page, "#rebuilt", None)
    first = source(page, "#rebuilt")
    paper = Image.new("L", (200, 260), 235)
    paper.paste(30, (95, 50, 110, 210))  # a one
    paper.save(tmp_path / "one.jpg")
    page.get_by_text(i18n.say("vae.reconstruct.upload", "en")).click()
    page.locator(".sections input[type=file]").first.set_input_files(tmp_path / "one.jpg")
    changes(page, "#rebuilt", first)
    page.wait_for_function("() => (new URLSearchParams(location.search).get('input') ?? '').startsWith('u:')")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_bad_upload_is_one_sentence_on_the_page(en, tmp_path, lang):
    page = en.open("tab=vae_playground&section=reconstruct", lang)
    changes(page, "#rebuilt", None)
    (tmp_path / "text.png").write_text("no picture")
    page.get_by_text(i18n.say("vae.reconstruct.upload", lang)).click()
    page.locator(".sections input[type=file]").first.set_input_files(tmp_path / "text.png")
    said = page.get_by_text(i18n.say("problems.picture_unreadable", lang))
    said.first.wait_for()
    expect(said).to_have_count(1)


# ---- links ----------------------------------------------------------------------------------------------------------


def test_a_link_opens_its_state(en):
    page = en.open("tab=vae_playground&section=sample&seed=7&count=4&temperature=0.5")
    is_open(page, "sample")
    changes(page, ".sections [role=tabpanel]:not([style*='none']) .figures", None)
    shown = page.locator(".figures img:visible").first.get_attribute("src")
    made = recipe.read(base64.b64decode(shown.partition(",")[2]))
    assert (made.seed, made.settings["count"], made.settings["temperature"]) == (7, 4, 0.5)


@pytest.mark.parametrize(
    "query",
    [
        "model=vae-digits-16d&across=z3&up=pc2&x=1.25&y=-0.5",
        "section=interpolate&a=7-b&b=p:1:-2&mode=slerp&frames=8",
        "section=reconstruct&input=3-a&noise=0.4&hole=0.3&seed=9",
        "section=arithmetic&plus=3-a,3-b&minus=2-c&add=5-b",
        "section=photo&sample=cat&bits=4&latent_noise=0.5&size=128",
        "section=compare&compare_seed=3",
    ],
)
def test_the_address_stays_what_it_was(en, query):
    """What a link says comes back out of the inputs, after all events of filling the page have fired."""
    page = en.open(f"tab=vae_playground&{query}")
    expected = {name: values[0] for name, values in parse_qs(f"tab=vae_playground&{query}&lang=en").items()}
    page.wait_for_load_state("networkidle")
    page.wait_for_function(
        "(expected) => { const now = new URLSearchParams(location.search); now.delete('__theme');"
        " return [...now].length === Object.keys(expected).length"
        " && Object.entries(expected).every(([k, v]) => now.get(k) === v); }",
        arg=expected,
    )


def test_the_address_bar_follows_the_inputs(en):
    page = en.open()
    entries = page.evaluate("history.length")
    page.get_by_role("tab", name=i18n.say("vae.sample.tab", "en")).click()
    is_open(page, "sample")
    page.get_by_role("spinbutton", name=i18n.say("shell.seed", "en")).locator("visible=true").first.fill("42")
    page.keyboard.press("Tab")
    says(page, seed="42")
    assert page.evaluate("history.length") == entries, "Back leaves the page instead of undoing a slider"
    page.get_by_role("tab", name=i18n.say("vae.plane.tab", "en")).click()
    is_open(page, "plane")
    assert en.query() == {"tab": "vae_playground", "seed": "42", "lang": "en"}


def test_share_a_link(visit):
    me, other = visit(permissions=["clipboard-read", "clipboard-write"]), visit()
    page = me.open("tab=vae_playground&x=-1.5&y=0.6&grid=1", "de")
    page.locator("#header [data-action=share]").click()
    expect(page.locator("dialog [data-qr] svg")).to_be_visible()
    box = page.locator("dialog [data-qr] svg").bounding_box()
    assert min(box["width"], box["height"]) >= 380, "it is read from the last row"
    page.locator("dialog [data-action=copy]").click()
    expect(page.locator("dialog [data-action=copy]")).to_have_text(i18n.say("shell.copied", "de"))
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.locator("dialog [data-link]").input_value() == page.url
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    there = other.open(urlsplit(link).query)
    assert {**other.query()} == {**me.query()}
    assert there.evaluate("document.documentElement.lang") == "de"
    expect(there.get_by_label(i18n.say("vae.plane.grid", "de"))).to_be_checked()
    expect(there.get_by_label(i18n.say("vae.plane.x", "de"))).to_have_value("-1.5")


def test_a_bad_link_shows_one_notice_and_opens(en):
    page = en.open("tab=vae_playground&x=1e9&y=0.6&colour=red")
    expect(page.locator(".notice")).to_have_count(1)
    told = page.locator(".notice").inner_text()
    assert i18n.sentence(Problem("out_of_range", name="x", value=1e9, low=-100.0, high=100.0), "en") in told
    expect(page.get_by_label(i18n.say("vae.plane.y", "en"))).to_have_value("0.6")
    page.locator(".notice button").click()
    expect(page.locator(".notice")).to_have_count(0)


def test_try_this_links_stay_on_the_page(en):
    page = en.open("tab=vae_playground&section=how", "de")
    links = page.locator(".how a[href^='?tab']:visible")
    expect(links).to_have_count(3)
    links.nth(1).click()
    page.wait_for_url("**section=reconstruct**")
    page.wait_for_selector("html[data-ready]", state="attached")
    is_open(page, "reconstruct")
    assert page.evaluate("document.documentElement.lang") == "de"
    assert page.evaluate("window.opener") is None and len(page.context.pages) == 1


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_a_saved_picture_opens_where_it_was_made(en, visit, tmp_path):
    page = en.open("tab=vae_playground&section=sample&seed=11&count=9&temperature=1.3")
    shown = page.locator(".figures img:visible").first
    shown.wait_for()
    with page.expect_download() as download:
        page.locator(".figures a.save:visible").first.click(force=True)
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.suffix == ".png" and recipe.read(file).seed == 11

    other = visit()
    there = other.open(lang="de")
    there.locator("#header input[type=file]").set_input_files(file)
    there.wait_for_url("**section=sample**")
    there.wait_for_selector("html[data-ready]", state="attached")
    is_open(there, "sample")
    there.locator(".figures img:visible").first.wait_for()
    data = there.locator(".figures img:visible").first.get_attribute("src").partition(",")[2]
    again = Image.open(io.BytesIO(base64.b64decode(data)))
    assert again.tobytes() == Image.open(file).tobytes()
    assert there.evaluate("document.documentElement.lang") == "de"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_picture_without_a_recipe_is_one_sentence(en, tmp_path, lang):
    page = en.open(lang=lang)
    Image.new("RGB", (8, 8)).save(tmp_path / "any.png")
    page.locator("#header input[type=file]").set_input_files(tmp_path / "any.png")
    expect(page.locator(".notice")).to_contain_text(i18n.say("problems.no_recipe", lang))


# ---- work -----------------------------------------------------------------------------------------------------------


def test_ctrl_enter_starts_and_escape_stops(en):
    page = en.open("tab=vae_playground&section=interpolate&frames=96")
    changes(page, ".sections .figures", None)
    visible = page.locator(".figures img:visible").first
    visible.wait_for()
    page.evaluate(  # remembers what the status line and the picture showed meanwhile
        """() => { window.seen = []; new MutationObserver(() => {
            const bar = [...document.querySelectorAll('.status progress')].find((n) => n.offsetParent);
            if (bar) window.seen.push(Number(bar.value));
        }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true}); }"""
    )
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => window.seen.length > 0")
    page.keyboard.press("Escape")
    page.wait_for_load_state("networkidle")
    page.wait_for_function("() => [...document.querySelectorAll('.figures img')].some((n) => n.offsetParent)")
    # The page goes on: the next run ends with an animation.
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.figures img[src^=\"data:image/webp\"]')].some((n) => n.offsetParent)"
        " && ![...document.querySelectorAll('.status progress')].some((n) => n.offsetParent)"
    )


def test_a_photo_goes_through_the_autoencoder_when_the_link_says_run(en):
    page = en.open("tab=vae_playground&section=photo&photo_model=local/tiny-photo&size=64&run=1")
    page.get_by_text(i18n.say("vae.photo.psnr", "en")).wait_for()
    assert page.locator("img:visible").count() == 6, "before, after, four channels"


def test_a_model_that_is_not_here_says_so(en):
    page = en.open("tab=vae_playground&section=photo&photo_model=taesd", "de")
    page.get_by_role("button", name=i18n.say("vae.photo.run", "de")).click()
    problem = i18n.sentence(Problem("offline_mode", model="taesd"), "de")
    expect(page.get_by_text(problem).locator("visible=true").first).to_be_visible()
    expect(page.get_by_text(i18n.say("vae.photo.psnr", "de"))).to_have_count(0)


# ---- looks ----------------------------------------------------------------------------------------------------------


def test_switch_the_language(en):
    page = en.open("tab=vae_playground&x=-1.5&section=sample")
    page.locator("#header [data-action=de]").click()
    page.wait_for_function("() => document.documentElement.lang === 'de' && document.documentElement.dataset.ready")
    is_open(page, "sample")
    assert en.query()["x"] == "-1.5", "the state comes along"
    expect(page.get_by_role("tab", name=i18n.say("vae.sample.tab", "de"))).to_be_visible()
    page.goto(en.site.url)  # remembered
    page.wait_for_selector("html[data-ready]", state="attached")
    assert page.evaluate("document.documentElement.lang") == "de"
    expect(page.locator("#header [data-action=de]")).to_have_attribute("aria-current", "true")


def test_the_browsers_language_counts(site, browser):
    with browser.new_context(locale="de-DE") as context:
        page = Visit(site, context).page
        page.goto(site.url)
        page.wait_for_selector("html[data-ready]", state="attached")
        assert page.evaluate("document.documentElement.lang") == "de"


def test_lecture_mode(en, shots):
    page = en.open()
    controls = page.get_by_label(i18n.say("vae.model", "en"))
    expect(controls).to_be_visible()
    before = page.locator("#plane canvas").bounding_box()["width"]
    page.locator("#header [data-action=lecture]").click()
    expect(controls).to_be_hidden()
    says(page, lecture="1")
    assert page.locator("#plane canvas").bounding_box()["width"] >= before
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.figures figcaption')).fontSize)")
    assert size >= 20
    assert overflow(page) == []
    page.screenshot(path=shots / "lecture.png")
    page.locator("#header [data-action=controls]").click()
    expect(controls).to_be_visible()
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    expect(controls).to_be_hidden()
    page.locator("#header [data-action=lecture]").click()
    expect(controls).to_be_visible()


def test_dark(en, shots):
    page = en.open("tab=vae_playground&grid=1")
    page.locator("#header [data-action=dark]").click()

    def luminance(name: str) -> float:
        """Of the page's upper right corner, where nothing is: 0 -> 1."""
        file = shots / f"{name}.png"
        page.screenshot(path=file)
        with Image.open(file) as shot:
            return np.asarray(shot.convert("L"))[2:8, -8:-2].mean() / 255

    assert luminance("dark") < 0.2
    ink = page.evaluate("getComputedStyle(document.querySelector('.wordmark')).color")
    assert sum(map(float, re.findall(r"[\d.]+", ink)[:3])) / 765 > 0.8
    assert en.query()["__theme"] == "dark"
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert luminance("dark-again") < 0.2
    page.locator("#header [data-action=dark]").click()
    assert luminance("light") > 0.9


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
                .flatMap((n) => ['title', 'aria-label', 'placeholder', 'alt'].map((name) => n.getAttribute(name))),
            ...[...document.querySelectorAll('input[role=listbox]')].map((n) => n.value)].join('\\n')"""
    )


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_section_fits_and_speaks_one_language(en, shots, lang):
    (other,) = (each for each in LANGUAGES if each != lang)
    foreign, wrong = only(other), {}
    page = en.open(lang=lang)
    for section in SECTIONS:
        if section != SECTIONS[0]:
            page.goto(f"{en.site.url}/?tab=vae_playground&section={section}&lang={lang}")
            page.wait_for_selector("html[data-ready]", state="attached")
        is_open(page, section)
        if section not in ("photo", "how"):
            page.wait_for_function("() => [...document.querySelectorAll('.figures img')].some((n) => n.offsetParent)")
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            page.evaluate("() => Promise.all([document.fonts.ready, new Promise(requestAnimationFrame)])")
            page.screenshot(path=shots / f"{section}-{lang}-{size['width']}.png", full_page=True)
            if found := overflow(page):
                wrong[f"{section} {size['width']}"] = found
        text = read(page)
        if strange := {word for word in WORD.findall(text) if word.lower() in foreign}:
            wrong[f"{section} speaks {other}"] = strange
        if lang == "en" and (umlauts := re.findall(r"\w*[äöüßÄÖÜ]\w*", text)):
            wrong[f"{section} umlauts"] = umlauts
        page.set_viewport_size(WIDE)
    assert wrong == {}


def test_the_page_is_usable_with_a_finger_on_a_narrow_screen(visit):
    narrow = visit(has_touch=True, is_mobile=True)
    narrow.page.set_viewport_size(NARROW)
    page = narrow.open()
    first = source(page, "#decoded")
    x, y = middle(page, "#plane canvas", 0.2, 0.2)
    page.touchscreen.tap(x, y)
    changes(page, "#decoded", first)
    small = page.evaluate(
        """() => [...document.querySelectorAll('#header button, .run, .stop, [role=tab]')].filter((n) => n.offsetParent)
            .filter((n) => n.getBoundingClientRect().height < 32).map((n) => n.textContent.trim())"""
    )
    assert small == [], "too small for a finger"


def test_nothing_of_this_reached_the_log(site):
    """gradio logs streams whose page has gone; what our code failed at is logged as `<function> failed`."""
    assert re.findall(r"^.*\bfailed$", site.log(), re.M) == []
