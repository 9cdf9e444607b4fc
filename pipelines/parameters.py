"""What other tools wrote about a picture: the `parameters` of A1111 and Forge, pasted or read from a file. No torch.

    a frog, <lora:melons:0.8> (green:1.2)
    Negative prompt: blur
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 512x768, Model: v1-5

Prompts, then one line of `Key: value`, values in quotes where they need it; recipe.parameters writes the same form.
Nothing is trusted: texts are bounded, every loop goes over a text once, and what cannot be followed is named.
"""

import io
import json
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from .problems import Problem, number, plain, whole
from .recipe import LIMIT_KB, MAX_CHUNKS, exactly, png_chunks, png_text
from .text_given import Lora
from .text_plan import PIXELS
from .text_space import EVERY_SAMPLER, GUIDANCE, STEPS, prompt_text

SIDE = (1, 16384)  # px; what a model can draw is the model's business
WEIGHT = (-10.0, 10.0)  # of a LoRA
MOST = 30  # LoRAs, marks and unknown names that are listed
SCHEDULES = (
    "Karras", "Exponential", "Polyexponential", "SGM Uniform", "Uniform", "KL Optimal", "Align Your Steps", "Simple",
    "Normal", "DDIM", "Beta", "Turbo",
)  # fmt: skip
# Samplers under the names of other programs, in small letters.
SAMPLERS = {name.lower(): name for name in EVERY_SAMPLER} | {
    "ddpm": "DDPM", "ddim": "DDIM", "unipc": "UniPC", "uni_pc": "UniPC", "uni_pc_bh2": "UniPC", "euler_a": "Euler a",
    "euler_ancestral": "Euler a", "k_euler": "Euler", "k_euler_a": "Euler a", "k_euler_ancestral": "Euler a",
    "euler ancestral": "Euler a", "dpmpp_2m": "DPM++ 2M", "k_dpmpp_2m": "DPM++ 2M", "dpm++ 2m": "DPM++ 2M",
}  # fmt: skip
# Whose values change nothing that is drawn, or stand elsewhere already.
SILENT = {
    "Version", "Model hash", "VAE hash", "Lora hashes", "TI hashes", "Hashes", "User", "Task", "Civitai resources",
    "Civitai metadata",
}  # fmt: skip

_KEY = re.compile(r"\w[\w \-/+.]{0,59}")
_STEPS = re.compile(r"Steps:[ ]{0,3}\d")
_TAG = re.compile(r"<([A-Za-z]\w{0,19}):([^<>\n]{1,200})>")
_CAPITALS = re.compile(r"\b(?:BREAK|AND|ADDCOMM|ADDROW|ADDCOL|ADDBASE|TOPP)\b")
_WILDCARD = re.compile(r"__[\w\-/*]{1,60}__|\\[()\[\]]|\bembedding:[\w\-.]{1,60}")
_NEGATIVE = "Negative prompt:"


@dataclass(frozen=True)
class Parameters:
    """What text to image understands of such a text; None and "" where it does not say."""

    prompt: str = ""
    negative_prompt: str = ""
    steps: int | None = None
    sampler: str = ""  # one of text_space.EVERY_SAMPLER
    schedule: str = ""  # of the noise, as it was called there: "Karras"
    guidance: float | None = None
    distilled_guidance: float | None = None  # of Flux in Forge
    seed: int | None = None
    size: tuple[int, int] | None = None  # width, height
    model: str = ""
    loras: tuple[Lora, ...] = ()  # taken out of the prompt
    marks: tuple[str, ...] = ()  # in the prompts, with a meaning there and none here: "(green:1.2)", "BREAK"
    unknown: tuple[str, ...] = ()  # other keys, and samplers that are not here: "Clip skip", "Sampler: Heun"
    left_out: tuple[Problem, ...] = ()  # numbers beyond what is possible here


def read(source: bytes | str | Path) -> Parameters:
    """From a PNG, JPEG or WebP that such a tool saved. Raises Problem: no_parameters, what parse raises, ..."""
    return parse(text(source))


def parse(text: str) -> Parameters:
    """Raises Problem: not_text, too_long, no_letters, no_parameters, parameters_broken, not_a_number."""
    lines = _checked(text).split("\n")
    settings, more = _settings(lines)
    prompt, negative = _prompts(lines)
    ours = settings.get("Version", "").startswith("Trugbild")  # there are no marks in our prompts, all is literal
    loras, marks = (_our_lora(settings), ()) if ours else (_loras(prompt), _marks(prompt, negative))
    sampler, schedule, foreign = _sampler(settings.get("Sampler", ""), settings.get("Schedule type", ""))
    numbers, left_out = _numbers(settings)
    unknown = [*foreign, *(key for key in settings if key not in _READ | SILENT | (_OURS if ours else set())), *more]
    return Parameters(
        prompt_text("prompt", prompt if ours else _without_loras(prompt)),
        prompt_text("negative_prompt", negative),
        sampler=sampler,
        schedule=schedule,
        model=_name(settings.get("Model", "")),
        loras=loras,
        marks=marks,
        unknown=_listed(unknown),
        left_out=left_out,
        **numbers,
    )


def text(source: bytes | str | Path) -> str:
    """The text itself: PNG's `parameters`, else UserComment in EXIF, as the tools write it into JPEG and WebP."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
        head = stream.read(12)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            stream.seek(8)
            found = _png(stream)
        elif head.startswith(b"\xff\xd8\xff"):
            stream.seek(2)
            found = _comment(_jpeg_exif(stream))
        elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
            found = _comment(_webp_exif(stream))
        else:
            raise Problem("parameters_format")
    if not found:
        raise Problem("no_parameters")
    return found


# ---- the text


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise Problem("not_text", name="parameters", value=text)
    if len(text) > LIMIT_KB * 1024:
        raise Problem("too_long", name="parameters", length=len(text), most=LIMIT_KB * 1024)
    text = text.replace("\r\n", "\n").strip("\ufeff \t\r\n")
    if not text:
        raise Problem("no_parameters")
    if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]", text):
        raise Problem("no_letters", name="parameters")
    return text


def _settings(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    """Takes the line of settings off the end -> its pairs, and names of what other programs wrote below it."""
    pairs = dict(_pairs(lines[-1]))
    if len(pairs) >= 3 or _STEPS.match(lines[-1]):  # three: the rule of those programs
        del lines[-1]
        return pairs, []
    for i in reversed(range(len(lines))):
        if _STEPS.match(lines[i]):
            pairs, below = dict(_pairs(lines[i])), lines[i + 1 :]
            del lines[i:]
            names = [line.partition(":")[0].strip() for line in below if ":" in line]
            return pairs, [name for name in names if _KEY.fullmatch(name)]
    return {}, []


def _pairs(line: str):
    """(key, value) of `Key: value, Key: "value, in quotes"`; values that are JSON keep its form."""
    at = 0
    while (colon := line.find(":", at)) >= 0:
        key = line[at:colon].rpartition(",")[2].strip()
        at = colon + 1
        while line[at : at + 1] == " ":
            at += 1
        good = _KEY.fullmatch(key)
        end = _json_end(line, at) if good and line[at : at + 1] in ('"', "[", "{") else -1
        if end < 0:
            end = line.find(",", at)
            end = len(line) if end < 0 else end
        value, at = line[at:end].strip(), end + 1
        if good:
            yield key, json.loads(value) if value[:1] == '"' and _json_end(value, 0) == len(value) else value


def _json_end(line: str, start: int) -> int:
    """Where JSON that begins there ends, if the value does so, too; else -1."""
    try:
        _, end = json.JSONDecoder().raw_decode(line, start)
    except (ValueError, RecursionError):
        return -1
    return end if not (rest := line[end : end + 2].strip()) or rest[0] == "," else -1


def _prompts(lines: list[str]) -> tuple[str, str]:
    starts = [i for i, line in enumerate(lines) if line.lstrip().startswith(_NEGATIVE)]
    if not starts:
        return "\n".join(lines).strip(), ""
    first = starts[0]
    negative = [lines[first].lstrip().removeprefix(_NEGATIVE), *lines[first + 1 :]]
    return "\n".join(lines[:first]).strip(), "\n".join(negative).strip()


# ---- numbers and names


def _numbers(settings: dict[str, str]) -> tuple[dict, tuple[Problem, ...]]:
    found, left_out = {}, []
    for key, (name, check) in _NUMBERS.items():
        if key not in settings:
            continue
        value = settings[key]
        try:
            found[name] = check(name, value)
        except Problem as problem:
            if problem.code not in ("out_of_range", "not_whole"):
                raise
            left_out.append(problem)
    return found, tuple(left_out)


def _float(name: str, value: str) -> float:
    try:
        result = float(value) if len(value) <= 40 and value.isascii() and "_" not in value else math.nan
    except ValueError:
        result = math.nan
    if not math.isfinite(result):
        raise Problem("not_a_number", name=name, value=value)
    return result


def _size(name: str, value: str) -> tuple[int, int]:
    sides = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", value)
    if not sides:
        raise Problem("parameters_broken", field="Size")
    return whole("width", int(sides[1]), *SIDE), whole("height", int(sides[2]), *SIDE)


_NUMBERS = {
    "Steps": ("steps", lambda name, value: whole(name, _float(name, value), *STEPS)),
    "CFG scale": ("guidance", lambda name, value: number(name, _float(name, value), *GUIDANCE)),
    "Distilled CFG Scale": ("distilled_guidance", lambda name, value: number(name, _float(name, value), *GUIDANCE)),
    "Seed": ("seed", lambda name, value: whole(name, _float(name, value), 0, 2**32 - 1)),
    "Size": ("size", _size),
}
_READ = {*_NUMBERS, "Sampler", "Schedule type", "Model"}
# of our recipes, no keys of theirs
_OURS = {"section", "lora", "lora_weight", "lora_revision", "width", "height", *PIXELS}


def _sampler(name: str, schedule: str) -> tuple[str, str, list[str]]:
    """-> a name of ours or "", the schedule, what is not here. Older texts have both in one: "DPM++ 2M Karras"."""
    for word in SCHEDULES:
        if name.lower().endswith(f" {word.lower()}") and name.lower() not in SAMPLERS:
            name, schedule = name[: -len(word) - 1].strip(), schedule or word
            break
    schedule = "" if schedule.lower() in ("automatic", "none") else _name(schedule)
    ours = SAMPLERS.get(name.lower(), "")
    return ours, schedule, [f"Sampler: {name}"] if name and not ours else []


# ---- what stands in prompts


def _loras(prompt: str) -> tuple[Lora, ...]:
    found = {}
    for tag in _TAG.finditer(prompt):
        name, *weights = (part.strip() for part in tag[2].split(":"))
        if _is_lora(tag) and name:
            weight = _float("LoRA", weights[0]) if weights and "=" not in weights[0] else 1.0
            found[name] = Lora(name, number("LoRA", weight, *WEIGHT))
    if len(found) > MOST:
        raise Problem("parameters_broken", field="LoRA")
    return tuple(found.values())


def _our_lora(settings: dict[str, str]) -> tuple[Lora, ...]:
    name, weight = settings.get("lora", ""), _float("LoRA", settings.get("lora_weight", "1"))
    return (Lora(name.rpartition("/")[2], number("LoRA", weight, *WEIGHT)),) if name else ()


def _is_lora(tag: re.Match) -> bool:
    return tag[1].lower() in ("lora", "lyco")


def _without_loras(prompt: str) -> str:
    """Lines from which a tag was taken are set anew, so that no comma is left over."""

    def taken(tag: re.Match) -> str:
        return "" if _is_lora(tag) else tag[0]

    lines = []
    for line in prompt.split("\n"):
        rest = _TAG.sub(taken, line)
        if rest != line:
            rest = ", ".join(filter(None, (" ".join(part.split()) for part in rest.split(","))))
        lines.append(rest)
    return "\n".join(lines).strip()


def _marks(*prompts: str) -> tuple[str, ...]:
    found = []
    for i, prompt in enumerate(prompts):
        found += [*_groups(prompt), *_CAPITALS.findall(prompt), *_WILDCARD.findall(prompt)]
        # A second weight, for the text encoder alone, and weights by block are not followed.
        found += [tag[0] for tag in _TAG.finditer(prompt) if i or not _is_lora(tag) or re.search("=|:.*:", tag[2])]
    return _listed(found)


def _groups(prompt: str) -> list[str]:
    """The outermost groups in brackets: (a:1.2), [a|b], {a|b}. A bracket behind a backslash is a letter."""
    closed, opened = [], []
    for i, letter in enumerate(prompt):
        if letter not in "()[]{}" or prompt[i - 1 : i] == "\\":
            continue
        if letter in "([{":
            opened.append(i)
        elif opened and prompt[opened[-1]] == "([{"[")]}".index(letter)]:
            closed.append((opened.pop(), i + 1))
    found, end = [], 0
    for start, stop in sorted(closed):
        if start >= end:
            found.append(prompt[start:stop])
            end = stop
    return found


def _name(text: str) -> str:
    return plain(re.sub(r"[\ud800-\udfff]", "", text))  # halves of pairs, which quotes can hold, are no letters


def _listed(names: list[str]) -> tuple[str, ...]:
    """Each once, short; a text can hold thousands."""
    names = list(dict.fromkeys(map(_name, names)))
    return tuple(names[:MOST] + ["…"] * (len(names) > MOST))


# ---- files


def _png(stream: io.BufferedIOBase) -> str:
    try:
        found = png_text(stream, b"parameters")
    except Problem as problem:
        if problem.code != "recipe_too_large":
            raise
        raise Problem("parameters_too_large", limit=LIMIT_KB) from None
    if found:
        return _decoded(found[0], "utf-8", found[1], "latin-1")  # some write UTF-8 where PNG says Latin-1
    stream.seek(8)
    for kind, data, length, checksum in png_chunks(stream, (b"eXIf",)):
        if length > len(data):
            break
        if checksum != struct.pack(">I", zlib.crc32(kind + data)):
            raise Problem("picture_broken")
        return _comment(data)
    return ""


def _jpeg_exif(stream: io.BufferedIOBase) -> bytes:
    for _ in range(MAX_CHUNKS):
        mark, kind, length = struct.unpack(">BBH", exactly(stream, 4))
        if mark != 0xFF or length < 2:
            raise Problem("picture_broken")
        if kind in (0xDA, 0xD9):  # the picture itself begins, or ends
            return b""
        if kind == 0xE1 and length >= 8:
            data = exactly(stream, length - 2)
            if data.startswith(b"Exif\0\0"):
                return data[6:]
        else:
            stream.seek(length - 2, io.SEEK_CUR)
    raise Problem("picture_broken")


def _webp_exif(stream: io.BufferedIOBase) -> bytes:
    for _ in range(MAX_CHUNKS):
        if not (head := stream.read(8)):
            return b""
        if len(head) < 8:
            raise Problem("picture_broken")
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            if length > 4 * LIMIT_KB * 1024:
                raise Problem("parameters_too_large", limit=LIMIT_KB)
            return exactly(stream, length).removeprefix(b"Exif\0\0")
        stream.seek(length + length % 2, io.SEEK_CUR)
    raise Problem("picture_broken")


def _comment(exif: bytes) -> str:
    """UserComment of an EXIF block, a small TIFF; "" where there is none. Looks at two directories and one value."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if not order:
        return ""
    try:
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        _, there = _entry(exif, order, first, 0x8769) or (0, 0)  # the directory of EXIF
        length, start = _entry(exif, order, there, 0x9286) or (0, 0) if there else (0, 0)
    except struct.error:
        raise Problem("parameters_broken", field="EXIF") from None
    data = exif[start : start + length]
    if not length:
        return ""
    if len(data) < length or length < 8:
        raise Problem("parameters_broken", field="EXIF")
    code, data = data[:8], data[8:]
    if code.startswith(b"UNICODE"):  # big-endian by habit, whatever the order of the rest: the zeros of ASCII tell
        big = data[::2].count(0) >= data[1::2].count(0)
        return _decoded(data, "utf-16-be" if big else "utf-16-le").strip("\0\ufeff")
    return _decoded(data, "utf-8", "latin-1").strip("\0 ")


def _entry(exif: bytes, order: str, at: int, tag: int) -> tuple[int, int] | None:
    (count,) = struct.unpack_from(f"{order}H", exif, at)
    for i in range(count):
        found, _, length, value = struct.unpack_from(f"{order}HHII", exif, at + 2 + 12 * i)
        if found == tag:
            return length, value
    return None


def _decoded(data: bytes, *encodings: str) -> str:
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise Problem("parameters_broken", field="UserComment")
