"""The faces tab in Chromium: what a lecturer clicks, and what a student's phone shows."""

import pytest
from playwright.sync_api import expect
from visiting import NARROW, changes, picture, says, source

from apps import i18n
from pipelines import recipe


def button(page, key: str, lang: str = "en"):
    return page.get_by_role("button", name=i18n.say(key, lang), exact=True).filter(visible=True).first


def tab(page, name: str):
    page.get_by_role("tab", name=i18n.say(f"faces.{name}.tab", "en"), exact=True).click()


def people(page, at: int = 0):
    """The visible list of people of that number."""
    return page.locator(".people").filter(visible=True).nth(at)


def drawn(page, selector: str):
    page.locator(f"{selector} .figures img").filter(visible=True).first.wait_for()


def test_a_face_is_there_without_a_click_and_the_space_bar_brings_another(en):
    page = en.open("")
    first = source(page, "#crowd")
    assert recipe.read(picture(page, "#crowd")).task == "generate"
    page.locator(".wordmark").click()
    page.keyboard.press(" ")
    changes(page, "#crowd", first)
    page.wait_for_function("() => new URLSearchParams(location.search).get('seed')")
    seed = en.query()["seed"]
    assert str(recipe.read(picture(page, "#crowd")).seed) == seed
    second = source(page, "#crowd")
    button(page, "faces.person.another").click()
    changes(page, "#crowd", second)
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    drawn(page, "#crowd")
    says(page, seed=en.query()["seed"])


def test_a_link_opens_a_grid_and_a_face_of_it_is_used_elsewhere(en):
    page = en.open("tab=faces&count=4&seed=40")
    page.wait_for_function("() => document.querySelectorAll('#crowd img').length === 4")
    page.locator("#crowd figure").nth(2).locator("[data-use=a]").click()
    says(page, a="10,23,42")
    tab(page, "arithmetic")
    expect(people(page).locator("img")).to_have_count(3)
    tab(page, "person")
    page.locator("#crowd figure").nth(3).locator("[data-use=who]").click()
    says(page, who="43")
    page.locator("#crowd figure").nth(1).locator("[data-use=seed]").click()
    says(page, seed="41")


def test_people_are_exchanged_added_and_taken_away(en):
    page = en.open("tab=faces&section=mix&rows=1,2&columns=3,4&layers=fine")
    drawn(page, "#mixed")
    first = source(page, "#mixed")
    expect(people(page).locator("img")).to_have_count(2)
    people(page).locator("[data-act=add]").click()
    changes(page, "#mixed", first)
    expect(people(page).locator("img")).to_have_count(3)
    page.wait_for_function("() => (new URLSearchParams(location.search).get('rows') ?? '').startsWith('1,2,')")
    people(page).locator("[data-act=drop]").first.click(force=True)
    people(page).locator("[data-act=drop]").last.click(force=True)
    says(page, rows="2")
    expect(people(page).locator("[data-act=drop]")).to_have_count(0)
    people(page, 1).locator("[data-act=other]").first.click(force=True)
    page.wait_for_function("() => !new URLSearchParams(location.search).get('columns').startsWith('3,')")


def test_a_walk_can_be_made(en):
    page = en.open("tab=faces&section=walk&people=1,2&frames=2&run=1")
    drawn(page, "#way")
    page.wait_for_function("() => document.querySelector('#way img').src.startsWith('data:image/webp')")
    assert recipe.read(picture(page, "#way")).task == "walk"


def test_sliders_of_layers_say_how_many_there_are(en):
    page = en.open("tab=faces&cutoff=4")
    expect(page.get_by_label(i18n.say("faces.cutoff_of", "en", n=10)).first).to_have_value("4")
    tab(page, "directions")
    expect(page.get_by_label(i18n.say("faces.directions.last_of", "en", n=9)).first).to_be_visible()


def test_directions_move_and_are_reset(en):
    page = en.open("tab=faces&section=directions&who=5")
    drawn(page, "#edited")
    first = page.locator("#edited img").last.get_attribute("src")
    button(page, "faces.directions.random").click()
    page.wait_for_function("(old) => [...document.querySelectorAll('#edited img')].at(-1).src !== old", arg=first)
    page.wait_for_function("() => [...new URLSearchParams(location.search).keys()].some((k) => /^d[1-8]$/.test(k))")
    button(page, "faces.directions.reset").click()
    page.wait_for_function("(old) => [...document.querySelectorAll('#edited img')].at(-1).src === old", arg=first)


def test_the_astronaut_is_found_and_edited(en):
    page = en.open("tab=faces&section=own")
    drawn(page, "#own")
    button(page, "faces.own.run").click()
    page.locator("#own [data-use=who]").wait_for()
    page.locator("#own [data-use=who]").click()
    page.wait_for_function("() => (new URLSearchParams(location.search).get('who') ?? '').startsWith('w:')")
    tab(page, "directions")
    drawn(page, "#edited")
    expect(people(page).locator("img")).to_have_count(1)


@pytest.mark.parametrize("lang", ["de", "en"])
def test_a_link_with_nonsense_shows_one_notice_and_a_face(en, lang):
    page = en.open("tab=faces&psi=9&people=1,x", lang)
    expect(page.locator(".notice")).to_have_count(1)
    drawn(page, "#crowd")


def test_a_quiz_counts_who_was_right(en, tmp_path):
    from PIL import Image
    from skimage import data

    file = tmp_path / "astronaut.jpg"
    Image.fromarray(data.astronaut()).save(file)
    page = en.open("tab=faces&section=verdict")
    page.locator("input[type=file][multiple]").set_input_files(file)
    page.locator("#quiz img").nth(1).wait_for()
    assert page.locator("#quiz img").count() == 2
    for figure in page.locator("#quiz figure").all():
        figure.locator("button").first.click()
    expect(page.locator("#quiz .tally")).to_contain_text("1")
    assert page.locator("#quiz figcaption b").count() == 2


def test_a_phone_shows_the_face_first(visit):
    narrow = visit(has_touch=True, is_mobile=True)
    narrow.page.set_viewport_size(NARROW)
    page = narrow.open("tab=faces", "de")
    box = page.locator("#crowd img").bounding_box()
    assert box["y"] < NARROW["height"] / 2 and box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]
    first = source(page, "#crowd")
    button(page, "faces.person.another", "de").tap()
    changes(page, "#crowd", first)
