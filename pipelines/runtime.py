"""Where and how tensors are computed: device, precision, noise from seeds, PIL <-> tensor."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from .problems import seed as check_seed


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16(where: torch.device | None = None) -> bool:
    """Whether the hardware computes in bfloat16; elsewhere it would be emulated, on some processors 40 times slower."""
    features = torch.cpu.get_capabilities()
    return (where or device()).type != "cpu" or bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def autocast(enabled: bool = True) -> torch.autocast:
    """bfloat16 where the hardware computes in it."""
    return torch.autocast(device().type, torch.bfloat16, enabled=bool(enabled and fast_bf16()))


def ready(net: torch.nn.Module) -> torch.nn.Module:
    """For use, not for training: in fp32, on the device."""
    return net.eval().float().requires_grad_(False).to(device())


def generators(seed: int, n: int = 1) -> list[torch.Generator]:
    """One generator a picture, on the CPU: picture i of seed s is picture 0 of seed s + i, whatever the batch."""
    seed = check_seed(seed)
    return [torch.Generator("cpu").manual_seed((seed + i) % 2**32) for i in range(n)]


def noise(seed: int, n: int, *shape: int) -> torch.Tensor:
    """Standard normal noise (n, *shape), float32, on the device; row i is that of generators(seed, n)[i]."""
    rows = [torch.randn(shape, generator=generator) for generator in generators(seed, n)]
    return torch.stack(rows).to(device())


def to_tensor(images: Image.Image | Sequence[Image.Image]) -> torch.Tensor:
    """One picture or several of the same size, grey or RGB -> x (N, C, H, W), float32, [-1, 1], on the CPU."""
    images = [images] if isinstance(images, Image.Image) else images
    x = np.stack([np.atleast_3d(np.asarray(image, np.float32)) for image in images])
    return torch.from_numpy(x / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def to_images(x: torch.Tensor) -> list[Image.Image]:
    """x (N, 1 or 3, H, W), [-1, 1], anything beyond is clipped -> pictures, grey or RGB."""
    x = ((x.detach().float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row) for row in x]
