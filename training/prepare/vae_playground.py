"""From upstream to the idx files that training/vae_playground.py reads: MNIST or Fashion-MNIST.

    python training/prepare/vae_playground.py mnist --out data/mnist
    python training/prepare/vae_playground.py fashion --out data/fashion --source https://your.mirror/fashion/
    python training/prepare/vae_playground.py mnist --out data/mnist --source mnist-pngs/

SOURCE is the address of a folder with the four .gz files (https: or file:), or a folder here: with those files, or with
pictures named train/<label>/<index>.png and test/<label>/<index>.png (github.com/rasbt/mnist-pngs). Whatever the
way, the unpacked files must have the md5 of the original distribution, or nothing is written.

MNIST: Yann LeCun, Corinna Cortes, Christopher J.C. Burges, CC BY-SA 3.0. Fashion-MNIST: (c) 2017 Zalando SE, MIT.
"""

import argparse
import gzip
import hashlib
import sys
import urllib.request
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from any folder

from training.common import TrainingError, one_sentence

MIRRORS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",  # torchvision's; LeCun's own page asks for a password
    "fashion": "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
}
# md5 of the unpacked files: the packed ones of the original distribution unpack to these, and so do the pictures.
SUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


def write_idx(array: np.ndarray) -> bytes:
    """uint8 array -> an idx file (LeCun's format: 0, 0, 8 for bytes, rank, sizes as big-endian 32 bit, data)."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def from_pictures(folder: Path, split: str) -> tuple[bytes, bytes]:
    """<folder>/<split>/<label>/<index>.png -> the idx files of pictures and labels, in the order of the index."""
    files = sorted((folder / split).glob("*/*.png"), key=lambda file: int(file.stem))
    if not files:
        raise TrainingError(f"{folder.name} has no pictures {split}/<label>/<index>.png.")
    pixels = []
    for file in files:
        try:
            pixels.append(np.array(Image.open(file).convert("L")))
        except (OSError, SyntaxError) as error:
            raise TrainingError(f"{file.name} is not a whole picture.") from error
    return write_idx(np.stack(pixels)), write_idx(np.array([int(file.parent.name) for file in files], np.uint8))


def fetch(source: str, name: str) -> bytes:
    """The unpacked content of <source>/<name>.gz."""
    address = f"{source.rstrip('/')}/{name}.gz"
    try:
        with urllib.request.urlopen(address, timeout=60) as response:  # noqa: S310 - the person names the address
            return gzip.decompress(response.read())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TrainingError(f"{address} could not be read: {error}.") from error


def prepare(source: str, out: Path, sums: dict[str, str]) -> None:
    """Write the four files named in `sums` to out, packed, once all have the md5 that it gives."""
    folder, files = Path(source), {}
    if "://" not in source and not folder.is_dir():
        raise TrainingError(f"{source} is neither a folder nor an address.")
    if "://" not in source and (folder / "train").is_dir():
        images, labels = zip(from_pictures(folder, "train"), from_pictures(folder, "test"), strict=True)
        files = {name: (images if "images" in name else labels)[name.startswith("t10k")] for name in sums}
    else:
        source = source if "://" in source else folder.resolve().as_uri()
        files = {name: fetch(source, name) for name in sums}
    for name, content in files.items():
        if (found := hashlib.md5(content).hexdigest()) != sums[name]:
            raise TrainingError(f"{name} has md5 {found}, not {sums[name]}: it is not the original file.")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / f"{name}.tmp").write_bytes(gzip.compress(content, mtime=0))
        (out / f"{name}.tmp").replace(out / f"{name}.gz")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=SUMS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", help="address or folder; by default a public mirror")
    args = parser.parse_args(argv)
    with one_sentence():
        prepare(args.source or MIRRORS[args.dataset], args.out, SUMS[args.dataset])


if __name__ == "__main__":
    main()
