"""Trains the small text-to-image models: the architecture of Stable Diffusion, or that of Flux, on composed scenes.

    python -m training.latents --data ../shared/data/emoji --vae runs/emoji-vae --out runs/emoji-latents
    python -m training.text_to_image --objective diffusion --data ../shared/data/emoji --latents runs/emoji-latents \
        --out runs/emoji-sd
    python -m training.text_to_image --objective flow ... --out runs/emoji-flux

OUT is an ordinary StableDiffusionPipeline or FluxPipeline of diffusers from the first snapshot on, and words.json in
it says which words it knows; add --resume to go on after a stop, --from FOLDER to learn on from a finished model. Text
encoders learn along with the net; captions are drawn anew each time in English and German. Pairs that
`scenes.held_out` names are in none of them.

diffusion: v-prediction (Salimans & Ho 2022), a schedule that ends in pure noise (Lin et al. 2024), DDIM; errors of v
count alike, or by min-SNR (Hang et al. 2023). flow: rectified flow (Liu et al. 2023), logit-normal times (Esser et al.
2024). In both, times are moved towards noise, where words matter: half of the variance of these latents is guessed
right at SNR 0.02 without them. There min-SNR weighs errors with 0.02; with it, and with times around 0.5, words had
done nothing for objects after 2,000 steps.

Matrices learn by Muon (training/muon.py): the loss of emoji-sd on held-out scenes, which 3,100 steps of AdamW had left
at 0.37, fell to 0.35 within 1,000. The T5 of emoji-flux could not tell what a caption names after 360,000 scenes of
AdamW and 190,000 of Muon (linear heads read 0.14 of the objects from its mean state); begun anew (--anew), it could
after 75,000 of Muon (0.94).

Guidance in both is true classifier-free guidance (Ho & Salimans 2022): a tenth of the captions is dropped. Flux's own
guidance embedding is distilled from a teacher that was guided so; there is no teacher here, so `guidance_embeds` is off
and FluxPipeline is called with true_cfg_scale and negative_prompt="".
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from diffusers.utils import logging
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from training import common, words
from training.autoencoder import PHOTO_CREDITS
from training.common import TrainingError, option
from training.latents import HELD_OUT, HELD_OUT_SEED, VAE_FILES, Latents
from training.muon import MuonAndAdamW
from training.quick import plain_attention, quick_flux
from training.scenes import LANGUAGES, SIZE, Facts, Scenes

PROMPTS = (  # of the sheet; the first pair is never trained on
    "frog with melon hat",
    "ein Frosch mit Melonenhut am Strand",
    "a cat with a top hat in the desert, in 3D",
    "ein Hund mit einer Krone auf einer Wiese, flacher Stil",
    "a car to the left of a tree in a city",
    "Bild von einer Eule neben einem Kaktus bei Nacht",
    "an owl on a blue background",
    "ein Löwe, Twemoji-Stil",
)


NOTHING = -1  # the label of what a caption leaves open


@dataclass(kw_only=True)
class Config(common.Config):
    """Defaults are those of the bundled models: widths that one core trains in a day or two."""

    objective: Literal["diffusion", "flow"] = option("diffusion", "Stable Diffusion's net, or Flux's")
    latents: Path = option(Path("runs/emoji-latents"), "folder that training.latents wrote")
    scenes: int = option(100_000, "how many of its scenes")
    steps: int = option(80_000, "updates in all; the rate is constant and falls to 0 in the last fifth: may be changed")
    batch_size: int = option(32, "scenes in an update, over all processes")
    lr: float = option(8e-4, "learning rate at its highest")
    precision: Literal["fp32", "bf16"] = option("bf16", "of the forward pass; weights stay in fp32")
    from_: str = option("", "folder of a model of this script: net, text encoders and tokenizers begin as those")
    anew: Literal["", "text_encoder", "text_encoder_2"] = option("", "with --from: what of it begins anew nevertheless")
    drop: float = option(0.1, "share of captions that are dropped, for guidance")
    length: int = option(24, "tokens of a prompt; captions have 12, seldom 20")
    text_width: int = option(256, "of the text encoders; a multiple of 64")
    text_layers: int = option(3, "of the text encoders")
    channels: tuple[int, ...] = option((96, 160, 256), "diffusion: widths of the UNet; the first has no attention")
    layers: int = option(1, "diffusion: residual blocks at each size")
    min_snr: float = option(0.0, "diffusion: gamma of the loss's weight; 0: none")
    width: int = option(256, "flow: of the transformer")
    heads: int = option(4, "of attention; few large heads cost least on a CPU")
    double_blocks: int = option(2, "flow: blocks where text and picture have weights of their own")
    single_blocks: int = option(4, "flow: blocks that both share")
    reading: float = option(0.1, "weight of how well the text encoders tell what captions name")
    emphasis: float = option(
        2.0, "how much more an error counts where a thing is, and again where its hat is; 0: alike"
    )
    shift: float = option(3.0, "how far times are moved towards noise, in flow also when it draws; 1: not")
    ema: float = option(0.999, "decay of the mean of the weights that is shipped")
    snapshot_every: int = option(5_000, "steps between models kept in OUT")
    may_change = frozenset({"steps"})  # what came before the fall does not depend on it


# ---------------------------------------------------------------------------------------------------------- losses


def noised(x: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x_t = sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise (Ho et al. 2020, eq. 4); alpha_bar (N, 1, 1, 1)"""
    return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise


def velocity(x: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x (Salimans & Ho 2022, appendix D)"""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x


def snr_weight(alpha_bar: torch.Tensor, gamma: float, prediction: str = "v_prediction") -> torch.Tensor:
    """min(SNR, gamma) of the error of x, said of what the net predicts (Hang et al. 2023, section 3.4); gamma 0: 1.

    An error e of epsilon is one of e / sqrt(SNR) in x, an error e of v one of e / sqrt(SNR + 1).
    """
    if not gamma:
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    return snr.clamp(max=gamma) / (snr + 1) if prediction == "v_prediction" else (gamma / snr).clamp(max=1)


def diffusion_loss(v: torch.Tensor, x: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, gamma: float):
    """v: what the net said at noised(x, noise, alpha_bar) -> (N, C, h, w)"""
    return snr_weight(alpha_bar, gamma) * (v.float() - velocity(x, noise, alpha_bar)).square()


def logit_normal(u: torch.Tensor) -> torch.Tensor:
    """Uniform in [0, 1) -> times whose logit is N(0, 1): most in the middle (Esser et al. 2024, eq. 19)."""
    return torch.special.ndtri(u).sigmoid()


def shifted(t: torch.Tensor, shift: float) -> torch.Tensor:
    """Times moved towards noise, as for more pixels, which noise hides less (Esser et al. 2024, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def between(x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The straight path from the picture at t = 0 to noise at t = 1 (Liu et al. 2023, eq. 1); t (N, 1, 1, 1)"""
    return (1 - t) * x + t * noise


def flow_loss(v: torch.Tensor, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """v: what the net said on the path; its direction is noise - x everywhere -> (N, C, h, w)"""
    return (v.float() - (noise - x)).square()


def emphasised(losses: torch.Tensor, cover: torch.Tensor, emphasis: float) -> torch.Tensor:
    """losses (N, C, h, w), cover (N, 2, h, w): the share of each place that things and hats cover -> scalar

    Most of a picture is background, which is soon right; a hat is a twelfth of it. The weights' mean is 1.
    """
    weights = 1 + emphasis * (cover[:, :1] + 2 * cover[:, 1:])
    return (losses * (weights / weights.mean())).mean()


# ---------------------------------------------------------------------------------------------------------- models


def clip(config: Config, tokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=config.text_width, intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers, num_attention_heads=config.heads, projection_dim=config.text_width,
            max_position_embeddings=config.length, hidden_act="gelu", bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def t5(config: Config, tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=config.text_width, d_ff=2 * config.text_width,
            d_kv=config.text_width // config.heads, num_layers=config.text_layers, num_heads=config.heads,
            dropout_rate=0.0, feed_forward_proj="gated-silu",
        )
    )  # fmt: skip


def tokenizer(config: Config, texts: list[str], name: str):
    """That of the model it begins as, whose text encoder knows its numbers; else one of these captions' words."""
    kind, make = {
        "tokenizer": (CLIPTokenizer, words.clip_tokenizer), "tokenizer_2": (T5TokenizerFast, words.t5_tokenizer),
    }[name]  # fmt: skip
    if not config.from_:
        return make(texts, config.length)
    try:
        return kind.from_pretrained(Path(config.from_) / name)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{Path(config.from_).name} holds no {name}.") from error


class Painter(torch.nn.Module):
    """Text encoders and net: what is learnt. `self(x_t, t, told)` predicts the direction of `losses`' target; told is
    what `read` makes of tokens: states of all tokens (N, length, width), and of the sentence (N, width)."""

    def __init__(self, config: Config, latents: Latents, texts: list[str], known: dict):
        super().__init__()
        self.config, self.vae, self.known = config, latents.vae, known
        if config.anew and not config.from_:
            raise TrainingError(f"--anew {config.anew} needs --from: without it all begins anew.")
        self.tokenizer = tokenizer(config, texts, "tokenizer")
        self.text_encoder = clip(config, self.tokenizer)
        self.begin(self.text_encoder, "text_encoder")

    def begin(self, part: torch.nn.Module, name: str) -> None:
        """As that of the model it begins as, if it begins as one and this part is not to begin anew."""
        common.begin(part, self.config.from_ if name != self.config.anew else "", name)

    def tokenize(self, texts: list[str]) -> list[torch.Tensor]:
        """captions -> token ids (N, length), one tensor a text encoder, as the pipeline makes them"""
        how = {"padding": "max_length", "max_length": self.config.length, "truncation": True, "return_tensors": "pt"}
        return [tokenizer(texts, **how).input_ids for tokenizer in self.tokenizers]

    def save_pretrained(self, folder: Path) -> None:
        """A folder for DiffusionPipeline.from_pretrained. The autoencoder's files are copied byte by byte: git keeps
        one blob for equal files, so emoji-vae, emoji-sd and emoji-flux together hold it once."""
        self.pipeline().save_pretrained(folder)
        for file in folder.glob("text_encoder*/config.json"):
            # transformers computes in the type that the config names, diffusers in float32: a plain load would mix them
            file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"dtype": "float32"}, indent=2), "utf-8")
        for name in VAE_FILES:
            shutil.copyfile(self.vae / name, folder / "vae" / name)
        (folder / "words.json").write_text(json.dumps(self.known, ensure_ascii=False), "utf-8")

    def autoencoder(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.vae, torch_dtype=torch.float32).to(self.text_encoder.device)


class Diffusion(Painter):
    """Stable Diffusion (Rombach et al. 2022)."""

    defaults = {"steps": 20, "guidance": 4.0}
    call = {"num_inference_steps": defaults["steps"], "guidance_scale": defaults["guidance"]}

    def __init__(self, config: Config, latents: Latents, texts: list[str], known: dict):
        super().__init__(config, latents, texts, known)
        if config.anew == "text_encoder_2":
            raise TrainingError("--anew text_encoder_2 goes with --objective flow: Stable Diffusion has one.")
        self.tokenizers = [self.tokenizer]
        deep = len(config.channels) - 1
        channels, side, _ = latents.shape
        self.unet = UNet2DConditionModel(
            sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=config.channels,
            layers_per_block=config.layers, down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * deep),
            up_block_types=(*("CrossAttnUpBlock2D",) * deep, "UpBlock2D"), cross_attention_dim=config.text_width,
            attention_head_dim=config.heads,  # diffusers' misnomer: the number of heads
            addition_embed_type="text", resnet_time_scale_shift="scale_shift",  # all layers hear of the sentence and t
        )  # fmt: skip
        torch.nn.init.zeros_(self.unet.conv_out.weight)
        self.begin(self.unet, "unet")
        self.unet.to(memory_format=torch.channels_last)  # a fifth less of a step on a CPU
        self.scheduler = DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="v_prediction",
            clip_sample=False, rescale_betas_zero_snr=True, steps_offset=1, timestep_spacing="trailing",
        )  # fmt: skip

    def read(self, tokens: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(self.text_encoder(tokens[0])[:2])

    def forward(self, x: torch.Tensor, t: torch.Tensor, told: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x (N, C, h, w), t (N,) whole numbers from 0 to 999 -> v (N, C, h, w)"""
        return self.unet(x, t, told[0]).sample

    def losses(self, x, noise, u, told) -> torch.Tensor:
        """u (N,) uniform in [0, 1) draws the times -> (N, C, h, w)"""
        t = (shifted(u, self.config.shift) * len(self.scheduler.alphas_cumprod)).long()
        alpha_bar = self.scheduler.alphas_cumprod.to(x.device)[t].view(-1, 1, 1, 1)
        return diffusion_loss(self(noised(x, noise, alpha_bar), t, told), x, noise, alpha_bar, self.config.min_snr)

    def pipeline(self) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            self.autoencoder(), self.text_encoder, self.tokenizer, self.unet, self.scheduler, safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


class Flow(Painter):
    """Flux: a transformer over text and 2 x 2 patches of the latent (Esser et al. 2024; Black Forest Labs 2024)."""

    def __init__(self, config: Config, latents: Latents, texts: list[str], known: dict):
        super().__init__(config, latents, texts, known)
        self.defaults = {"steps": 8, "guidance": 3.0}
        self.call = {  # FluxPipeline's own sizes are those of the large model
            "num_inference_steps": self.defaults["steps"], "true_cfg_scale": self.defaults["guidance"],
            "negative_prompt": "", "height": SIZE, "width": SIZE, "max_sequence_length": config.length,
        }  # fmt: skip
        self.tokenizer_2 = tokenizer(config, texts, "tokenizer_2")
        self.tokenizers = [self.tokenizer, self.tokenizer_2]
        self.text_encoder_2 = t5(config, self.tokenizer_2)
        self.begin(self.text_encoder_2, "text_encoder_2")
        head = config.width // config.heads
        across = head // 16 * 6  # rotary numbers for column and row; the rest is that of the text's place, always 0
        self.transformer = FluxTransformer2DModel(
            in_channels=4 * latents.shape[0], num_layers=config.double_blocks, num_single_layers=config.single_blocks,
            attention_head_dim=head, num_attention_heads=config.heads, joint_attention_dim=config.text_width,
            pooled_projection_dim=config.text_width, guidance_embeds=False,
            axes_dims_rope=(head - 2 * across, across, across),
        )  # fmt: skip
        # every block begins as the identity (Peebles & Xie 2023, adaLN-Zero), and the net as 0
        modulations = (AdaLayerNormZero, AdaLayerNormZeroSingle, AdaLayerNormContinuous)
        for layer in [m.linear for m in self.transformer.modules() if isinstance(m, modulations)]:
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        torch.nn.init.zeros_(self.transformer.proj_out.weight)
        self.begin(self.transformer, "transformer")
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=config.shift)

    def read(self, tokens: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.text_encoder_2(tokens[1])[0], self.text_encoder(tokens[0]).pooler_output

    def forward(self, x: torch.Tensor, t: torch.Tensor, told: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """x (N, C, h, w), t (N,) from 0 (picture) to 1 (noise) -> direction (N, C, h, w)"""
        n, c, h, w = x.shape
        packed = FluxPipeline._pack_latents(x, n, c, h, w)  # (N, h/2 w/2, 4 C)
        v = self.transformer(
            packed,
            encoder_hidden_states=told[0],
            pooled_projections=told[1],
            timestep=t,
            img_ids=FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, x.device, x.dtype),
            txt_ids=torch.zeros(self.config.length, 3, device=x.device),
        ).sample
        v = v.view(n, h // 2, w // 2, c, 2, 2)
        return v.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)

    def losses(self, x, noise, u, told) -> torch.Tensor:
        """u (N,) uniform in [0, 1) draws the times -> (N, C, h, w)"""
        t = shifted(logit_normal(u), self.config.shift)
        return flow_loss(self(between(x, noise, t.view(-1, 1, 1, 1)), t, told), x, noise)

    def pipeline(self) -> FluxPipeline:
        return FluxPipeline(
            self.scheduler, self.autoencoder(), self.text_encoder, self.tokenizer, self.text_encoder_2,
            self.tokenizer_2, self.transformer,
        )  # fmt: skip


PAINTERS = {"diffusion": Diffusion, "flow": Flow}


class Reader(torch.nn.Module):
    """Says what a caption names, from each of the two things that a net is told of it; thrown away in the end.

    Without it text encoders learn from errors of pictures alone: for thousands of steps backgrounds follow the words
    and things do not, since guessing their mean is nearly as good at first. Stable Diffusion and Flux began with
    encoders that could read; these learn to read and to draw at once.
    """

    def __init__(self, scenes: Scenes, width: int):
        super().__init__()
        self.scenes, objects = scenes, list(scenes.objects)
        self.names = {
            "object": objects, "hat": ["", *scenes.hats], "second": ["", *objects],
            "background": list(scenes.backgrounds), "style": scenes.styles,
        }  # fmt: skip
        self.sizes = [len(names) for names in self.names.values()]
        self.heads = torch.nn.ModuleList([torch.nn.Linear(width, sum(self.sizes)) for _ in ("tokens", "sentence")])

    def labels(self, texts: list[str], facts: list[Facts]) -> torch.Tensor:
        """-> (N, kinds): the number of what is named, NOTHING where a caption leaves it open"""
        rows = []
        for text, fact in zip(texts, facts, strict=True):
            named = self.scenes.named(text, fact) if text else ()
            kinds = self.names.items()
            rows.append([names.index(getattr(fact, kind)) if kind in named else NOTHING for kind, names in kinds])
        return torch.tensor(rows)

    def forward(self, told: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """-> cross entropy in nats, the mean of both heads and all kinds"""
        losses = []
        for head, state in zip(self.heads, (told[0].mean(1), told[1]), strict=True):
            for logits, right in zip(head(state).float().split(self.sizes, 1), labels.T, strict=True):
                total = F.cross_entropy(logits, right, ignore_index=NOTHING, reduction="sum")
                losses.append(total / (right != NOTHING).sum().clamp(min=1))
        return torch.stack(losses).mean()


# ------------------------------------------------------------------------------------------------------------ data


def captions(run: common.Run, scenes: Scenes, indices: torch.Tensor, drop: float) -> tuple[list[str], list[Facts]]:
    """A caption of each scene in either language, drawn from (seed, step), and what the scenes show; a share of `drop`
    is "", for guidance."""
    rng = np.random.default_rng(common.seed_of(run.config.seed, "captions", run.step, run.rank))
    facts = [replace(scenes.facts(i), language=LANGUAGES[rng.integers(len(LANGUAGES))]) for i in indices.tolist()]
    return [scenes.caption(f, rng) if rng.random() >= drop else "" for f in facts], facts


def spread(u: torch.Tensor) -> torch.Tensor:
    """Uniform (N,) -> one in each Nth of [0, 1): a batch sees all times (Kingma et al. 2021, appendix I.1)."""
    return (torch.arange(len(u), device=u.device) + u) / len(u)


class Test:
    """Scenes with pairs that were never trained on, always with the same captions, times and noise."""

    def __init__(self, config: Config, latents: Latents):
        scenes = Scenes(config.data, HELD_OUT_SEED, held_out=True)
        self.x = latents.held_out
        self.texts = [scenes.caption(scenes.facts(i), np.random.default_rng(i)) for i in range(HELD_OUT)]
        self.noise = torch.randn(self.x.shape, generator=torch.Generator().manual_seed(0))
        self.u = spread(torch.full((HELD_OUT,), 0.5))[
            torch.randperm(HELD_OUT, generator=torch.Generator().manual_seed(0))
        ]

    @torch.no_grad()
    def __call__(self, painter: Painter) -> float:
        device, tokens, losses = painter.text_encoder.device, painter.tokenize(self.texts), []
        for i in torch.arange(HELD_OUT).split(32):
            parts = (self.x[i], self.noise[i], self.u[i])
            told = painter.read([ids[i].to(device) for ids in tokens])
            losses.append(painter.losses(*(part.to(device) for part in parts), told))
        return torch.cat(losses).mean().item()


@torch.no_grad()
def sheet(painter: Painter, rows: int = 2):
    """The same prompts, a column each, from the same noise at every step -> PIL"""
    pipeline, columns = painter.pipeline(), len(PROMPTS)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i // columns) for i in range(rows * columns)]
    call = painter.call | ({"negative_prompt": [""] * len(generators)} if "negative_prompt" in painter.call else {})
    pictures = pipeline(list(PROMPTS) * rows, generator=generators, output_type="pt", **call).images
    return common.grid(pictures * 2 - 1, columns)


def describe(config: Config, painter: Painter, digest: str, figures: dict) -> dict:
    """What training.json and the card say; see `common.write_card`."""
    id, flow = Path(config.out).name, config.objective == "flow"
    arguments = ", ".join(f"{name}={value!r}" for name, value in painter.call.items())
    name, how = ("Flux", "flow matching") if flow else ("Stable Diffusion", "diffusion")
    return {
        "id": id,
        "tab": "text_to_image",
        "kind": config.objective,
        "task": "text-to-image",
        "licence": "CC-BY-4.0",
        "year": 2026,
        "title": f"Small {name} of emoji scenes",
        "summary": f"Draws scenes of {SIZE} px from English or German words, by {how}: the architecture of {name}, "
        "small enough to be watched from the inside. words.json lists what it knows.",
        "use": f'DiffusionPipeline.from_pretrained("{id}")("frog with melon hat", {arguments}).images[0]  # diffusers',
        "defaults": {**painter.defaults, "size": SIZE},
        "autoencoder": digest,
        "data": {
            "name": "scenes composed of emoji",
            "url": "https://github.com/googlefonts/noto-emoji",
            "licence": "Apache-2.0 (Noto Emoji), CC BY 4.0 (Twemoji), MIT (Fluent Emoji); of the autoencoder's "
            "photographs: CC BY 2.0 (flowers), public domain",
            "attribution": "Noto Emoji, Copyright 2013 Google LLC; Twemoji graphics, Copyright 2014-2021 Twitter, "
            "2022-present Jason Sofonia & Justine De Caires, CC BY 4.0, rendered, scaled and composed; Fluent Emoji, "
            f"Copyright (c) Microsoft Corporation; the autoencoder saw photographs, too{PHOTO_CREDITS}",
        },
        "figures": figures,
        "figures_note": "The loss is that of 256 scenes whose pairs of wearer and hat were not trained on, by the mean "
        "weights; it compares steps of this objective, not diffusion with flow matching.",
        "limits": [
            "It knows the few hundred words of words.json and nothing else; what it is asked beyond them it guesses.",
            f"Prompts are cut after {config.length} tokens, about as many words.",
            "Two things beside each other are small, and seldom to be recognised.",
            "Each thing is drawn as four sets of emoji draw it. Frog with melon hat and a tenth of all "
            "pairs of wearer and hat were never trained on; the figures say how those succeed.",
        ],
    }


def main(config: Config) -> None:
    run = common.Run(config)
    latents = Latents(config.latents, config.scenes)
    scenes, test = Scenes(config.data, latents.seed), Test(config, latents)
    before = common.seen_before(config.from_, "scenes seen")
    texts = {language: words.sample(scenes, language) for language in LANGUAGES}
    logging.set_verbosity_error()  # diffusers warns at each sheet that there is no safety checker

    every = [text for language in LANGUAGES for text in texts[language]]
    painter = PAINTERS[config.objective](config, latents, every, words.known(scenes, texts))
    painter.to(run.device)
    if config.objective == "flow":
        quick_flux(painter.transformer)
    ema, reader = common.EMA(painter), Reader(scenes, config.text_width).to(run.device)
    optimizer = MuonAndAdamW(painter, reader, lr=config.lr)
    run.track(model=painter, ema=ema, reader=reader, optimizer=optimizer)
    last = config.steps // 5

    for step in run.steps():
        rate = common.cosine(max(0, step - config.steps + last), last)
        common.set_lr(optimizer, config.lr * rate * min(1, (step + 1) / 100))
        chosen = run.indices(config.scenes)
        x = latents[chosen].to(run.device)
        texts, facts = captions(run, scenes, chosen, config.drop)
        times = spread(run.noise((), "times", uniform=True))
        with run.autocast(), plain_attention(run.device):
            told = painter.read([ids.to(run.device) for ids in painter.tokenize(texts)])
            losses = painter.losses(x, run.noise(latents.shape), times, told)
            unread = reader(told, reader.labels(texts, facts).to(run.device))
        loss = emphasised(losses, latents.cover(chosen).to(run.device), config.emphasis)
        norm = run.update(loss + config.reading * unread, optimizer, max_norm=1.0)
        ema.update(painter, min(config.ema, (step + 1) / (step + 10)))
        run.log(loss=loss, unread=unread, norm=norm)
        if run.due(config.sample_every):
            with run.autocast():
                run.log(held_out=test(ema.module))
                run.picture("prompts", sheet(ema.module))
        if run.due(config.snapshot_every):
            with run.autocast():
                loss = test(ema.module)
            figures = {"scenes seen": before + (step + 1) * config.batch_size, "loss_held_out": round(loss, 4)}
            run.save(ema.module, describe(config, ema.module, latents.digest, figures))


if __name__ == "__main__":
    common.launch(main, Config)
