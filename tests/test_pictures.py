"""Pictures that people bring: every kind comes out right, or ends in one sentence, quickly."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines import Problem
from pipelines.pictures import open_picture

RED = (200, 30, 60)


def saved(image: Image.Image, kind: str, **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def photo(size=(60, 40)) -> Image.Image:
    """Left half red, right half a gradient."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels in a few kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def code(source, **more) -> str:
    start = time.perf_counter()
    with pytest.raises(Problem) as caught:
        open_picture(source, **more)
    assert time.perf_counter() - start < 2 and "\n" not in str(caught.value)
    return caught.value.code


def test_common_files(tmp_path):
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = saved(photo(), kind)
        image = open_picture(data)
        assert (image.mode, image.size) == ("RGB", (60, 40))
        assert np.abs(np.array(image.getpixel((10, 20))) - RED).max() <= 6
    (tmp_path / "x.png").write_bytes(saved(photo(), "PNG"))
    for source in (tmp_path / "x.png", str(tmp_path / "x.png"), photo()):
        assert open_picture(source).tobytes() == photo().tobytes()


def test_huge_pictures_are_refused_from_their_header():
    data = bomb(12000)
    assert len(data) < 30_000
    open_picture(saved(photo(), "PNG"))
    start = time.perf_counter()
    assert code(data) == "picture_too_large"
    assert time.perf_counter() - start < 0.05
    assert code(bomb(20000)) == "picture_too_large"  # beyond Pillow's own limit
    assert code(saved(photo(), "PNG"), max_pixels=2399) == "picture_too_large"
    assert open_picture(saved(photo(), "PNG"), max_pixels=2400).size == (60, 40)
    assert code(Image.new("L", (50, 50)), max_pixels=2400) == "picture_too_large"


def test_one_pixel():
    assert open_picture(saved(Image.new("RGB", (1, 1), RED), "PNG")).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    data = saved(
        frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
    )
    assert open_picture(data).getpixel((5, 5)) == RED


def test_two_pictures_in_one_jpeg():
    """As phones write them: a photo and its depth or its thumbnail."""
    assert open_picture(saved(photo(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])).size == (60, 40)


def test_cmyk():
    image = open_picture(saved(photo().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.array(image.getpixel((10, 20)), int) - RED).max() <= 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    values = np.array([[0, 256, 257, 32767, 32896, 65535]], np.uint16)
    image = open_picture(saved(Image.fromarray(values), kind))
    assert image.mode == "RGB" and np.asarray(image)[0, :, 0].tolist() == [0, 1, 1, 127, 128, 255]


def test_sixteen_bit_colour():
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 32896, 0, 257, 256 * 200, 65535) for _ in range(2))
    parts = (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )
    image = open_picture(data)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 128, 0), (1, 200, 255)]


def test_numbers_without_an_agreed_range():
    for values in (np.array([[0.5, 2]], np.float32), np.array([[-1, 2]], np.int32), np.array([[0, 70000]], np.int32)):
        assert code(saved(Image.fromarray(values), "TIFF")) == "picture_depth"


def test_palette_grey_and_bits():
    palette = photo().quantize(16)
    assert np.abs(np.array(open_picture(saved(palette, "PNG")).getpixel((10, 20)), int) - RED).max() <= 12
    assert open_picture(saved(Image.new("L", (4, 4), 77), "PNG")).getpixel((0, 0)) == (77, 77, 77)
    assert open_picture(saved(Image.new("1", (4, 4), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_transparency_is_on_white():
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    half.putpixel((0, 0), (*RED, 255))
    half.putpixel((1, 0), (0, 0, 0, 128))
    for kind in ("PNG", "WEBP"):
        image = open_picture(saved(half, kind, **({"lossless": True} if kind == "WEBP" else {})))
        assert [image.getpixel((x, 0)) for x in range(3)] == [RED, (127, 127, 127), (255, 255, 255)]
    assert open_picture(saved(Image.new("LA", (2, 2), (0, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, *RED])
    assert open_picture(saved(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(saved(palette, "GIF", transparency=1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_by_exif(orientation):
    upright = photo()
    methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how the camera turned it, undone by the flag
    turned = upright.transpose(Image.Transpose(methods[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_picture(saved(turned, "PNG", exif=exif))
    assert image.tobytes() == upright.tobytes() and image.size == upright.size
    assert not image.info and not image.getexif()


def test_cut_off_and_damaged():
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = saved(photo((300, 200)), kind)
        assert code(data[: len(data) // 2]) in ("picture_broken", "picture_unreadable")
    data = bytearray(saved(photo((300, 200)), "PNG"))
    data[data.index(b"IDAT") + 30] ^= 255
    assert code(bytes(data)) == "picture_broken"


def test_what_is_no_picture(tmp_path):
    (tmp_path / "text.png").write_text("I am not a picture")
    assert code(tmp_path / "text.png") == "picture_unreadable"
    assert code(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>") == "picture_unreadable"
    assert code(b"%PDF-1.7") == "picture_unreadable"
    assert code(b"\0" * 1000) == "picture_unreadable"
    for brand in (b"heic", b"mif1", b"heix"):
        assert code(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0") == "picture_heic"
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert code(str(tmp_path / "phone.jpg")) == "picture_heic"


def test_nothing(tmp_path):
    for source in (None, b"", "", tmp_path / "nothing.png"):
        assert code(source) == "no_picture"


def test_text_bombs_in_a_picture():
    data = saved(photo(), "PNG")
    text = b"zTXtcomment\0\0" + zlib.compress(bytes(200 * 2**20), 9)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    try:
        assert open_picture(data[:33] + chunk + data[33:]).size == (60, 40)
    except Problem as problem:
        assert problem.code in ("picture_broken", "picture_unreadable")
