"""Tiny pipelines of every architecture that can be trained: real classes, random weights; they draw noise, fast."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from training import words

TEXTS = ["a frog with a melon hat", "a bear in a park", "an owl"]
WIDTH = 32


def vae(latent_channels: int = 4, kind=AutoencoderKL, **more):
    return kind(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32, **more,
    )  # fmt: skip


def unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    )  # fmt: skip


def clip(tokenizer, kind=CLIPTextModel):
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2,
            num_attention_heads=2, projection_dim=WIDTH, max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def t5(tokenizer, width: int = WIDTH) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_ff=WIDTH, d_kv=16, num_layers=1, num_heads=2)
    )


def sd(prediction: str = "epsilon") -> StableDiffusionPipeline:
    tokenizer = words.clip_tokenizer(TEXTS, 16)
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False, steps_offset=1
    )
    return StableDiffusionPipeline(
        vae(), clip(tokenizer), tokenizer, unet(cross_attention_dim=WIDTH), scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl() -> StableDiffusionXLPipeline:
    tokenizer = words.clip_tokenizer(TEXTS, 16)
    net = unet(
        cross_attention_dim=2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae(), clip(tokenizer), clip(tokenizer, CLIPTextModelWithProjection), tokenizer, tokenizer, net,
        DDIMScheduler(beta_schedule="scaled_linear"), add_watermarker=False,
    )  # fmt: skip


def sd3() -> StableDiffusion3Pipeline:
    tokenizer, tokenizer_3 = words.clip_tokenizer(TEXTS, 16), words.t5_tokenizer(TEXTS, 16)
    net = SD3Transformer2DModel(
        sample_size=16, in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, out_channels=16,
        joint_attention_dim=2 * WIDTH, caption_projection_dim=WIDTH, pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=32,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        net, FlowMatchEulerDiscreteScheduler(shift=3.0), vae(16, shift_factor=0.1),
        clip(tokenizer, CLIPTextModelWithProjection), tokenizer, clip(tokenizer, CLIPTextModelWithProjection),
        tokenizer, t5(tokenizer_3, 2 * WIDTH), tokenizer_3,
    )  # fmt: skip


def flux(guidance_embeds: bool = True) -> FluxPipeline:
    tokenizer, tokenizer_2 = words.clip_tokenizer(TEXTS, 16), words.t5_tokenizer(TEXTS, 16)
    net = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(), vae(4, shift_factor=0.1), clip(tokenizer), tokenizer, t5(tokenizer_2),
        tokenizer_2, net,
    )  # fmt: skip


def klein() -> Flux2KleinPipeline:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words.clip_tokenizer(TEXTS, 16).backend_tokenizer, pad_token="<|endoftext|>",
        eos_token="<|endoftext|>", chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )  # fmt: skip
    reader = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=27, num_attention_heads=1,
            num_key_value_heads=1, head_dim=8,
        )
    )  # fmt: skip
    net = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae(4, AutoencoderKLFlux2), reader, tokenizer, net)


BUILD = {"sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux, "klein": klein}


def build(name: str, **more) -> DiffusionPipeline:
    """Weights that let words, times and places count, the same each time."""
    torch.manual_seed(0)
    pipe = BUILD[name](**more)
    net = getattr(pipe, "unet", None) or pipe.transformer
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.05 * torch.randn_like(weight)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
