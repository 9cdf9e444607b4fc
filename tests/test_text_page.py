"""The text-to-image tab in Chromium: what a lecturer clicks, and what a student's phone shows."""

import base64
import re
import threading
from types import SimpleNamespace

import pytest
from conftest import models_apart
from diffusers import DiffusionPipeline
from playwright.sync_api import expect
from served import free_port, served
from visiting import NARROW, WIDE, Visit, changes, middle, says

from apps import i18n, shell, text_to_image
from apps.text_to_image import PROMPT
from pipelines import hub, recipe, registry
from tests import companions

DRAWN = "#drawn figure:has(a.save) img"


def drawn(page, old: str | None = None) -> str:
    """The first picture that can be saved, once it is another one."""
    page.wait_for_function(
        "([at, old]) => ![undefined, old].includes(document.querySelector(at)?.src)", arg=[DRAWN, old]
    )
    return page.locator(DRAWN).first.get_attribute("src")


def kept(page) -> list:
    """The recipes of the visit's gallery, newest first."""
    links = page.locator(".visit a.save").evaluate_all("links => links.map(link => link.href)")
    return [recipe.read(base64.b64decode(link.partition(",")[2])) for link in links]


def tab(page, name: str):
    page.get_by_role("tab", name=i18n.say(f"text.{name}.tab", "en"), exact=True).click()


def choose(page, label: str, option: str):
    page.get_by_label(i18n.say(label, "en"), exact=True).filter(visible=True).first.click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_picture_is_there_without_a_click(en):
    page = en.open("tab=text_to_image")
    drawn(page)
    assert kept(page)[0].settings["prompt"] == PROMPT


def test_where_a_gpu_is_the_large_model_begins_and_is_not_loaded(browser, monkeypatch):
    monkeypatch.setenv("TRUGBILD_MEMORY_MB", "64000")
    monkeypatch.setattr(hub, "_reachable", True)
    monkeypatch.setattr(text_to_image, "gpu_mb", lambda: 24_000)
    loaded = []
    demo = shell.page(loaded.append, ("text_to_image",))
    _, url, _ = shell.launch(
        demo, server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True, quiet=True
    )
    with browser.new_context(viewport=WIDE) as context:
        page = Visit(SimpleNamespace(url=url.rstrip("/")), context).open("")
        says(page, tab="text_to_image", model="flux2-klein-4b")
        assert not re.search("steps|guidance", page.url), "they are the model's own"
        drawn(page)
        expect(page.locator("#drawn")).to_contain_text(i18n.say("models.emoji-flux", "en"))
        expect(page.locator("#drawn [role=status]")).to_contain_text("GB")
    demo.close(verbose=False)
    assert "flux2-klein-4b" not in loaded


def test_what_no_controlnet_goes_with_says_so_before_it_is_loaded(browser):
    loaded = threading.Event()
    demo = shell.page(lambda name: loaded.wait(), ("text_to_image",))
    _, url, _ = shell.launch(
        demo, server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True, quiet=True
    )
    try:
        with browser.new_context(viewport=WIDE) as context:
            page = Visit(SimpleNamespace(url=url.rstrip("/")), context).open(
                "tab=text_to_image&model=emoji-flux&section=control"
            )
            expect(page.locator("#controlled .warning")).to_contain_text("emoji-sd")
            expect(page.locator("#controlled img")).to_have_count(2)
    finally:
        loaded.set()
        demo.close(verbose=False)


def test_an_example_is_drawn_and_the_visit_remembers(en):
    page = en.open("tab=text_to_image&steps=4&seed=5")
    first = drawn(page)
    chip = i18n.say("text.chips.n2", "en")
    page.get_by_role("button", name=chip, exact=True).click()
    says(page, prompt=chip)
    second = drawn(page, first)
    assert [made.settings["prompt"] for made in kept(page)[:2]] == [chip, PROMPT]
    page.locator(".visit figure").nth(1).get_by_role("button").click()  # what was drawn before comes again
    assert drawn(page, second) == first
    assert "prompt" not in page.url, "the default stands in no link"


def test_words_are_named_and_added_by_a_click(en):
    page = en.open("tab=text_to_image&steps=2&prompt=a+frogg")
    expect(page.locator("#prompt-note")).to_contain_text("frogg")
    expect(page.locator("#prompt-note b")).to_have_text("frog")
    page.get_by_text(i18n.say("text.words_known", "en")).click()
    page.locator("#vocabulary").get_by_role("button", name="owl", exact=True).click()
    expect(page.locator("#prompt textarea")).to_have_value("a frogg owl")
    page.locator("#prompt textarea").fill("owl")
    page.locator("#prompt textarea").press("Enter")
    expect(page.locator("#prompt-note")).not_to_contain_text("frogg")


def test_the_other_model_brings_its_own_steps(en):
    page = en.open("tab=text_to_image&steps=2")
    first = drawn(page)
    choose(page, "text.model", i18n.say("models.emoji-sd", "en"))
    says(page, model="emoji-sd")
    drawn(page, first)
    made = kept(page)[0].settings
    assert (made["sampler"], made["steps"], made["guidance"]) == ("DDIM", 20, 4)
    page.wait_for_function("() => !/steps|guidance/.test(location.search)")  # what is the model's own stands in no link


def test_a_wide_picture(en):
    page = en.open("tab=text_to_image&steps=2")
    first = drawn(page)
    choose(page, "text.width", "192")
    says(page, width="192")
    drawn(page, first)
    assert page.locator(DRAWN).first.evaluate("img => [img.naturalWidth, img.naturalHeight]") == [192, 128]
    assert kept(page)[0].settings["width"] == 192


def test_a_cell_of_the_grid_opens_as_a_picture(en):
    page = en.open("tab=text_to_image&section=grid&xs=1,2&y=seed&ys=6,7")
    cells = page.locator(".xy td button")
    expect(cells).to_have_count(4)
    expect(page.locator("#xy a.save")).to_have_count(1)
    cells.nth(3).click()
    says(page, steps="2", seed="7")
    expect(page.locator("#drawn figcaption")).to_have_text(re.compile("7$"))
    drawn(page)
    assert (kept(page)[0].seed, kept(page)[0].settings["steps"]) == (7, 2)


def test_several_pictures_and_what_to_do_with_them(en):
    page = en.open("tab=text_to_image&steps=2&number=4&seed=20")
    drawn(page)
    expect(page.locator("#drawn a.save")).to_have_count(4)
    page.locator("#drawn figure").nth(2).locator("[data-use=set]").click()
    says(page, seed="22")
    page.locator("#drawn figure").first.locator("[data-use=noise]").click()
    says(page, section="noise", photo="drawn")
    expect(page.locator("#noised img")).to_have_count(3)


@pytest.mark.parametrize(("section", "at"), [("steps", "#film img"), ("words", "#read img"), ("noise", "#noised img")])
@pytest.mark.parametrize("model", ["emoji-sd", "emoji-flux"])
def test_sections_open_from_a_link(en, section, at, model):
    page = en.open(f"tab=text_to_image&section={section}&model={model}&steps=4&step=2")
    page.locator(at).nth(2).wait_for()
    if section == "steps":
        shown = page.locator("#film .shots div:not([hidden]) img").filter(visible=True).first
        before = shown.get_attribute("src")
        page.locator("#film input[type=range]").fill("3")  # the fourth
        says(page, step="4")
        expect(shown).not_to_have_attribute("src", before)


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """The app with a ControlNet and a LoRA for the bundled model, which know nothing."""
    folders = [tmp_path_factory.mktemp("models") / name for name in ("edges", "melons")]
    with models_apart():
        plain = DiffusionPipeline.from_pretrained(registry.get("emoji-sd").path)
        companions.controlnet(folders[0], plain, "emoji-sd", condition="canny")
        companions.lora(folders[1], plain, "unet", "emoji-sd")
    models = [part for folder in folders for part in ("--model", folder)]
    with served("--tabs", "text_to_image", *models) as (url, _):
        yield SimpleNamespace(url=url)


@pytest.fixture
def with_more(more, browser):
    context = browser.new_context(viewport=WIDE, locale="en-GB")
    visit = Visit(more, context)
    yield visit
    context.close()
    assert visit.wrong == []


def test_what_is_drawn_and_rubbed_out_by_hand_is_followed(with_more):
    page = with_more.open("tab=text_to_image&model=emoji-sd&section=control&steps=2")
    changes(page, "#controlled", None)

    def stroke(*places):
        old = page.locator("#controlled img").nth(1).get_attribute("src")
        page.mouse.move(*middle(page, "#outline canvas", *places[0]))
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*middle(page, "#outline canvas", *place))
        page.mouse.up()
        page.wait_for_function("old => document.querySelectorAll('#controlled img')[1]?.src !== old", arg=old)
        page.wait_for_function("() => location.search.includes('guide_lines')")
        return with_more.query()["guide_lines"]

    drawn_too = stroke((0.1, 0.1), (0.5, 0.12), (0.9, 0.1))
    assert drawn_too.startswith("s:") and "," not in drawn_too
    page.get_by_role("button", name=i18n.say("shell.rub", "en"), exact=True).click()
    assert stroke((0.1, 0.1), (0.9, 0.1)).startswith(f"{drawn_too},e:")

    page.locator("#outline [data-clear]").click()
    expect(page.locator("#controlled .warning")).to_have_text(i18n.say("problems.empty_drawing", "en"))
    page.get_by_label(i18n.say("style.sample.cat", "en")).filter(visible=True).click()  # lines go with their picture
    says(page, guide_source="cat", guide_lines="")
    choose(page, "text.model", i18n.say("models.emoji-flux", "en"))
    expect(page.locator("#controlled .warning")).to_contain_text("emoji-sd")
    expect(page.locator("#controlled img")).to_have_count(2)  # what another model drew along the outline
    page.locator("#controlled .uses button").click()
    says(page, model="emoji-sd")
    page.locator("#controlled .warning").wait_for(state="detached")


def test_a_lora_is_picked_where_there_is_one(with_more):
    page = with_more.open("tab=text_to_image&model=emoji-sd&steps=2")
    plain = drawn(page)
    choose(page, "text.lora.label", "local/melons")
    says(page, lora="local/melons")
    changed = drawn(page, plain)
    weight = page.get_by_label(i18n.say("text.lora.weight", "en")).filter(visible=True).first
    weight.fill("0.5")
    weight.press("Tab")
    says(page, lora_weight="0.5")
    drawn(page, changed)
    assert kept(page)[0].settings["lora"] == "local/melons"
    choose(page, "text.model", i18n.say("models.emoji-flux", "en"))
    expect(page.get_by_label(i18n.say("text.lora.label", "en"), exact=True)).to_be_hidden()
    page.wait_for_function("() => !location.search.includes('lora=')")


def test_two_paths(en):
    page = en.open("tab=text_to_image&section=paths&steps=3")
    page.locator("svg.paths").first.wait_for()


def test_nonsense_from_a_link_is_said_and_the_page_opens(en):
    page = en.open("tab=text_to_image&steps=1000000&guidance=nan&sampler=Magic")
    expect(page.locator(".notice")).to_contain_text("1000000")
    drawn(page)


def test_a_phone_shows_prompt_and_picture(visit):
    narrow = visit(has_touch=True, is_mobile=True)
    narrow.page.set_viewport_size(NARROW)
    page = narrow.open("tab=text_to_image", "de")
    drawn(page)
    box = page.locator("#drawn .frame").first.bounding_box()
    assert box["y"] < NARROW["height"] and box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
