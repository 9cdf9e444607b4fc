"""A tab's whole state as a readable link: `/?tab=vae_playground&model=vae-digits-2d&x=0.3&y=-1.2&lang=de`.

Each tab lists its `Param`s once. The browser writes them into the address bar (assets/shell.js), `read` turns a query
back into values of the right type, `query` writes one in Python (for a recipe). Nothing is kept on the server.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from gradio.components import Component

from pipelines.problems import Problem, choice, number, whole

# Not of a tab: which tab, language, lecture mode, run at once; gradio's own are `view` and those with two underscores.
SHELL_KEYS = {"tab", "lang", "lecture", "run", "view"}
MAX_QUERY = 16_000  # characters; a drawing takes about 200, servers refuse lines over 64 KiB


@dataclass(frozen=True)
class Number:
    """A float or int in [low, high]."""

    low: float
    high: float
    whole: bool = False

    def parse(self, name: str, text: str) -> float | int:
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            raise Problem("not_a_number", name=name, value=text) from None
        return (whole if self.whole else number)(name, value, self.low, self.high)

    def format(self, value: float | int) -> str:
        return str(int(value)) if float(value).is_integer() else repr(float(value))


@dataclass(frozen=True)
class Choice:
    """One of a few words or numbers; `options` is called so that models found later count."""

    options: Callable[[], list[str | int]]

    def parse(self, name: str, text: str) -> str | int:
        options = {str(option): option for option in self.options()}
        return options[choice(name, text, list(options))]

    def format(self, value: str | int) -> str:
        return str(value)


@dataclass(frozen=True)
class Several:
    """Some of a few words, each once, or none; joined by commas."""

    options: Callable[[], list[str]]

    def parse(self, name: str, text: str) -> list[str]:
        return list(dict.fromkeys(choice(name, part, self.options()) for part in text.split(",") if part))

    def format(self, value: list[str]) -> str:
        return ",".join(value)


@dataclass(frozen=True)
class Switch:
    """On or off: 1 or 0."""

    def parse(self, name: str, text: str) -> bool:
        return choice(name, text, ("0", "1")) == "1"

    def format(self, value: bool) -> str:
        return "1" if value else "0"


@dataclass(frozen=True)
class Text:
    """Free text that `check(text)` accepts (it raises Problem) and may be empty."""

    check: Callable[[str], Any]
    max_length: int = 8_000

    def parse(self, name: str, text: str) -> str:
        if len(text) > self.max_length:
            raise Problem("too_long", name=name, length=len(text), most=self.max_length)
        if text:
            self.check(text)
        return text

    def format(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Param:
    """One input of a tab in the link. `default` is what the component shows when the link says nothing."""

    name: str
    component: Component
    kind: Number | Choice | Several | Switch | Text
    default: Any
    of_model: Mapping[str, Any] = field(default_factory=dict)  # the default where the link names that model


@dataclass(frozen=True)
class Tab:
    """What a tab tells the shell: its inputs, and how to draw the state a link opened."""

    stem: str
    params: list[Param]
    sections: Component  # the inner gr.Tabs, one of which `section=` opens
    ticks: Mapping[str, Component]  # section -> hidden number; the section draws itself whenever it changes
    welcome: Callable[[Mapping[str, Any], str], list]  # values, lang -> the first pictures and texts, for `welcomed`
    welcomed: list[Component]
    check: Callable[[Mapping[str, Any]], Any]  # raises Problem where good values do not go together
    # -> values that a visit without a link begins with on this machine; what a link means is the same on all of them
    here: Callable[[], Mapping[str, Any]] = dict

    @property
    def first(self) -> str:
        """The section that is open where a link says nothing."""
        return next(iter(self.ticks))

    def read(self, query: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
        """query -> (value of every param, what was wrong). A wrong value leaves its default: the page must open."""
        said, problems = {}, []
        kinds = {"section": Choice(lambda: list(self.ticks)), **{p.name: p.kind for p in self.params}}
        for name, text in query.items():
            if name in SHELL_KEYS or name.startswith("__"):
                continue
            try:
                if name not in kinds:
                    raise Problem("unknown_setting", name=name)
                said[name] = kinds[name].parse(name, text)
            except Problem as problem:
                problems.append(problem)
        values = self._standard(said) | said
        try:
            self.check(values)
        except Problem as problem:
            return self._standard({}), [*problems, problem]
        return values, problems

    def _standard(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What a link means by saying no more than that."""
        own = {p.name: p.of_model.get(said.get("model"), p.default) for p in self.params}
        return {"section": self.first, **own}

    def query(self, values: Mapping[str, Any]) -> str:
        """Values -> query string with this tab first and defaults left out; the opposite of `read`."""
        standard = self._standard(values)
        differs = [p for p in self.params if values.get(p.name, standard[p.name]) != standard[p.name]]
        shown = {p.name: p.kind.format(values[p.name]) for p in differs}
        section = values.get("section", self.first)
        where = {} if section == self.first else {"section": section}
        return urlencode({"tab": self.stem, **where, **shown}, safe=",:")
