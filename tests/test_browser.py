"""The page in a real browser: what fingers, keys and links do, in both languages, wide and narrow, light and dark."""

import base64
import importlib
import io
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from conftest import LANGUAGES
from PIL import Image
from playwright.sync_api import expect
from visiting import NARROW, WIDE, WORD, Visit, changes, middle, only, overflow, picture, read, says, source

from apps import i18n, shell
from apps.vae_playground import HOME
from pipelines import Problem, recipe


def is_open(page, section: str, first: str = "plane"):
    expect(page.locator(".sections [role=tab][aria-selected=true]").filter(visible=True).first).to_be_visible()
    page.wait_for_function(
        "([name, first]) => (new URLSearchParams(location.search).get('section') ?? first) === name",
        arg=[section, first],
    )


# ---- the plane ------------------------------------------------------------------------------------------------------


def test_drag_the_point_and_the_picture_follows(en):
    page = en.open("tab=vae_playground")
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
    page = en.open("tab=vae_playground")
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
    page = en.open("tab=vae_playground")
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
    page = en.open("tab=vae_playground")
    first, before = source(page, "#decoded"), page.locator("#plane canvas").screenshot()
    page.get_by_label(i18n.say("vae.model", "en")).filter(visible=True).click()
    page.get_by_role("option", name=i18n.say("models.vae-fashion-2d", "en")).click()
    changes(page, "#decoded", first)
    expect(page.locator("#plane .legend")).to_contain_text("T-shirt")
    assert page.locator("#plane canvas").screenshot() != before
    says(page, model="vae-fashion-2d")
    page.get_by_label(i18n.say("vae.model", "en")).filter(visible=True).click()
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
    page = en.open("tab=vae_playground")
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
    there = other.open("tab=vae_playground", "de")
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
    page = en.open("tab=vae_playground", lang)
    Image.new("RGB", (8, 8)).save(tmp_path / "any.png")
    page.locator("#header input[type=file]").set_input_files(tmp_path / "any.png")
    expect(page.locator(".notice")).to_contain_text(i18n.say("problems.no_recipe", lang))


# ---- work -----------------------------------------------------------------------------------------------------------


def test_ctrl_enter_starts(en):
    page = en.open("tab=vae_playground&section=interpolate&frames=96")
    changes(page, ".sections .figures", None)
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
    page = en.open("tab=vae_playground")
    controls = page.get_by_label(i18n.say("vae.model", "en")).filter(visible=True)
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


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("tab", shell.TABS)
def test_every_section_fits_and_speaks_one_language(en, shots, tab, lang):
    (other,) = (each for each in LANGUAGES if each != lang)
    module, wrong = importlib.import_module(f"apps.{tab}"), {}
    sections, prompt = module.SECTIONS, getattr(module, "PROMPT", "")
    foreign = only(other) - set(WORD.findall(prompt.lower()))  # a prompt is the person's own
    for section in sections:
        page = en.open(f"tab={tab}&section={section}", lang)
        is_open(page, section, sections[0])
        if section not in ("photo", "how"):
            shown = "'.figures img, #controlled .warning'"  # there may be no ControlNet
            page.wait_for_function(f"() => [...document.querySelectorAll({shown})].some((n) => n.offsetParent)")
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            page.evaluate("() => Promise.all([document.fonts.ready, new Promise(requestAnimationFrame)])")
            page.screenshot(path=shots / f"{tab}-{section}-{lang}-{size['width']}.png", full_page=True)
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
    page = narrow.open("tab=vae_playground")
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
