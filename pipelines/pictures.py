"""Pictures that people bring: from any common file to RGB, or one sentence. Needs no torch."""

import io
from pathlib import Path

from PIL import Image, ImageOps

from .problems import Problem

MAX_PIXELS = 24_000_000  # what a phone takes; decoding stays under a second
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def open_picture(source: bytes | str | Path | Image.Image | None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A file, its bytes or a picture from the page as RGB: upright, on white where it is transparent, first frame.

    The size is taken from the header; nothing is decoded of a picture with more than `max_pixels`.
    Raises Problem: no_picture, picture_unreadable, picture_heic, picture_broken, picture_too_large, picture_depth.
    """
    if source is None or (isinstance(source, (bytes, str)) and not source):
        raise Problem("no_picture")
    image = source if isinstance(source, Image.Image) else _open(source, max_pixels)
    if image.width * image.height > max_pixels:
        raise Problem("picture_too_large", limit=max_pixels // 1_000_000)
    try:
        image.seek(0)
        image.load()
        image = ImageOps.exif_transpose(image)
        return _rgb(image)
    except Problem:
        raise
    except Exception as error:  # broken bytes make Pillow's decoders raise almost anything
        raise Problem("picture_broken") from error


def _open(source: bytes | str | Path, max_pixels: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Problem("picture_too_large", limit=max_pixels // 1_000_000) from None
    except FileNotFoundError:
        raise Problem("no_picture") from None
    except Image.UnidentifiedImageError:
        raise Problem("picture_heic" if _is_heic(source) else "picture_unreadable") from None
    except Exception as error:
        raise Problem("picture_broken") from error


def _is_heic(source: bytes | str | Path) -> bool:
    if isinstance(source, bytes):
        head = source[:12]
    else:
        with open(source, "rb") as stream:
            head = stream.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion to 8 clips instead of scaling
        image = image.convert("I")
        low, high = image.getextrema()
        if low < 0 or high > 65535:
            raise Problem("picture_depth")
        image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if image.mode == "F":
        raise Problem("picture_depth")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    image.info = {}  # where a photo was taken is nobody's business
    return image
