"""What made a picture: written into it when it is saved, read back from it later. Needs no torch.

PNG:  tEXt `parameters` as the tools around Stable Diffusion read it, tEXt `trugbild` with our JSON, XMP.
WebP: XMP, which carries our JSON, too.
XMP says that a trained model made the picture (IPTC DigitalSourceType).

Reading trusts nothing: it looks at chunk headers and at a bounded number of bytes, and never decodes a pixel.
"""

import functools
import importlib.metadata
import io
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from xml.sax.saxutils import quoteattr, unescape

from PIL import Image, PngImagePlugin

from . import __version__, registry
from .pictures import open_picture
from .problems import Problem

FORMAT = 1  # of the JSON; a change that old readers cannot read raises it
LIMIT_KB = 64  # of the JSON
MAX_CHUNKS = 2**16  # more than any picture that can be opened here needs

ENLARGE, ENHANCED = "enlarge", "algorithmicallyEnhanced"  # a task: a photograph, which no model of ours has made
_PROMPTS = ("prompt", "negative_prompt")
_COMMON = {"steps": "Steps", "sampler": "Sampler", "guidance": "CFG scale"}  # our names -> the ecosystem's
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
 rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Trugbild {version}"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source}"{recipe}/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True)
class Recipe:
    tab: str
    model: str  # id in the registry
    revision: str  # of the weights, see registry.revision
    task: str  # what the tab did, for example "reconstruct"
    settings: dict = field(default_factory=dict)  # name -> text, number, truth value, None or a list of these
    seed: int | None = None
    versions: dict = field(default_factory=dict)  # package -> version

    def __post_init__(self):
        for name in ("tab", "model", "revision", "task"):
            _require(name, getattr(self, name) and _is_text(getattr(self, name), 200))
        seed = self.seed
        _require("seed", seed is None or (type(seed) is int and 0 <= seed < 2**32))
        _require("settings", isinstance(self.settings, dict) and len(self.settings) <= 100)
        for name, value in self.settings.items():
            _require("settings", isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name))
            _require(name, _is_value(value) or (isinstance(value, list) and all(map(_is_value, value))))
        _require("versions", isinstance(self.versions, dict) and len(self.versions) <= 100)
        for name, value in self.versions.items():
            _require("versions", _is_text(name, 100) and _is_text(value, 100))

    @classmethod
    def make(cls, tab: str, model: str, revision: str, task: str, settings: dict, seed: int | None = None) -> "Recipe":
        """The recipe of what a wrapper has just done, with the versions that the numbers depend on."""
        return cls(tab, model, revision, task, settings, seed, dict(versions()))

    def to_json(self) -> str:
        text = json.dumps({"trugbild": FORMAT, **asdict(self)}, allow_nan=False)  # ASCII
        if len(text) > LIMIT_KB * 1024:
            raise Problem("recipe_too_large", limit=LIMIT_KB)
        return text

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """A recipe that this app can follow, or a Problem: everything is checked, the model must be known here."""
        if len(text) > LIMIT_KB * 1024:
            raise Problem("recipe_too_large", limit=LIMIT_KB)
        try:
            facts = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise Problem("recipe_broken", field="JSON") from None
        _require("JSON", isinstance(facts, dict))
        _require("trugbild", facts.pop("trugbild", None) in (FORMAT,))
        names = [item.name for item in fields(cls)]
        for name in [*names, *facts]:
            _require(name, name in facts and name in names)
        recipe = cls(**facts)
        if recipe.tab not in registry.TABS:
            raise Problem("unknown_tab", tab=recipe.tab)
        _require("tab", registry.get(recipe.model).tab == recipe.tab)
        return recipe


@functools.cache
def versions() -> tuple[tuple[str, str], ...]:
    """What numbers depend on: package, version."""
    return ("trugbild", __version__), *((name, importlib.metadata.version(name)) for name in ("torch", "diffusers"))


def parameters(recipe: Recipe, size: tuple[int, int]) -> str:
    """The recipe as the web UIs write and read it: prompts, then one line of `Key: value`. size is (width, height)."""
    settings = dict(recipe.settings)
    prompt, negative = (settings.pop(name, "") for name in _PROMPTS)
    line = {theirs: settings.pop(ours) for ours, theirs in _COMMON.items() if ours in settings}
    line |= {} if recipe.seed is None else {"Seed": recipe.seed}
    model = settings["upscaler"] if recipe.task == ENLARGE else recipe.model
    line |= {"Size": f"{size[0]}x{size[1]}", "Model": model, "Task": recipe.task, **settings}
    line |= {"Version": f"Trugbild {recipe.versions.get('trugbild', __version__)}"}
    lines = [prompt, f"Negative prompt: {negative}" if negative else ""]
    return "\n".join([*filter(None, lines), ", ".join(f"{key}: {_quoted(value)}" for key, value in line.items())])


def save(image: Image.Image | Sequence[Image.Image], recipe: Recipe, duration_ms: int = 80) -> bytes:
    """The picture as PNG, or several as an animated WebP without loss, with its recipe inside."""
    file, source = io.BytesIO(), ENHANCED if recipe.task == ENLARGE else "trainedAlgorithmicMedia"
    if isinstance(image, Image.Image):
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("parameters", parameters(recipe, image.size))  # becomes iTXt where Latin-1 does not do
        chunks.add_text("trugbild", recipe.to_json())
        chunks.add_itxt("XML:com.adobe.xmp", _XMP.format(version=__version__, source=source, recipe=""))
        image.save(file, "PNG", pnginfo=chunks)
    else:
        ours = f' xmlns:trugbild="urn:trugbild:1" trugbild:recipe={quoteattr(recipe.to_json(), {chr(34): "&quot;"})}'
        xmp = _XMP.format(version=__version__, source=source, recipe=ours).encode()
        first, *rest = image
        first.save(
            file, "WEBP", save_all=True, append_images=rest, duration=duration_ms, loop=0, lossless=True, xmp=xmp
        )
    return file.getvalue()


def read(source: bytes | str | Path) -> Recipe:
    """The recipe in a PNG or WebP file, or a Problem: no_recipe, recipe_format, recipe_too_large, recipe_broken, ..."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
        head = stream.read(12)
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            stream.seek(8)
            text = _from_png(stream)
        elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
            text = _from_webp(stream)
        else:
            raise Problem("recipe_format")
    return Recipe.from_json(text)


def first(folder: Path) -> tuple[Image.Image, Recipe] | None:
    """The picture that lies beside a model, made by it, and its recipe; None where there is none."""
    file = folder / "first.png"
    return (open_picture(file), read(file)) if file.is_file() else None


def png_chunks(stream: io.BufferedIOBase, kinds: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, int, bytes]]:
    """(kind, data, length, checksum) of chunks of these kinds; of a long one the beginning, which `length` tells."""
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack(">I4s", exactly(stream, 8))
        if kind == b"IEND":
            return
        if kind not in kinds:
            stream.seek(length + 4, io.SEEK_CUR)
            continue
        data = exactly(stream, min(length, LIMIT_KB * 1024 + 200))  # what is longer is too long whatever it says
        stream.seek(length - len(data), io.SEEK_CUR)
        yield kind, data, length, exactly(stream, 4)
    raise Problem("picture_broken")


def png_text(stream: io.BufferedIOBase, wanted: bytes) -> tuple[bytes, str] | None:
    """The text under a key as bytes, and the encoding it is in by the rules of PNG; None where there is none."""
    for kind, data, length, checksum in png_chunks(stream, (b"tEXt", b"zTXt", b"iTXt")):
        key, _, rest = data.partition(b"\0")
        if key != wanted:
            continue
        if length > len(data):
            raise Problem("recipe_too_large", limit=LIMIT_KB)
        if checksum != struct.pack(">I", zlib.crc32(kind + data)):
            raise Problem("picture_broken")
        if kind == b"tEXt":
            return rest, "latin-1"
        if kind == b"zTXt":
            return _inflate(rest[1:]), "latin-1"
        compressed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]  # flag, method, language, translated key
        return (_inflate(rest) if compressed else rest), "utf-8"
    return None


def _from_png(stream: io.BufferedIOBase) -> str:
    if not (found := png_text(stream, b"trugbild")):
        raise Problem("no_recipe")
    try:
        return str(*found)
    except UnicodeDecodeError:
        raise Problem("recipe_broken", field="JSON") from None


def _from_webp(stream: io.BufferedIOBase) -> str:
    for _ in range(MAX_CHUNKS):
        if not (head := stream.read(8)):
            raise Problem("no_recipe")
        if len(head) < 8:
            raise Problem("picture_broken")
        kind, length = struct.unpack("<4sI", head)
        if kind == b"XMP ":
            if length > 8 * LIMIT_KB * 1024:  # escaping makes it longer, six times at most
                raise Problem("recipe_too_large", limit=LIMIT_KB)
            # A parser of XML would only add ways to be attacked: what we wrote has exactly this form.
            found = re.search(rb' trugbild:recipe="([^"]*)"', exactly(stream, length))
            if not found:
                raise Problem("no_recipe")
            return unescape(found[1].decode("latin-1"), {"&quot;": '"'})
        stream.seek(length + length % 2, io.SEEK_CUR)
    raise Problem("picture_broken")


def exactly(stream: io.BufferedIOBase, n: int) -> bytes:
    """The next n bytes, or Problem picture_broken where the file ends before."""
    data = stream.read(n)
    if len(data) < n:
        raise Problem("picture_broken")
    return data


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, LIMIT_KB * 1024 + 1)
    except zlib.error:
        raise Problem("picture_broken") from None
    if len(text) > LIMIT_KB * 1024:
        raise Problem("recipe_too_large", limit=LIMIT_KB)
    return text


def _require(name: str, good: object) -> None:
    if not good:
        raise Problem("recipe_broken", field=name)


def _is_text(value: object, longest: int = LIMIT_KB * 1024) -> bool:
    # Other control characters and halves of surrogate pairs have no business in a prompt.
    return (
        isinstance(value, str)
        and len(value) <= longest
        and not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", value)
    )


def _is_value(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= 2**53  # what every reader of JSON keeps exact
    return math.isfinite(value) if isinstance(value, float) else _is_text(value)


def _quoted(value: object) -> str:
    """As the web UIs do it: text with a comma, a colon or a line break is written as a JSON string."""
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def _unique(pairs: list[tuple[str, object]]) -> dict:
    if len(facts := dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return facts


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
