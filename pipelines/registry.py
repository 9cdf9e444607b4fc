"""Which models there are. Stdlib only: the app asks here before anything heavy is imported."""

import functools
import hashlib
import itertools
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .problems import Problem

TABS = ("faces", "style_transfer", "vae_playground", "text_to_image")
CHECKPOINTS = Path(__file__).parent / "checkpoints"
HUB = "https://huggingface.co/"
DIRECTIONS = ("AtoB", "BtoA")  # of a pair of domains: what its folders are called
APACHE = ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
MIT = ("MIT", "https://opensource.org/license/mit")
BSD_2 = ("BSD-2-Clause", "https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix/blob/master/LICENSE")
BSD_3 = ("BSD-3-Clause", "https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE")
NVIDIA = (
    "NVIDIA Source Code License (non-commercial)",
    "https://github.com/NVlabs/stylegan2/blob/master/LICENSE.txt",
)
OPENRAIL = ("CreativeML OpenRAIL-M", "https://huggingface.co/spaces/CompVis/stable-diffusion-license")
OPENRAIL_2 = (
    "CreativeML Open RAIL++-M",
    "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
)
STABILITY = ("Stability AI Community", "https://stability.ai/community-license-agreement")
STABILITY_NC = (
    "Stability AI Non-Commercial Community",
    "https://huggingface.co/stabilityai/sdxl-turbo/blob/main/LICENSE.md",
)
FLUX_1 = (
    "FLUX.1 [dev] Non-Commercial",
    "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
)
FLUX_2 = ("FLUX [dev] Non-Commercial", "https://huggingface.co/black-forest-labs/FLUX.2-dev/blob/main/LICENSE.txt")
CC_BY_4 = ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/")
CC_BY_SA_4 = ("CC-BY-SA-4.0", "https://creativecommons.org/licenses/by-sa/4.0/")
CC_BY_SA_3 = ("CC BY-SA 3.0", "https://creativecommons.org/licenses/by-sa/3.0/")  # MNIST's own


@dataclass(frozen=True)
class Model:
    id: str  # what links, recipes and the picker call it
    tab: str  # whose wrapper loads it: pipelines/<tab>.py
    kind: str  # what the tab does with it
    source: str  # "bundled", "folder" (one's own) or the repository on the hub
    licence: str
    licence_url: str
    year: int | None = None
    revision: str | None = None  # the commit on the hub; None: not known here, see pinned
    gate: bool = False  # whether the hub asks for consent first
    memory_mb: int = 100  # while working at the default size
    defaults: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, str | None] = field(
        default_factory=dict
    )  # on the hub: name -> sha256, None for small JSON, see ASK
    path: Path | None = None  # where the files lie, unless on the hub
    repo_type: str = "model"  # on the hub; or "space"
    base: str = ""  # id of the model that it goes with, or was made from
    conditions: tuple[str, ...] = ()  # of a ControlNet: names in conditions.py of what it was trained to follow
    # A repository of diffusers on the hub, when `files` is empty; hub.py takes the files that its index names.
    variant: str = ""  # "fp16" where that is smaller
    parts: Mapping[str, str] = field(default_factory=dict)  # folder -> id of the model instead of it
    config: Mapping[str, object] = field(default_factory=dict)  # of a net whose repository is one file of tensors
    plan: Mapping[str, str] = field(default_factory=dict)  # how a person wants it put into memory, see text_plan.py

    @property
    def fits(self) -> str:
        """What the `base` of a net says that goes with this model."""
        return (self.base or self.id).removeprefix("local/")

    @property
    def card_url(self) -> str | None:
        """The model's page on the hub."""
        return None if self.path else f"{HUB}{'' if self.repo_type == 'model' else self.repo_type + 's/'}{self.source}"


def _bundled(id: str, licence: tuple[str, str], tab: str = "vae_playground", kind: str = "latent", **more) -> Model:
    return Model(id, tab, kind, "bundled", *licence, 2026, path=CHECKPOINTS / id, **more)


def _photo(id: str, repo: str, year: int, memory_mb: int, revision: str, name: str, sha256: str) -> Model:
    files = {name: sha256} if name == TAEF2 else {"config.json": None, name: sha256}
    return Model(id, "vae_playground", "photo", repo, *MIT, year, revision, memory_mb=memory_mb, files=files)


def _stylegan2(id: str, name: str, size: int, memory_mb: int, sha256: str) -> Model:
    source, revision = "ZeqiangLai/StyleGAN2", "5fde0cdb3664b04e8126dc6b0cab010e7813c18b"
    files = {name: sha256}
    more = {"memory_mb": memory_mb, "files": files, "defaults": {"image_size": size}}
    return Model(f"stylegan2-{id}", "faces", "faces", source, *NVIDIA, 2020, revision, **more)


def _pair(id: str, licence: tuple[str, str]) -> Model:
    """One of ours, both directions, each with its discriminator."""
    folders = [f"{direction}{judge}" for direction in DIRECTIONS for judge in ("", "/discriminator")]
    files = {f"{folder}/{name}": None for folder in folders for name in ("config.json", WEIGHTS)}
    return _bundled(id, licence, "style_transfer", "cyclegan", files=files, memory_mb=600)


def _text(id: str, kind: str, steps: int, guidance: float, parts: tuple[str, ...]) -> Model:
    """One of ours: a pipeline of diffusers for 128 px, with words.json, the list of what it knows."""
    files = dict.fromkeys((INDEX, "words.json", f"vae/{WEIGHTS}", *parts))
    defaults = {"steps": steps, "guidance": guidance, "size": 128}
    return _bundled(id, CC_BY_4, "text_to_image", kind, files=files, memory_mb=500, defaults=defaults)


def _hub(
    id: str,
    source: str,
    kind: str,
    licence: tuple[str, str],
    year: int,
    revision: str,
    memory_gb: float,
    steps: int,
    guidance: float,
    size: int,
    sampler: str = "",
    **more,
) -> Model:
    """A pipeline of diffusers: memory is that of its weights in bf16 with room to work in."""
    defaults = {"steps": steps, "guidance": guidance, "size": size} | ({"sampler": sampler} if sampler else {})
    more = {"memory_mb": int(1000 * memory_gb), "defaults": defaults, **more}
    return Model(id, "text_to_image", kind, source, *licence, year, revision, **more)


def _companion(id: str, kind: str, base: str, *conditions: str) -> tuple[Model, ...]:
    """One of ours that goes with another of ours; () as long as it is not bundled."""
    more = {"files": {LORA: None}} if kind == "lora" else {}
    more |= {"memory_mb": 200, "base": base, "conditions": conditions}
    model = _bundled(id, CC_BY_4, "text_to_image", kind, **more)
    return (model,) if model.path.is_dir() else ()


def _control(
    id: str,
    source: str,
    licence: tuple[str, str],
    year: int,
    revision: str | None,
    base: str,
    memory_gb: float,
    *conditions: str,
    **more,
) -> Model:
    more |= {"memory_mb": int(1000 * memory_gb), "base": base, "conditions": conditions, "variant": "fp16"}
    return Model(id, "text_to_image", "controlnet", source, *licence, year, revision, **more)


def _cyclegan(id: str, **files: str) -> Model:
    """Published by the authors: sha256 of the file of each of their names; A to B, then B to A where there is that."""
    source, revision = "davidpiscasio/unpaired-img2img", "3ce13dcd9fafca8f086ff5a532cf2cc34431995e"
    names = {f"checkpoints/{name}_pretrained/latest_net_G.pth": sha256 for name, sha256 in files.items()}
    more = {"memory_mb": 900, "files": names, "repo_type": "space"}
    return Model(id, "style_transfer", "cyclegan", source, *BSD_2, 2017, revision, **more)


INDEX = "model_index.json"  # of a pipeline of diffusers: the class of each of its parts
ASK = ""  # instead of a sha256 that is not known here: the file stays closed until the person gives one, see checksums
PREVIEW = "preview"  # folder of a small autoencoder beside the parts of a pipeline
WEIGHTS, TAEF2 = "diffusion_pytorch_model.safetensors", "taef2.safetensors"
LORA = "pytorch_lora_weights.safetensors"
# fmt: off
MODELS = (
    _bundled("vae-digits-2d", CC_BY_SA_3),
    _bundled("ae-digits-2d", CC_BY_SA_3),
    _bundled("vae-digits-16d", CC_BY_SA_3),
    _bundled("vae-fashion-2d", MIT),
    _bundled("vae-digits-2d-beta0.1", CC_BY_SA_3),
    _bundled("vae-digits-2d-beta4", CC_BY_SA_3),
    _bundled("vae-digits-2d-beta10", CC_BY_SA_3),
    _photo("sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse", 2022, 1500, "31f26fdeee1355a5c34592e401dd41e45d25a493",
           WEIGHTS, "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815"),
    _photo("taesd", "madebyollin/taesd", 2023, 300, "614f76814bbe30edbe2e627ace1c2234c81a2c0e",
           WEIGHTS, "db169d69145ec4ff064e49d99c95fa05d3eb04ee453de35824a6d0f325513549"),
    _photo("taesdxl", "madebyollin/taesdxl", 2023, 300, "b20258aaef75ef61e659c1e0f14f251cf0ad153e",
           WEIGHTS, "ff4824aca94dd6111e0340fa749347fb74101060d9712cb5ef1ca8f1cf17502f"),
    _photo("taesd3", "madebyollin/taesd3", 2024, 300, "d58dcaccd2b36fcb7a6b9e93c1cc507acab5a778",
           WEIGHTS, "6f79c1397cb9ce1dac363722dbe70147aee0ccca75e28338f8482fe515891399"),
    _photo("taef1", "madebyollin/taef1", 2024, 300, "b1b2d00e9e440cfbf3dedb34266864da86016ceb",
           WEIGHTS, "47a6c2bff850da04b267cab70fe3553fef57255eb9a8e76852baa0a87850e54d"),
    _photo("taef2", "madebyollin/taef2", 2025, 300, "bd244ebfe4398c84fbf312a2f1c868c676b500e3",
           TAEF2, "701d31c0ecbef3b609fe236e2e3a65ffb17f3a94237acdd771e8ea3194df557a"),
    Model("faces-64", "faces", "faces", "bundled", *APACHE, 2026, path=CHECKPOINTS / "faces-64"),
    _stylegan2("ffhq-1024", "stylegan2-ffhq-config-f.pt", 1024, 1500,
               "646c7e7c5e3fc4cf8e83dcfe5dce505cc74b61d8982c09563932aa15c4baf18c"),
    _stylegan2("car-512", "stylegan2-car-config-f.pt", 512, 1000,
               "c69f161fd576801027cbaa8b09142b5dd9f508034b2d0f4a2a0cdcbc1d587c9c"),
    _stylegan2("cat-256", "stylegan2-cat-config-f.pt", 256, 900,
               "ff1036877c8964ba7c9e84316e67ea26bea64bbfcf6bd6c645f45589d248727f"),
    _stylegan2("church-256", "stylegan2-church-config-f.pt", 256, 900,
               "596f59f0ab72d3d5e821846dbf53fff0406c0103ff4fa46ae0a2508d80b3a2d0"),
    _stylegan2("horse-256", "stylegan2-horse-config-f.pt", 256, 900,
               "894bc6a08a6bbe4c22bf91195dd4fdd4ee7f6859e06ce3517e7b3bfa9a8b2565"),
    _stylegan2("metfaces", "ada/metfaces.pt", 1024, 1500, ASK),
    _stylegan2("afhqdog", "ada/afhqdog.pt", 512, 1000, ASK),
    _stylegan2("afhqcat", "ada/afhqcat.pt", 512, 1000, ASK),
    _pair("style-historic", APACHE),
    _pair("style-monet", CC_BY_SA_4),
    _cyclegan("horse2zebra", horse2zebra=ASK, zebra2horse=ASK),
    _cyclegan("apple2orange", apple2orange="ff989c98f3a077cd11c2623ed8742e2ef147e81d10b4e4c2ee6935796bda957a",
              orange2apple=ASK),
    _cyclegan("monet", style_monet=ASK),  # "monet2photo" would make photographs of paintings
    _cyclegan("vangogh", style_vangogh=ASK),
    _text("emoji-sd", "diffusion", 20, 4.0, (f"unet/{WEIGHTS}", "text_encoder/model.safetensors")),
    _text("emoji-flux", "flow", 8, 3.0,
          (f"transformer/{WEIGHTS}", "text_encoder/model.safetensors", "text_encoder_2/model.safetensors")),
    _hub("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "diffusion", OPENRAIL, 2022,
         "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", 3.5, 25, 7.5, 512, "DPM++ 2M", variant="fp16"),
    _hub("lcm-dreamshaper-7", "SimianLuo/LCM_Dreamshaper_v7", "consistency", MIT, 2023,
         "a85df6a8bd976cdd08b4fd8f3b73f229c9e54df5", 3.5, 4, 8.0, 512, base="sd15"),
    _hub("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", "diffusion", OPENRAIL_2, 2023,
         "462165984030d82259a11f4367a4eed129e94a7b", 9.5, 30, 5.0, 1024, "Euler", variant="fp16",
         parts={"vae": "sdxl-vae-fp16-fix"}),
    _hub("sdxl-turbo", "stabilityai/sdxl-turbo", "diffusion", STABILITY_NC, 2023,
         "71153311d3dbb46851df1931d3ca6e939de83304", 8.5, 1, 0.0, 512, "Euler a", base="sdxl", variant="fp16",
         parts={"vae": "sdxl-vae-fp16-fix"}),
    _hub("sd35-medium", "stabilityai/stable-diffusion-3.5-medium", "flow", STABILITY, 2024,
         "b940f670f0eda2d07fbb75229e779da1ad11eb80", 18.5, 40, 4.5, 1024, gate=True),
    _hub("sd35-large", "stabilityai/stable-diffusion-3.5-large", "flow", STABILITY, 2024,
         "ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f", 30, 28, 3.5, 1024, gate=True),
    _hub("sd35-large-turbo", "stabilityai/stable-diffusion-3.5-large-turbo", "flow", STABILITY, 2024,
         "ec07796fc06b096cc56de9762974a28f4c632eda", 30, 4, 0.0, 1024, gate=True, base="sd35-large"),
    _hub("flux1-schnell", "black-forest-labs/FLUX.1-schnell", "flow", APACHE, 2024,
         "741f7c3ce8b383c54771c7003378a50191e9efe9", 36.5, 4, 0.0, 1024, gate=True),
    _hub("flux1-dev", "black-forest-labs/FLUX.1-dev", "flow", FLUX_1, 2024,
         "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21", 36.5, 28, 3.5, 1024, gate=True),
    _hub("flux1-kontext", "black-forest-labs/FLUX.1-Kontext-dev", "flow", FLUX_1, 2025,
         "24e9dedc4ef646698dc8eb4e18ae2cec3c9fea0d", 37, 28, 2.5, 1024, gate=True),
    _hub("qwen-image", "Qwen/Qwen-Image", "flow", APACHE, 2025,
         "75e0b4be04f60ec59a75f475837eced720f823b6", 61, 50, 4.0, 1024),
    _hub("z-image-turbo", "Tongyi-MAI/Z-Image-Turbo", "flow", APACHE, 2025,
         "f332072aa78be7aecdf3ee76d5c247082da564a6", 23, 9, 0.0, 1024),
    _hub("flux2-dev", "black-forest-labs/FLUX.2-dev", "flow", FLUX_2, 2025,
         "26afe3a78bb242c0a8bb181dcc8937bb16e5c66c", 116, 28, 4.0, 1024, gate=True),
    _hub("qwen-image-edit", "Qwen/Qwen-Image-Edit-2511", "flow", APACHE, 2025,
         "6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9", 62, 40, 4.0, 1024),
    _hub("flux2-klein-4b", "black-forest-labs/FLUX.2-klein-4B", "flow", APACHE, 2026,
         "e7b7dc27f91deacad38e78976d1f2b499d76a294", 18, 4, 1.0, 1024),
    _control("sd15-canny", "lllyasviel/control_v11p_sd15_canny", OPENRAIL, 2023,
             "115a470d547982438f70198e353a921996e2e819", "sd15", 1.2, "canny"),
    _control("sd15-depth", "lllyasviel/control_v11f1p_sd15_depth", OPENRAIL, 2023,
             "539f99181d33db39cf1af2e517cd8056785f0a87", "sd15", 1.2, "depth"),
    _control("sd15-pose", "lllyasviel/control_v11p_sd15_openpose", OPENRAIL, 2023,
             "9ae9f970358db89e211b87c915f9535c6686d5ba", "sd15", 1.2, "pose"),
    _control("sd15-soft-edge", "lllyasviel/control_v11p_sd15_softedge", OPENRAIL, 2023,
             "b5bcad0c48e9b12f091968cf5eadbb89402d6bc9", "sd15", 1.2, "soft_edge"),
    _control("sd15-scribble", "lllyasviel/control_v11p_sd15_scribble", OPENRAIL, 2023, None, "sd15", 1.2, "scribble",
             "drawing"),
    _control("sd15-line-art", "lllyasviel/control_v11p_sd15_lineart", OPENRAIL, 2023, None, "sd15", 1.2, "line_art",
             "line_art_plain"),
    _control("sd15-normal", "lllyasviel/control_v11p_sd15_normalbae", OPENRAIL, 2023, None, "sd15", 1.2, "normal"),
    _control("sd15-segmentation", "lllyasviel/control_v11p_sd15_seg", OPENRAIL, 2023, None, "sd15", 1.2,
             "segmentation"),
    _control("sdxl-union", "xinsir/controlnet-union-sdxl-1.0", APACHE, 2024,
             "801a4a3fa3d4c936f4feea95b98607bc6726f80c", "sdxl", 3, "canny", "scribble", "drawing", "line_art_plain",
             "soft_edge", "line_art", "pose", "depth", "normal", "segmentation"),
    _control("sd35-large-canny", "stabilityai/stable-diffusion-3.5-large-controlnet-canny", STABILITY, 2024, None,
             "sd35-large", 18, "canny", gate=True),
    _control("sd35-large-depth", "stabilityai/stable-diffusion-3.5-large-controlnet-depth", STABILITY, 2024, None,
             "sd35-large", 18, "depth", gate=True),
    _control("sd35-large-blur", "stabilityai/stable-diffusion-3.5-large-controlnet-blur", STABILITY, 2024, None,
             "sd35-large", 18, "blur", gate=True),
    _control("flux1-union", "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0", FLUX_1, 2025,
             "ee7b07538d5c07499f4b92ae4c210a44a18ebf18", "flux1-dev", 4.5, "canny", "soft_edge", "depth", "pose"),
    # Its config.json is that of VideoX-Fun (config/z_image/z_image_control.yaml): 136 tensors, as in the file.
    _control("z-image-union", "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union", APACHE, 2025, None,
             "z-image-turbo", 3.5, "canny", "soft_edge", "depth", "pose",
             files={"Z-Image-Turbo-Fun-Controlnet-Union.safetensors": ASK},
             config={"_class_name": "ZImageControlNetModel", "control_layers_places": (0, 5, 10, 15, 20, 25),
                     "control_in_dim": 16}),
    *_companion("emoji-sd-canny", "controlnet", "emoji-sd", "canny"),
    *_companion("emoji-sd-pizza", "lora", "emoji-sd"),
)
# Nets that work for a tab but are none of its models: recipes may name them, no picker shows them.
# The authors' own file lies on GitHub, release v0.2.5.0; on the hub it is part of other people's Spaces.
TOOLS = (
    Model("realesr-animevideov3", "text_to_image", "upscaler", "guetLzy/Real-ESRGAN-Demo", *BSD_3, 2022,
          "32fc289a0d37eefa4b76839e0ad2a51587c3e49a", memory_mb=300, repo_type="space",
          files={"weights/realesr-animevideov3.pth":
                 "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d"}),
    Model("sdxl-vae-fp16-fix", "text_to_image", "vae", "madebyollin/sdxl-vae-fp16-fix", *MIT, 2023,
          "207b116dae70ace3637169f1ddd2434b91b3a8cd", memory_mb=400),
)
# fmt: on

# One's own folder may also hold tensor files in torch's format, if they are exactly these (madebyollin/taesd 5cccb12).
TAEF2_FILES = {
    "taef2_encoder.pth": "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
    "taef2_decoder.pth": "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
}
# A folder that diffusers wrote says by its class which tab it belongs to.
PIPELINES = {
    "StableDiffusionPipeline": "diffusion",
    "StableDiffusionXLPipeline": "diffusion",
    "LatentConsistencyModelPipeline": "consistency",
    **dict.fromkeys(
        (
            "StableDiffusion3Pipeline", "FluxPipeline", "FluxKontextPipeline", "Flux2Pipeline", "Flux2KleinPipeline",
            "ZImagePipeline", "QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline",
        ),
        "flow",
    ),
}  # fmt: skip
CLASSES = {"AutoencoderKL": ("vae_playground", "photo"), "AutoencoderTiny": ("vae_playground", "photo")}
COMPANIONS = ("controlnet", "lora")  # kinds that go with a model, their `base`
# Kinds of nets that other parts use by themselves: nobody picks them.
HELPERS = ("alignment",)

_log = logging.getLogger(__name__)
_own: dict[str, Model] = {}  # folders of one's own, by id
_lock = threading.Lock()


def models(tab: str | None = None, *kinds: str) -> list[Model]:
    """The models of a tab (or all), of those kinds or of all that can be picked by themselves: MODELS in their order,
    then folders of one's own as they were registered."""
    with _lock:
        every = [model for model in (*MODELS, *_own.values()) if tab in (None, model.tab)]
    return [model for model in every if (model.kind in kinds if kinds else model.kind not in COMPANIONS)]


def get(id: str) -> Model:
    """The model of that id, or Problem("unknown_model")."""
    for model in (*models(), *models(None, *COMPANIONS), *TOOLS):
        if model.id == id:
            return model
    raise Problem("unknown_model", model=id)


def companions(model: Model, kind: str) -> list[Model]:
    """The nets of that kind, one of COMPANIONS, that go with a model."""
    return [net for net in models(model.tab, kind) if net.base == model.fits]


def variable(what: str, id: str) -> str:
    """The environment variable in which a person says what is not known here."""
    return f"TRUGBILD_{what}_" + re.sub(r"\W", "_", id).upper()


def pinned(model: Model) -> Model:
    """The model; from the hub with the commit that a person named where none is known here. Raises revision_unknown."""
    if model.path or model.revision:
        return model
    name = variable("REVISION", model.id)
    given = os.environ.get(name, "").strip().lower()
    if not re.fullmatch("[0-9a-f]{40}", given):
        raise Problem("revision_unknown", model=model.id, variable=name, url=model.card_url)
    return replace(model, revision=given)


def checksums(model: Model) -> Mapping[str, str | None]:
    """The sha256 of each file. What is not known here comes from TRUGBILD_SHA256_<ID>, or Problem checksum_unknown.

    Where several files are not known, the variable holds theirs in the order of model.files, with commas between.
    """
    name = variable("SHA256", model.id)
    asked = [file for file, sha256 in model.files.items() if sha256 == ASK]
    given = re.findall(r"[^\s,]+", os.environ.get(name, "").lower())
    if asked and (len(given) != len(asked) or not all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in given)):
        if len(asked) == 1:
            raise Problem("checksum_unknown", model=model.id, variable=name, file=asked[0])
        folders = ", ".join(file.split("/")[-2] for file in asked)
        raise Problem("checksums_unknown", model=model.id, variable=name, n=len(asked), folders=folders)
    return {**model.files, **dict(zip(asked, given, strict=False))}


def register_folder(path: str | Path) -> Model:
    """Makes a folder that training or diffusers wrote known as local/<name>; again for the same folder refreshes it."""
    path = Path(path).expanduser().resolve()
    for model in MODELS:
        if model.path == path:
            return model
    try:
        names = {file.name for file in path.iterdir()}
    except OSError:
        raise Problem("folder_missing", folder=path.name) from None
    weights = {name: None for name in _weights(path) if name.endswith(".safetensors")}
    licence, year, defaults, base, conditions = "", None, {}, "", ()
    if "training.json" in names:
        tab, kind, licence, year, defaults, base, conditions = _training(path)
        if kind in HELPERS:
            raise Problem("folder_helper", folder=path.name)
    elif names >= TAEF2_FILES.keys():
        tab, kind, weights, (licence, _), year = "vae_playground", "photo", TAEF2_FILES, MIT, 2025
    elif (name := class_name(path)) in CLASSES:
        tab, kind = CLASSES[name]
    elif (name := class_name(path, INDEX)) in PIPELINES:
        tab, kind = "text_to_image", PIPELINES[name]
    else:
        raise Problem("folder_unknown", folder=path.name)
    if not weights:
        raise Problem("folder_pickle", folder=path.name)
    # fp16 weights grow to fp32 in memory; the rest is what a wrapper needs to work.
    memory_mb = 200 + 2 * sum((path / name).stat().st_size for name in weights) // 2**20
    with _lock:
        known = {model.path: id for id, model in _own.items()}
        names = (f"local/{path.name}{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
        id = known.get(path) or next(id for id in names if id not in _own)
        model = Model(
            id, tab, kind, "folder", licence, "", year, None, False, memory_mb, defaults, weights, path, base=base,
            conditions=conditions,
        )  # fmt: skip
        _own[id] = model
    return model


def discover(runs: str | Path = "runs") -> list[Model]:
    """Registers every finished run in a folder, oldest first. Runs without training.json are still training."""
    finished = []
    for file in Path(runs).glob("*/training.json"):
        try:
            finished.append((file.stat().st_mtime, register_folder(file.parent)))
        except (Problem, OSError) as problem:
            _log.warning("%s is left out: %s", file.parent.name, problem)
    return [model for _, model in sorted(finished, key=lambda item: item[0])]


def revision(model: Model) -> str:
    """What a recipe calls the exact weights: the commit on the hub, else the start of the weights' sha256."""
    if not model.path:
        return pinned(model).revision
    files = [model.path / name for name in _weights(model.path)]
    return _digest(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


def _weights(path: Path) -> list[str]:
    """The files with weights in a model's folder; those of a pair lie in the folders of its directions, those of a
    pipeline in the folders of its parts."""
    pairs = [f"{direction}{judge}" for direction in DIRECTIONS for judge in ("", "/discriminator")]
    found = path.glob("*/config.json") if (path / INDEX).is_file() else ()
    parts = sorted(file.parent.name for file in found if file.parent.name != PREVIEW)  # no picture depends on that
    files = [file for folder in ("", *pairs, *parts) for file in sorted((path / folder).glob("*"))]
    return [file.relative_to(path).as_posix() for file in files if file.suffix in (".safetensors", ".pth")]


@functools.lru_cache(maxsize=64)
def _digest(stamps: tuple) -> str:
    digest = hashlib.sha256()
    for file, *_ in stamps:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def _json(file: Path, folder: str, name: str) -> dict:
    try:
        if file.stat().st_size > 2**20:
            raise ValueError
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise Problem("folder_broken", folder=folder, field=name) from None
    if not isinstance(value, dict):
        raise Problem("folder_broken", folder=folder, field=name)
    return value


def _training(path: Path) -> tuple[str, str, str, int | None, dict, str, tuple[str, ...]]:
    facts = _json(path / "training.json", path.name, "training.json")
    tab, kind = facts.get("tab"), facts.get("kind")
    licence, year, defaults = facts.get("licence", ""), facts.get("year"), facts.get("defaults", {})
    base, condition = facts.get("base", ""), facts.get("condition", "")
    for name, good in {
        "tab": tab in TABS,
        "kind": isinstance(kind, str) and kind.isidentifier(),
        "licence": isinstance(licence, str),
        "year": year is None or isinstance(year, int),
        "defaults": isinstance(defaults, dict),
        "base": isinstance(base, str) and bool(base) == (kind in COMPANIONS),
        "condition": isinstance(condition, str),
    }.items():
        if not good:
            raise Problem("folder_broken", folder=path.name, field=name)
    return tab, kind, licence, year, defaults, base, (condition,) if condition else ()


def class_name(path: Path, file: str = "config.json") -> str | None:
    """Which class of diffusers a folder was written by, according to that file."""
    try:
        name = _json(path / file, path.name, file).get("_class_name")
    except Problem:
        return None
    return name if isinstance(name, str) else None


if __name__ == "__main__":
    from pipelines.registry_check import main

    sys.exit(main())
