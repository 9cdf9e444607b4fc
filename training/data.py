"""Pictures for training, from idx files, parquet, a folder or the hub, as one tensor of bytes.

What is missing, empty, corrupt or of the wrong size is a TrainingError: one sentence that names the file.
"""

import gzip
import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image, UnidentifiedImageError


class TrainingError(ValueError):
    """What the person at the command line can put right; its text is one sentence."""


@dataclass
class Images:
    """Pictures held in memory as bytes, with the other columns of their source."""

    pixels: torch.Tensor  # uint8 (N, C, H, W)
    table: dict[str, list]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: torch.Tensor) -> torch.Tensor:
        """indices (N,) -> x (N, C, H, W) in [-1, 1], float32 on the CPU."""
        return self.pixels[indices].float() / 127.5 - 1

    def column(self, name: str) -> list:
        """Values of a column (`label`, a caption ...), one a picture."""
        if name not in self.table:
            raise TrainingError(f"The data has no column {name!r}; it has {', '.join(sorted(self.table)) or 'none'}.")
        return self.table[name]


def load_images(
    source: str | Path,
    size: int,  # side in pixels
    channels: int = 3,  # 1 (grey) or 3 (RGB); what is transparent becomes white
    split: str = "train",  # "train" or "test": idx names, sub-folder, parquet prefix, split on the hub
    fit: str = "exact",  # "exact": another size is an error; "crop": centre square, resized
    image_column: str = "image",
) -> Images:
    """idx(.gz) | parquet with an Image feature | image folder | hub:owner/name -> Images.

    Raises TrainingError, one sentence naming the file, for what is missing, empty, corrupt or of the wrong size.
    """
    if str(source).startswith("hub:"):
        return _decode(_hub_rows(str(source)[4:], split, image_column), str(source), size, channels, fit)
    path = Path(source)
    if not path.exists():
        raise TrainingError(f"{path.name!r} does not exist; a data set of the hub is written hub:owner/name.")
    idx = sorted(path.glob({"train": "train", "test": "t10k"}[split] + "-images-idx3-ubyte*")) if path.is_dir() else []
    if idx:
        return _load_idx(idx[0], size, channels)
    part = path / split if (path / split).is_dir() else path
    files = [path] if path.is_file() else sorted(part.rglob("*.parquet"))
    named = [f for f in files if f.name.startswith(split)]
    if split != "train" and part == path and not named:
        raise TrainingError(f"{path.name} has no part for {split}: no {split}/ and no {split}*.parquet.")
    path = part
    if files[:1] and files[0].suffix == ".parquet":
        files = named or files
        return _decode(_parquet_rows(files, image_column), path.name, size, channels, fit)
    return _decode(_folder_rows(path), path.name, size, channels, fit)


def read_idx(path: Path) -> torch.Tensor:
    """An idx(.gz) file of bytes -> uint8 tensor of the shape in its header (LeCun's format: 0, 0, 8, rank, sizes)."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        shape = np.frombuffer(raw, ">u4", raw[3], 4)
        return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy())
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise TrainingError(f"{path.name} is not a whole idx file.") from error


def _load_idx(path: Path, size: int, channels: int) -> Images:
    pixels = read_idx(path)
    labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if pixels.ndim != 3 or tuple(pixels.shape[1:]) != (size, size):
        found = "x".join(map(str, pixels.shape[1:]))
        raise TrainingError(f"{path.name} holds pictures of {found} pixels, not {size}x{size}.")
    table = {"label": read_idx(labels).tolist()} if labels.exists() else {}
    if table and len(table["label"]) != len(pixels):
        raise TrainingError(f"{labels.name} has {len(table['label'])} labels for {len(pixels)} pictures.")
    return Images(pixels[:, None].expand(-1, channels, -1, -1).contiguous(), table)


def _parquet_rows(files, column):
    """-> (name, bytes, other columns) a picture"""
    for file in files:
        try:
            table = pyarrow.parquet.read_table(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise TrainingError(f"{file.name} is not a whole parquet file.") from error
        if column not in table.column_names:
            raise TrainingError(f"{file.name} has no column {column!r}; it has {', '.join(table.column_names)}.")
        for i, row in enumerate(table.to_pylist()):
            yield f"{file.name}, row {i}", (row.pop(column) or {}).get("bytes"), row


def _folder_rows(path: Path):
    suffixes = set(Image.registered_extensions())
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and file.suffix.lower() in suffixes:
            yield file.name, file.read_bytes(), {"file": str(file.relative_to(path)), "label": file.parent.name}


def _hub_rows(name: str, split: str, column: str):
    import datasets  # takes seconds; only a run on a data set of the hub pays for it

    try:
        data = datasets.load_dataset(name, split=split)
        data = data.cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # the library raises its own, requests' and the hub's errors alike
        raise TrainingError(f"The data set {name!r} of the hub could not be loaded: {str(error)[:200]}") from error
    for i, row in enumerate(data):
        image = row.pop(column)
        yield f"{name}, row {i}", image["bytes"] or Path(image["path"]).read_bytes(), row


def _decode(rows, source: str, size: int, channels: int, fit: str) -> Images:
    pixels, table = [], {}
    for name, data, row in rows:
        try:
            image = Image.open(io.BytesIO(data or b""))
            image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise TrainingError(f"{name} is not a whole picture.") from error
        if fit == "exact" and image.size != (size, size):
            raise TrainingError(f"{name} has {image.width}x{image.height} pixels, not {size}x{size}.")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        if image.size != (size, size):
            square = image.crop((left, top, left + side, top + side))  # a box of resize() would see beyond its edge
            image = square.resize((size, size), Image.Resampling.LANCZOS)
        pixels.append(torch.from_numpy(np.array(image)).reshape(size, size, channels).permute(2, 0, 1))
        for key, value in row.items():
            table.setdefault(key, []).append(value)
    if not pixels:
        raise TrainingError(f"{source} holds no pictures.")
    return Images(torch.stack(pixels), table)
