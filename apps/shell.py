"""The page: header, notice, tabs from TABS, footer; and how a link or a saved picture opens a state."""

import base64
import binascii
import contextlib
import importlib
import json
from collections.abc import Callable
from urllib.parse import parse_qsl

import gradio as gr
import segno

from apps import server
from apps.i18n import LANGUAGES, browser_texts, language, say, sentence, t
from apps.links import MAX_QUERY, Tab
from apps.theme import Trugbild
from pipelines import recipe, registry
from pipelines.problems import Problem, choice

# The order on the page; each is a module of apps with build(load) -> links.Tab.
TABS = ("faces", "style_transfer", "vae_playground", "text_to_image")
MAX_QR = 1800  # characters; beyond that the squares are too small for the last row


class Header(gr.HTML):
    """Name, open a picture, share, lecture mode, light or dark, language: assets/header.html and assets/shell.js."""

    def __init__(self, **server_functions: Callable):
        super().__init__(
            html_template=(server.ASSETS / "header.html").read_text("utf-8"),
            js_on_load="trugbild.header(element, server)",
            server_functions=list(server_functions.values()),
            elem_id="header",
            apply_default_css=False,
        )


def _spoken(message: dict) -> str:
    """The language of the page that calls; these calls carry no query, so the page says it."""
    lang = message.get("lang") if isinstance(message, dict) else None
    return lang if lang in LANGUAGES else "en"


def qr(message: dict) -> dict:
    """A link as an SVG for the back row."""
    link = message.get("link") if isinstance(message, dict) else None
    if not isinstance(link, str) or len(link) > MAX_QR:
        return {"problem": say("shell.link_too_long", _spoken(message))}
    return {"svg": segno.make(link, error="m").svg_inline(scale=8, border=3, omitsize=True)}


def other_weights(found: recipe.Recipe) -> bool:
    """Whether a net that made a picture has been exchanged since: the model, or one that a setting names."""
    nets = {found.model: found.revision}
    for name, value in found.settings.items():
        if id := name.endswith("_revision") and found.settings.get(name.removesuffix("_revision")):
            nets[id] = value
    return any(registry.revision(registry.get(id)) != made_by for id, made_by in nets.items())


def page(load: Callable, names: tuple[str, ...] = TABS) -> gr.Blocks:
    """The whole page with these tabs; `load` is what they compute with (pipelines.load, or a stand-in in tests)."""
    with gr.Blocks(title="Trugbild", analytics_enabled=False, delete_cache=(60, server.UPLOADS_KEPT)) as demo:
        tabs: dict[str, Tab] = {}

        def open_picture(message: dict) -> dict:
            """A saved picture (as a data URL) -> the link that shows how it was made, or why not."""
            lang = _spoken(message)
            try:
                data = base64.b64decode(message["data"].partition(",")[2], validate=True)
                found = recipe.read(data)
                tab = tabs[choice("tab", found.tab, list(tabs))]
                values = {**found.settings}
                if "photo_model" not in values:  # a tab with two pickers says which one it was
                    values["model"] = found.model
                if found.seed is not None:
                    values["seed"] = found.seed
                query = tab.query(values)
                if wrong := tab.read(dict(parse_qsl(query, keep_blank_values=True)))[1]:
                    raise wrong[0]
                told = sentence(Problem("other_weights", model=found.model), lang) if other_weights(found) else ""
                return {"query": f"?{query}", "told": told}
            except Problem as problem:
                return {"problem": sentence(problem, lang)}
            except (binascii.Error, KeyError, TypeError, AttributeError, ValueError):
                return {"problem": sentence(Problem("recipe_broken", field="file"), lang)}

        def warm(_) -> None:
            """Loads the open tab's usual model before it is asked for. What is wrong with it is said when it is."""
            with contextlib.suppress(Exception):
                load(next(p.default for p in tabs[names[0]].params if p.name == "model"))

        Header(qr=qr, open_picture=open_picture, warm=warm)
        gr.HTML(elem_id="notice")
        notices, opened, to_draw = (gr.Textbox(visible=False) for _ in range(3))
        with gr.Tabs(selected=names[0], elem_classes="shell-tabs") as shell_tabs:
            for name in names:
                with gr.Tab(t(f"tabs.{name}"), id=name) as tab:
                    tabs[name] = importlib.import_module(f"apps.{name}").build(load)
                tab.select(None, js=f"() => trugbild.select('{name}')")
        gr.HTML(t("shell.footer"), elem_classes="card")

        outputs = []
        for tab in tabs.values():
            filled = [p.component for p in tab.params if p.component not in tab.welcomed]
            outputs += [tab.sections, *filled, *tab.welcomed]

        def restore(request: gr.Request):
            """What the link says goes into the inputs; what it says wrongly becomes a notice."""
            lang, query = language(request), dict(request.query_params)
            problems, updates, drawn, name = [], [], [], query.get("tab", names[0])
            try:
                if (length := len(str(request.query_params))) > MAX_QUERY:
                    query = {}
                    raise Problem("too_long", name="link", length=length, most=MAX_QUERY)
                choice("tab", name, names)
            except Problem as problem:
                problems, name = [problem], names[0]
            for stem, tab in tabs.items():
                values, wrong = tab.read(query if stem == name else {})
                problems += wrong
                asked = stem == name and any(key == "section" or key in values for key in query)
                here = {} if asked or query.get("tab") == stem or "run" in query else tab.here()
                values |= here
                updates += [gr.Tabs(selected=values["section"])]
                drawn.append(values["section"] if asked else "")
                filled = [p for p in tab.params if p.component not in tab.welcomed]
                updates += [values[p.name] if asked or p.name in here else gr.skip() for p in filled]
                updates += tab.welcome(values, lang)
                if stem == name:
                    address = tab.query(values)
            said = [sentence(p, lang) for p in problems[:3]]
            if more := len(problems) - len(said):
                said.append(say("shell.more_problems", lang, n=more))
            return [gr.Tabs(selected=name), " ".join(said), address, json.dumps(drawn), *updates]

        outputs = [shell_tabs, notices, opened, to_draw, *outputs]
        loaded = demo.load(restore, None, outputs, api_visibility="private", show_progress="hidden")
        step = loaded.then(
            None,
            [notices, opened],
            None,
            js="(notice, query) => { trugbild.opened(query); if (notice) trugbild.notice(notice); }",
        )
        for i, tab in enumerate(tabs.values()):
            # A section draws a step later than the load event, when the inputs it reads are filled.
            ticks, names_ = list(tab.ticks.values()), json.dumps(list(tab.ticks))
            js = f"(wanted, ...ticks) => trugbild.redraw('{tab.stem}', {names_}, ticks, JSON.parse(wanted)[{i}])"
            step = step.then(None, [to_draw, *ticks], ticks, js=js)
            inputs = [p.component for p in tab.params]
            standard = {p.name: [p.default, p.of_model] for p in tab.params}
            js = f"(...values) => trugbild.changed('{tab.stem}', {json.dumps(standard)}, values)"
            gr.on([c.change for c in inputs], None, inputs, None, js=js)
        step.then(None, js="() => trugbild.run()")
    return demo


def launch(demo: gr.Blocks, **kwargs):
    """gr.Blocks.launch with what makes it Trugbild: look, texts, routes, limits, privacy."""
    demo.queue(max_size=64, api_open=True)
    return demo.launch(
        theme=Trugbild(),
        i18n=browser_texts(),
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        enable_monitoring=False,
        show_error=False,
        pwa=False,
        max_file_size=server.MAX_UPLOAD,
        favicon_path=server.ASSETS / "favicon.png",
        app_kwargs={"routes": server.routes(), "middleware": [(server.PageMiddleware, (), {})]},
        **kwargs,
    )
