"""The sections of a tab: inner tabs, each of which draws itself when it is opened or when an input of it changes."""

import contextlib
import inspect
import threading
from collections.abc import Callable

import gradio as gr
from gradio.events import Dependency

from apps.i18n import say
from apps.widgets import QUICK, handler, status

PRIVATE = {"api_visibility": "private"}  # of the page; what others may call are `widgets.endpoint`s


class Sections(dict):
    """Name -> gr.Tab, to lay out with `with sections[name]:`. `tabs` is the gr.Tabs around them."""

    def __init__(
        self,
        stem: str,
        titles: dict,
        load: Callable,
        slow: Callable = lambda model: False,
        asks: Callable | None = None,
    ):
        """titles: name -> text (`i18n.t`), in their order; `load(model_id)` gives a pipeline.

        slow(model_id): whether people would wonder what takes so long. asks(model_id, lang): what a person should know
        before anything is computed with this model, "" if nothing; until `agrees` has been triggered for it, sections
        show that instead.
        """
        super().__init__()
        self.stem, self.load, self.slow, self.asks, self._loading = stem, load, slow, asks, {}
        self.agreed = gr.Textbox(visible="hidden") if asks else None  # the model that a person wants to be used
        # In the page, though hidden: only then is a change noticed.
        self.ticks = {name: gr.Number(0, visible="hidden", label=name) for name in titles}
        with gr.Tabs(elem_classes="sections", selected=next(iter(titles))) as self.tabs:
            for name, title in titles.items():
                with gr.Tab(title, id=name) as self[name]:
                    pass

    def listen(self) -> None:
        """Once, after the layout: a section that a person opens is drawn."""
        first = next(iter(self))
        for name, tab in self.items():
            js = f"(tick) => trugbild.section('{self.stem}', '{name}', '{first}', tick)"
            tab.select(None, self.ticks[name], self.ticks[name], js=js)

    def agrees(self, triggers: list, model: gr.components.Component) -> None:
        """After one of `triggers` the model may be used, and the open section is drawn."""
        agreed = gr.on(triggers, None, model, self.agreed, js="(model) => model", **PRIVATE)
        agreed.then(**self.redraw())

    def redraw(self) -> dict:
        """What makes an event draw the open section: `event.then(**sections.redraw())`"""
        every = list(self.ticks.values())
        js = f"(...ticks) => trugbild.redraw('{self.stem}', {list(self)}, ticks)"
        return {"fn": None, "inputs": every, "outputs": every, "js": js}

    def is_loaded(self, model: str) -> bool:
        """Whether a picture can be had at once; if not, it will be soon."""

        def prepare():
            with contextlib.suppress(Exception):  # whoever needs the model next is told what is wrong with it
                self.load(model)

        if model not in self._loading:
            self._loading[model] = threading.Thread(target=prepare, daemon=True)
            self._loading[model].start()
        self._loading[model].join(0.05)
        return not self._loading[model].is_alive()

    def draws(
        self, name: str, fn: Callable, triggers: list, inputs: list, outputs: list, model: str = "", meanwhile=None
    ) -> Dependency:
        """fn(*inputs, lang) -> outputs, whenever the section is opened or one of `triggers` fires; fn may yield them.

        `model` is the one it needs; without, it is the first input. Until that is loaded, the first output shows
        meanwhile(*inputs, lang).
        """

        agreed = [self.agreed] if self.asks else []

        def draw(*values, lang):
            def first(html):
                return html if len(outputs) == 1 else (html, *[gr.skip()] * (len(outputs) - 1))

            which = model or values[0]
            if self.asks:
                *values, wanted = values
                if wanted != which and (told := self.asks(which, lang)):
                    yield first(told)
                    return
            if waiting := not self.is_loaded(which):
                yield first((meanwhile or loading_text)(*values, lang=lang))
            elif waiting := self.slow(which):
                yield first(status(lang, text=say("shell.drawing", lang)))
            try:
                if inspect.isgeneratorfunction(fn):
                    yield from fn(*values, lang=lang)
                else:
                    yield fn(*values, lang=lang)
            except Exception:
                if waiting:
                    yield first("")
                raise

        signature = inspect.signature(fn)
        names = {p.name: p for p in signature.parameters.values()}
        if agreed:
            lang = names.pop("lang")
            names["agreed"] = inspect.Parameter("agreed", inspect.Parameter.POSITIONAL_OR_KEYWORD)
            names["lang"] = lang.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        draw.__signature__ = signature.replace(parameters=list(names.values()))
        every = [*inputs, *agreed]
        event = gr.on([self.ticks[name].change, *triggers], handler(draw), every, outputs, **PRIVATE, **QUICK)
        place = outputs[0].elem_id or f"component-{outputs[0]._id}"
        event.then(None, js=f"() => trugbild.settled('{place}')", **PRIVATE)
        return event


def loading_text(*_, lang: str) -> str:
    """Goes when the event ends (`trugbild.settled`), whether or not there is a picture then."""
    return f'<div class="waiting">{status(lang, text=say("shell.loading", lang))}</div>'
