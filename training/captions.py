"""What a scene is called: captions in English and German, with and without articles, in varied order.

Words are those of the emoji pack's vocab.json: English noun and indefinite form, German forms by case. What a caption
says is true of its scene; it may leave out the background or the style, as people do.
"""

import numpy as np

# How a set of emoji may be called as a style. "before" governs of/von, "after" stands at the end.
STYLES = {
    "noto": {
        "en": {"before": ["a Noto emoji of", "a Noto picture of"], "after": ["in Noto style", "Noto style"]},
        "de": {"before": ["ein Noto-Emoji von", "ein Noto-Bild von"], "after": ["im Noto-Stil", "Noto-Stil"]},
    },
    "twemoji": {
        "en": {"before": ["a Twemoji of", "a Twemoji picture of"], "after": ["in Twemoji style", "Twemoji style"]},
        "de": {"before": ["ein Twemoji von", "ein Twemoji-Bild von"], "after": ["im Twemoji-Stil", "Twemoji-Stil"]},
    },
    "fluent-3d": {
        "en": {"before": ["a 3D emoji of", "a 3D picture of"], "after": ["in 3D", "in 3D style", "3D style"]},
        "de": {"before": ["ein 3D-Emoji von", "ein 3D-Bild von"], "after": ["in 3D", "im 3D-Stil", "3D-Stil"]},
    },
    "fluent-flat": {
        "en": {"before": ["a flat emoji of", "a flat picture of"], "after": ["in flat style", "flat style"]},
        "de": {
            "before": ["ein flaches Bild von", "ein flaches Emoji von"],
            "after": ["flacher Stil", "in flachem Stil"],
        },
    },
}
PLAIN = {"en": ["a picture of", "an emoji of"], "de": ["ein Bild von", "ein Emoji von"]}
ARTICLES = {"m": ("der", "den", "dem"), "f": ("die", "die", "der"), "n": ("das", "das", "dem")}
CASES = ("nominative", "accusative", "dative")


def pick(rng: np.random.Generator, values: list):
    return values[rng.integers(len(values))]


def german(word: dict, case: str, article: str) -> str:
    """A word of the vocabulary (its `de`) in a case; article "indefinite", "definite" or "" (nominative only)."""
    phrase = word[case]
    noun = phrase.split(" ", 1)[1]  # declined as its case wants: einem Bären -> Bären
    if article == "definite":
        return f"{ARTICLES[word['gender']][CASES.index(case)]} {noun}"
    return phrase if article else noun


def english(word: dict, article: str) -> str:
    return {"indefinite": word["indefinite"], "definite": f"the {word['noun']}", "": word["noun"]}[article]


def english_scene(rng, thing: dict, hat: dict | None, second: dict | None, relation: dict | None, article: str) -> str:
    """What the picture shows: "a frog with a melon hat next to a dog"."""
    text = english(thing["en"], article)
    if hat:
        worn = english(hat["en"], "indefinite" if article else "")
        text += " " + pick(rng, [f"with {worn}", f"with {worn}", f"wearing {worn}"])
    return relation["en"].format(a=text, b=english(second["en"], article)) if second else text


def german_scene(rng, thing, hat, second, relation, case: str, article: str) -> str:
    """The same in German, the whole in `case`: "einem Frosch mit Melonenhut neben einem Hund"."""
    text = german(thing["de"], case, article)
    if hat:
        text += " " + pick(
            rng, [hat["de"]["phrase"], hat["de"]["phrase_article"]] if article else [hat["de"]["phrase"]]
        )
    if not second:
        return text
    forms = {"a_nom": text, "b_nom": german(second["de"], case, article)}
    # without an article a dative cannot be seen: "neben" keeps it
    return relation["de"].format(**forms, b_dat=german(second["de"], "dative", article or "indefinite"))


def caption(
    rng: np.random.Generator,
    language: str,  # "en" or "de"
    thing: dict,  # entries of the vocabulary
    background: dict,
    style: str,  # a key of STYLES
    hat: dict | None = None,
    second: dict | None = None,
    relation: dict | None = None,
) -> str:
    """One of the many true captions of a scene."""
    article = pick(rng, ["indefinite", "indefinite", "indefinite", "", "", "definite"])
    where = pick(rng, [background[language], *background[f"{language}_alt"]]) if rng.random() < 0.8 else ""
    styled, start = rng.random() < 0.65, rng.random() < 0.35
    names = STYLES[style][language]
    opening = pick(rng, names["before"] if styled else PLAIN[language]) if start else ""
    ending = pick(rng, names["after"]) if styled and not start else ""
    if opening and not article:
        opening = opening.split(" ", 1)[1]  # "picture of frog with melon hat"
    front = where and not opening and rng.random() < 0.2

    if language == "en":
        text = english_scene(rng, thing, hat, second, relation, article)
    elif opening:
        text = german_scene(rng, thing, hat, second, relation, "dative", article or "indefinite")
    elif hat and not second and not front and rng.random() < 0.25:
        subject, worn = german(thing["de"], "nominative", article or "indefinite"), hat["de"]["accusative"]
        who = ARTICLES[thing["de"]["gender"]][0]
        text = pick(rng, [f"{subject} trägt {worn}", f"{subject}, {who} {worn} trägt,"])
        text = text if where or not text.endswith(",") else text[:-1]
    else:
        text = german_scene(rng, thing, hat, second, relation, "nominative", article)
    text = f"{opening} {text}".replace(" von dem ", " vom ") if opening else text
    if where:
        text = f"{where}: {text}" if front else f"{text} {where}"
    text = f"{text}, {ending}" if ending else text

    letters = rng.random()
    if letters < 0.3:
        return text.lower()
    return text[0].upper() + text[1:] if letters < 0.5 else text
