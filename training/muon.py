"""Muon: steps along the orthogonal matrix nearest to the mean gradient, so that all directions of a layer learn alike.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/). `torch.optim.Muon` is the same for layers whose weight
is a matrix; here convolutions are matrices, too, and weights that are none go to AdamW.
"""

import torch

from pipelines.runtime import fast_bf16

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of Jordan et al.: five steps bring singular values to 0.7 .. 1.2


def orthogonal(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """(M, N) -> about U V^T of its singular value decomposition U S V^T, by Newton and Schulz's iteration.

    In bf16, which is enough, where the hardware computes in it.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[0] > x.shape[1]
    x = x / x.norm().clamp(min=1e-7)
    x = x.bfloat16() if fast_bf16(x.device) else x
    x = x.T if tall else x
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For weights (M, N) and (M, N, h, w). The step is as long as AdamW's usually is, so that rates are the same:
    0.2 a weight in the quadratic mean, times lr (Liu et al. 2025, section 2.2)."""

    def __init__(self, weights, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])  # Nesterov's
                ahead = ahead.movedim(1, -1)  # (M, h, w, N), as channels_last lies in memory; any order would do
                matrix = ahead.flatten(1)
                step = orthogonal(matrix).to(weight.dtype).view(ahead.shape).movedim(-1, 1)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the `inner` weights of a model, AdamW for its other ones and those of `others`; fixed ones stay."""

    def __init__(self, model: torch.nn.Module, *others: torch.nn.Module, lr: float):
        matrices = {id(weight): weight for weight in inner(model) if weight.requires_grad}
        learnt = [weight for part in (model, *others) for weight in part.parameters() if weight.requires_grad]
        rest = [weight for weight in learnt if id(weight) not in matrices]
        self.parts = (
            Muon(matrices.values(), lr),
            torch.optim.AdamW(rest, lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        )

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict:
        return {weight: state for part in self.parts for weight, state in part.state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def inner(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Weights between layers of a net; not those that meet pixels, words or times, which are no maps between alike
    things (Jordan et al.)."""
    outer = ("embed", "shared", "conv_in", "conv_out", "norm_out", "transformer.proj_out")
    return [
        weight
        for name, weight in model.named_parameters()
        if weight.ndim in (2, 4) and not any(word in name for word in outer)
    ]
