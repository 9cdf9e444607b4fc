"""Tiny pipelines of every architecture: real classes, random weights; they draw noise, fast."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
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


def kontext() -> FluxKontextPipeline:
    return FluxKontextPipeline(**{name: part for name, part in flux().components.items() if part is not None})


def lcm() -> LatentConsistencyModelPipeline:
    parts = {**sd().components, "unet": unet(cross_attention_dim=WIDTH, time_cond_proj_dim=16)}
    parts["scheduler"] = LCMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    return LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)


def chat(*more: str) -> PreTrainedTokenizerFast:
    """What a chat says is what was said, be it a text or a list of texts and pictures; `more` are marks of its own."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words.clip_tokenizer(TEXTS, 16).backend_tokenizer, pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        chat_template="{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}",
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)})
    return tokenizer


def qwen3(tokenizer, layers: int = 27) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=layers,
            num_attention_heads=1, num_key_value_heads=1, head_dim=8,
        )
    )  # fmt: skip


def flux2_net(guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip


def klein() -> Flux2KleinPipeline:
    tokenizer = chat()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae(4, AutoencoderKLFlux2), qwen3(tokenizer), tokenizer, flux2_net(False))


def flux2() -> Flux2Pipeline:
    tokenizer = chat()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "head_dim": 8}
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": 30, "num_key_value_heads": 1, **sizes}
    reader = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={"model_type": "mistral", **text},
            vision_config={
                "model_type": "pixtral",
                "num_hidden_layers": 1,
                "image_size": 28,
                "patch_size": 14,
                **sizes,
            },
        )
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2Pipeline(scheduler, vae(4, AutoencoderKLFlux2), reader, tokenizer, flux2_net(True))


def zimage() -> ZImagePipeline:
    tokenizer = chat()
    net = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, cap_feat_dim=8, axes_dims=[4, 6, 6], axes_lens=[128, 64, 64],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return ZImagePipeline(scheduler, vae(4, shift_factor=0.1), qwen3(tokenizer, 2), tokenizer, net)


def qwen_parts() -> dict:
    tokenizer = chat("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>")
    pad, video, start, end = tokenizer.convert_tokens_to_ids(
        ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    )
    reader = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 2,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            },
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
                "fullatt_block_indexes": [0],
            },
            image_token_id=pad, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
        )
    )  # fmt: skip
    net = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, 0.0, -0.2, 0.3], latents_std=[1.0, 1.5, 0.5, 2.0],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    return {
        "scheduler": scheduler, "vae": autoencoder, "text_encoder": reader, "tokenizer": tokenizer, "transformer": net,
    }  # fmt: skip


def qwen() -> QwenImagePipeline:
    return QwenImagePipeline(**qwen_parts())


def qwen_edit() -> QwenImageEditPlusPipeline:
    parts = qwen_parts()
    processor = Qwen2VLProcessor(Qwen2VLImageProcessor(), parts["tokenizer"], Qwen2VLVideoProcessor())
    return QwenImageEditPlusPipeline(**parts, processor=processor)


BUILD = {"sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux, "klein": klein}  # what can be trained
OTHERS = {
    "lcm": lcm, "kontext": kontext, "flux2": flux2, "zimage": zimage, "qwen": qwen, "qwen_edit": qwen_edit,
}  # fmt: skip


def build(name: str, **more) -> DiffusionPipeline:
    """Weights that let words, times and places count, the same each time."""
    torch.manual_seed(0)
    pipe = (BUILD | OTHERS)[name](**more)
    net = getattr(pipe, "unet", None) or pipe.transformer
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.05 * torch.randn_like(weight)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe
