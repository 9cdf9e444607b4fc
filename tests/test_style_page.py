"""The style transfer tab in Chromium: what a lecturer clicks, and what a student's phone shows."""

import base64

import pytest
from PIL import Image
from playwright.sync_api import expect
from visiting import NARROW, changes, says, source

from apps import i18n
from pipelines import recipe

AFTER = "#translated .frame img + img"


def label(page, key: str):
    return page.get_by_text(i18n.say(key, "en"), exact=True).filter(visible=True).first


def tab(page, name: str):
    page.get_by_role("tab", name=i18n.say(f"style.{name}.tab", "en"), exact=True).click()


def translated(page, old: str | None = None) -> str:
    """The translation that is shown, once it is another one."""
    page.wait_for_function(
        "([at, old]) => ![undefined, old].includes(document.querySelector(at)?.src)", arg=[AFTER, old]
    )
    return page.locator(AFTER).get_attribute("src")


def test_a_translation_is_there_without_a_click_and_the_direction_turns(en):
    page = en.open("tab=style_transfer")
    first = translated(page)
    label(page, "style.direction.style-historic_BtoA").click()
    says(page, direction="BtoA")
    translated(page, first)
    expect(page.locator(".warning").filter(visible=True)).to_contain_text("great care")


def test_somebody_who_does_not_exist_is_photographed(en):
    page = en.open("tab=style_transfer&size=128")
    first = translated(page)
    label(page, "style.sample.person").click()
    second = translated(page, first)
    page.get_by_role("button", name=i18n.say("shell.another_seed", "en")).filter(visible=True).click()
    translated(page, second)
    page.wait_for_function("() => new URLSearchParams(location.search).get('person')")


def test_an_upload_is_translated_and_is_not_in_the_link(en, tmp_path):
    file = tmp_path / "me.jpg"
    Image.linear_gradient("L").resize((120, 80)).convert("RGB").save(file)
    page = en.open("tab=style_transfer&size=128")
    first = translated(page)
    page.locator("input[type=file]:not([multiple])").filter(visible=False).last.set_input_files(file)
    says(page, sample="own")
    translated(page, first)
    assert "me.jpg" not in page.url


def test_a_style_is_taken_from_the_row(en):
    page = en.open("tab=style_transfer&section=styles")
    page.locator("#styles [data-use=style]").nth(1).wait_for()
    page.locator("#styles [data-use=style]").nth(1).click()
    says(page, direction="BtoA")
    tab(page, "picture")
    translated(page)


@pytest.mark.parametrize(("section", "at", "count"), [("cycle", "#around", 8), ("eye", "#eyes", 2)])
def test_sections_open_from_a_link(en, section, at, count):
    page = en.open(f"tab=style_transfer&section={section}&size=128")
    expect(page.locator(f"{at} img")).to_have_count(count)
    if section == "cycle":
        first = source(page, f"{at} figure:nth-child(3)")
        page.locator("input[type=number]").filter(visible=True).last.fill("0.3")
        page.locator("input[type=number]").filter(visible=True).last.press("Enter")
        changes(page, f"{at} figure:nth-child(3)", first)
        saved = page.locator(f"{at} figure:nth-child(3) a.save").get_attribute("href")
        assert recipe.read(base64.b64decode(saved.partition(",")[2])).settings["noise"] == 0.3


def test_a_phone_shows_the_picture_first(visit):
    narrow = visit(has_touch=True, is_mobile=True)
    narrow.page.set_viewport_size(NARROW)
    page = narrow.open("tab=style_transfer", "de")
    translated(page)
    box = page.locator("#translated .frame").bounding_box()
    assert box["y"] < NARROW["height"] / 2 and box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]


def test_a_large_picture_shows_progress_and_is_stopped(en, tmp_path):
    file = tmp_path / "large.jpg"
    Image.effect_noise((2400, 1600), 60).convert("RGB").save(file)
    page = en.open("tab=style_transfer&size=0")
    first = translated(page)
    page.locator("input[type=file]:not([multiple])").filter(visible=False).last.set_input_files(file)
    page.locator(".status progress").filter(visible=True).wait_for()
    page.locator(".wordmark").click()
    # a request to cancel names session and event: it must have arrived before the next picture is asked for
    with page.expect_response(lambda answer: answer.url.endswith("/cancel")):
        page.keyboard.press("Escape")
    page.get_by_text(i18n.say("shell.stopped", "en")).filter(visible=True).wait_for()
    assert translated(page) == first
    label(page, "style.sizes.s128").click()  # and the app goes on
    translated(page, first)
