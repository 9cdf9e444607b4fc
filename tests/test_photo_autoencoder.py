"""Photo autoencoders: shapes, damage, recipes, and the layout of TAEF2's released tensors.

With TRUGBILD_REFERENCE_WEIGHTS naming a folder with taef2_encoder.pth and taef2_decoder.pth these are measured, too.
"""

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

import pipelines
from pipelines import Problem, registry, runtime
from pipelines.models.tiny_autoencoder import TinyAutoencoder, released_names
from pipelines.photo_autoencoders import PhotoAutoencoderPipeline, psnr, rounded
from pipelines.weights import load_strictly, read_tensors

REFERENCE = os.environ.get("TRUGBILD_REFERENCE_WEIGHTS")


@pytest.fixture(scope="module")
def released():
    """Random tensors with the names, shapes and type of taef2_encoder.pth and taef2_decoder.pth."""
    torch.manual_seed(0)
    encoder, decoder = {}, {}
    for name, tensor in TinyAutoencoder().half().state_dict().items():
        part, _, number, rest = name.split(".", 3)
        if part == "encoder":
            encoder[f"{number}.{rest}"] = tensor
        else:
            decoder[f"{int(number) + 1}.{rest}"] = tensor
    return encoder, decoder


@pytest.fixture
def folder(released, tmp_path, monkeypatch):
    """A folder of one's own with the two files, which are taken for the released ones."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name, tensors in zip(registry.TAEF2_FILES, released, strict=True):
        torch.save(tensors, folder / name)
    pin(monkeypatch, folder)
    monkeypatch.setattr(registry, "_own", {})
    monkeypatch.setattr(pipelines, "_loaded", {})
    monkeypatch.setattr(pipelines, "_memory", {})
    return folder


def pin(monkeypatch, folder):
    import hashlib

    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in registry.TAEF2_FILES}
    monkeypatch.setattr(registry, "TAEF2_FILES", sums)


@pytest.fixture(scope="module")
def pipeline(released):
    vae = TinyAutoencoder()
    load_strictly(vae, released_names(*released), "random")
    return PhotoAutoencoderPipeline(vae, registry.get("taef2"))


@pytest.fixture(scope="module")
def photo():
    y, x = np.mgrid[:100, :70]
    return Image.fromarray(np.stack([2 * y, x + y, 255 - 2 * x], -1).astype(np.uint8))


def code(function, *arguments, **more) -> str:
    with pytest.raises(Problem) as caught:
        function(*arguments, **more)
    return caught.value.code


def test_the_layout_has_the_released_names_and_sizes(released):
    encoder, decoder = released
    assert (len(encoder), len(decoder)) == (79, 79)
    assert sum(t.numel() for t in encoder.values()) == 1_338_528
    assert sum(t.numel() for t in decoder.values()) == 1_338_499
    assert encoder["11.pool.0.weight"].shape == (256, 64, 1, 1) and encoder["14.weight"].shape == (32, 64, 3, 3)
    assert decoder["3.pool.3.weight"].shape == (64, 256, 1, 1) and decoder["1.weight"].shape == (64, 32, 3, 3)
    assert "6.bias" not in encoder and "7.bias" not in decoder and "10.pool.0.weight" not in decoder


def test_shapes_and_ranges():
    model = TinyAutoencoder(latent_channels=4, width=8, depth=1, groups=2)
    x = torch.rand(2, 3, 32, 48) * 2 - 1
    latent = model.encode(x)
    assert latent.shape == (2, 4, 4, 6) and model.decode(latent).shape == x.shape
    far = model.decode(torch.full((1, 4, 2, 2), 1e4))  # the limiter: as good as 3
    assert torch.allclose(far, model.decode(torch.full((1, 4, 2, 2), 1e5))) and far.isfinite().all()


@pytest.mark.parametrize(
    "vae",
    [TinyAutoencoder(4, 8), AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)],
)
@torch.inference_mode()
def test_a_sketch_is_the_picture_in_small(vae):
    """Exactly so where what follows the doublings looks at one place only."""
    pipe = PhotoAutoencoderPipeline(vae, registry.get("taef2"))
    layers = pipe.vae.decoder.layers
    doubled = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.Upsample)]
    for layer in layers[doubled[1] :].modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight *= F.pad(torch.ones(1, 1), (1, 1, 1, 1))
    for shape, k in (((16, 16), 1), ((63, 80), 1), ((64, 40), 1), ((64, 80), 2), ((130, 128), 4), ((260, 256), 4)):
        latent = torch.randn(1, 4, *shape)
        whole = pipe.decode(latent)
        assert torch.allclose(pipe.sketch(latent), whole[..., ::k, ::k], atol=1e-5), shape


def test_saves_and_loads(tmp_path):
    model = TinyAutoencoder(latent_channels=4, width=8, depth=1, groups=2)
    model.save_pretrained(tmp_path)
    again = TinyAutoencoder.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_reconstruction(pipeline, photo):
    steps = []
    result = pipeline(photo, on_step=lambda i, n, preview: steps.append((i, n, preview and preview.size)))
    assert result.original.tobytes() == photo.tobytes() and result.reconstruction.size == photo.size == (70, 100)
    assert result.latent_shape == (32, 13, 9)  # of 104 x 72
    assert len(result.latent_channels) == 32 and {(c.mode, c.size) for c in result.latent_channels} == {("L", (9, 13))}
    assert (result.input_bytes, result.latent_bytes) == (70 * 100 * 3, 32 * 13 * 9 * 4)
    assert result.psnr == psnr(result.original, result.reconstruction)
    assert steps == [(1, 2, None), (2, 2, (70, 100))]
    assert result.recipe.task == "photo" and result.recipe.seed is None
    assert result.recipe.settings == {"noise": 0.0, "bits": 32, "size": 512}


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 200), (700, 3)])
def test_any_shape(pipeline, size):
    result = pipeline(Image.new("RGB", size, "teal"), size=256)
    assert result.reconstruction.size == result.original.size and max(result.original.size) <= 256


def test_same_seed_same_pixels(pipeline, photo):
    a, b, c = (pipeline(photo, noise=0.5, seed=seed) for seed in (7, 7, 8))
    assert a.reconstruction.tobytes() == b.reconstruction.tobytes() != c.reconstruction.tobytes()
    assert a.recipe == b.recipe and a.recipe.seed == 7


def test_rounding(pipeline, photo):
    for bits in (1, 3, 8):
        result = pipeline(photo, bits=bits)
        assert result.latent_bytes == math.ceil(32 * 13 * 9 * bits / 8) + 8
    latent = torch.randn(1, 4, 8, 8)
    for bits in (1, 2, 8):
        levels = rounded(latent, bits).unique()
        assert len(levels) <= 2**bits and levels[0] == latent.min()
        assert levels[-1].item() == pytest.approx(latent.max().item())
        assert (rounded(latent, bits) - latent).abs().max() <= (latent.max() - latent.min()) / (2**bits - 1) / 2 + 1e-6
    assert rounded(torch.ones(1, 1, 2, 2), 4).eq(1).all()


def test_bad_values(pipeline, photo):
    nan, huge = float("nan"), 10**9
    for more in (
        {"noise": nan},
        {"noise": -0.1},
        {"noise": huge},
        {"bits": 0},
        {"bits": 9},
        {"bits": huge},
        {"size": 8},
    ):
        assert code(pipeline, photo, **more) == "out_of_range"
    for more in ({"seed": -1}, {"seed": 2**64}, {"size": nan}, {"size": huge}, {"noise": float("inf")}):
        assert code(pipeline, photo, **more) == "out_of_range"
    for more in ({"noise": "x"}, {"seed": "abc"}, {"seed": True}, {"size": []}):
        assert code(pipeline, photo, **more) == "not_a_number"
    assert code(pipeline, photo, bits=None) == "missing"
    assert code(pipeline, photo, seed=1.5) == "not_whole"
    assert code(pipeline, None) == "no_picture"


def test_stop(pipeline, photo):
    def stop(i, n, preview):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(photo, on_step=stop)


def test_psnr():
    black, grey = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (16, 16, 16))
    assert psnr(black, black) == math.inf
    assert psnr(black, grey) == pytest.approx(20 * math.log10(255 / 16))


def test_pictures_and_tensors():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    x = runtime.to_tensor([image, image])
    assert x.shape == (2, 3, 16, 16) and (x.min(), x.max()) == (-1, 1)
    assert runtime.to_images(x)[1].tobytes() == image.tobytes()
    grey = image.convert("L")
    assert runtime.to_tensor(grey).shape == (1, 1, 16, 16)
    assert runtime.to_images(runtime.to_tensor(grey) * 1.5)[0].mode == "L"


def test_noise_does_not_depend_on_the_batch():
    batch = runtime.noise(5, 3, 2, 4)
    assert batch.shape == (3, 2, 4)
    assert torch.equal(batch[2], runtime.noise(7, 1, 2, 4)[0])
    assert len(runtime.generators(2**32 - 1, 2)) == 2
    for seed in (-1, 2**32, 2**64, float("nan")):
        assert code(runtime.generators, seed) == "out_of_range"
    assert code(runtime.generators, None) == "missing"
    for seed in ("abc", True):
        assert code(runtime.generators, seed) == "not_a_number"


def test_a_folder_with_the_released_files(folder, photo):
    model = pipelines.register_folder(folder)
    assert (model.id, model.tab, model.kind, model.licence) == ("local/weights", "vae_playground", "photo", "MIT")
    first = pipelines.load(folder)(photo)
    assert first.latent_shape[0] == 32 and first.recipe.model == "local/weights" and len(first.recipe.revision) == 12


def test_the_hub_s_file_is_the_same_model(folder, released, pipeline, photo, tmp_path):
    """taef2.safetensors names its tensors as AutoencoderTiny does."""
    save_file(released_names(*released), tmp_path / registry.TAEF2)
    loaded = PhotoAutoencoderPipeline.from_model(registry.get("taef2"), tmp_path)
    assert loaded(photo).reconstruction.tobytes() == pipeline(photo).reconstruction.tobytes()


def test_files_that_are_not_the_released_ones(folder):
    encoder = folder / "taef2_encoder.pth"
    encoder.write_bytes(encoder.read_bytes()[:-1] + b"x")
    assert code(pipelines.load, folder) == "weights_broken"


def test_files_in_the_right_layout_only(folder, released, monkeypatch):
    encoder, decoder = released
    first, *others = encoder
    for tensors in (
        {name: encoder[name] for name in others},
        encoder | {"99.weight": encoder[first]},
        encoder | {first: encoder[first][:1]},
        {},
    ):
        torch.save(tensors, folder / "taef2_encoder.pth")
        pin(monkeypatch, folder)
        assert code(pipelines.load, folder) == "weights_mismatch"
    torch.save(encoder, folder / "taef2_encoder.pth")
    torch.save(decoder | {"0.weight": decoder["1.weight"]}, folder / "taef2_decoder.pth")
    pin(monkeypatch, folder)
    assert code(pipelines.load, folder) == "weights_mismatch"
    torch.save(decoder | {"19.bias": torch.full((3,), math.nan)}, folder / "taef2_decoder.pth")
    pin(monkeypatch, folder)
    assert code(pipelines.load, folder) == "weights_broken"


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_never_run(tmp_path):
    mark = tmp_path / "run"
    file = tmp_path / "evil.pth"
    torch.save({"a": torch.zeros(1), "b": Evil(mark)}, file)
    assert code(read_tensors, file) == "weights_pickle"
    file.write_bytes(pickle.dumps(Evil(mark), protocol=2))
    assert code(read_tensors, file) == "weights_pickle"
    assert not mark.exists()


def test_damaged_tensor_files(tmp_path):
    file = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1000)}, file)
    assert read_tensors(file)["a"].shape == (1000,)
    whole = file.read_bytes()
    for content in (b"", b"PK", whole[: len(whole) // 2], whole[:-20], b"\x80\x02", b"hello", os.urandom(100)):
        file.write_bytes(content)
        assert code(read_tensors, file) in ("weights_broken", "weights_pickle")
    file.write_bytes(whole[: len(whole) // 2])
    assert code(read_tensors, file) == "weights_broken"
    for thing in ([1, 2], {"a": {"b": torch.zeros(1)}}, {"a": 3}, torch.zeros(2)):
        torch.save(thing, file)
        assert code(read_tensors, file) == "weights_pickle"
    (tmp_path / "b.safetensors").write_bytes(b"x" * 50)
    assert code(read_tensors, tmp_path / "b.safetensors") == "weights_broken"


@pytest.mark.skipif(not REFERENCE, reason="TRUGBILD_REFERENCE_WEIGHTS names no folder")
def test_real_weights_on_real_photos():
    from skimage import data

    loaded = pipelines.load(REFERENCE)
    for name in ("astronaut", "coffee", "chelsea"):
        result = loaded(Image.fromarray(getattr(data, name)()))
        print(f"{name} {result.original.size}: {result.psnr:.2f} dB, latent std {loaded.encode(x(result)).std():.2f}")
        assert result.psnr > 28


def x(result) -> torch.Tensor:
    width, height = (side // 8 * 8 for side in result.original.size)
    return runtime.to_tensor(result.original.crop((0, 0, width, height)))
