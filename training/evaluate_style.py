"""What `evaluate.py style_transfer` measures: how often a translation passes for its target, and what comes back.

A folder is a pair as training/style_transfer.py writes it. Its own config says which pictures it learnt from; a
classifier of the two domains learns from the same ones, and both are judged by the others. `way` is "AtoB" or "BtoA",
x a tensor (N, 3, size, size) in [-1, 1].
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pipelines import runtime
from pipelines.models.cyclegan import Generator
from training import common
from training.style_transfer import Config, crops, cycle_loss, load_domain, middle, recolour, there_and_back

ROWS = 12  # of the sheet
BATCH = 16  # of each domain, for the classifier

NOTE = """Of the middles of all pictures that were not trained on; they are few, and crops of one photograph are no \
independent ones. A convolutional net learnt from the training pictures to tell real ones of A from real ones of B; \
`classifier_accuracy` is how often it is right, the mean of both domains. `called_target_AtoB` is the share of \
translations of A that it calls B, `untranslated_AtoB` the share of A itself that it takes for B: what a net that \
changes nothing would reach. Where one domain is grey, colour alone decides that; `grey` is therefore another such \
net, which learnt and judges without colour. It was trained on no translation and sees its target or its source in \
anything: a high share does not say that a translation is good. Cycle error: mean absolute error of there and back, \
pixels in [-1, 1], AtoB from A; identity error: what a generator changes in pictures that are of its target already."""


class Seen(NamedTuple):
    """What a pair makes of all held-out pictures of a domain, G being the generator that begins there."""

    x: torch.Tensor
    there: torch.Tensor  # G(x)
    back: torch.Tensor  # F(G(x))
    same: torch.Tensor  # F(x), which should be x


def colourless(x: torch.Tensor) -> torch.Tensor:
    """x -> x whose three channels are its luma"""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def train_classifier(a: torch.Tensor, b: torch.Tensor, config: Config, steps: int, see: Callable) -> nn.Module:
    """Training pictures of A and B, uint8 -> net: see(x) -> logits (N,), above 0 for B. see(x) is all it ever sees."""
    torch.manual_seed(config.seed)
    device, generator = runtime.device(), torch.Generator().manual_seed(config.seed)
    widths, layers = (3, 16, 32, 64, 64), []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(widths[-1], 1), nn.Flatten(0)]
    net = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.Adam(net.parameters())
    labels = torch.arange(2.0, device=device).repeat_interleave(BATCH)
    for step in range(steps):
        common.set_lr(optimizer, 2e-3 * common.cosine(step, steps))
        drawn = [pixels[torch.randint(len(pixels), (BATCH,), generator=generator)] for pixels in (a, b)]
        x = crops(torch.cat(drawn), config, generator)
        x = recolour(x, max(config.colour_a, config.colour_b), generator)  # both alike, so that it gives nothing away
        loss = F.binary_cross_entropy_with_logits(net(see(x.to(device))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def translate(folder: Path, a: torch.Tensor, b: torch.Tensor) -> dict[str, Seen]:
    """Held-out pictures x of both domains -> by way, what became of them."""
    device, seen = runtime.device(), {}
    g, f = (
        Generator.from_pretrained(folder / way, torch_dtype=torch.float32).eval().to(device) for way in ("AtoB", "BtoA")
    )
    for way, there, back, x in (("AtoB", g, f, a.to(device)), ("BtoA", f, g, b.to(device))):
        with runtime.autocast():
            seen[way] = Seen(*there_and_back(there, back, x), torch.cat([back(picture) for picture in x.split(1)]))
    return seen


def compare(seen: dict[str, Seen], net: nn.Module, see: Callable, name: str = "") -> dict[str, float]:
    """What a classifier makes of real pictures and of translations; `name` ends the names of the figures."""

    @torch.no_grad()
    def called(target: str, x: torch.Tensor) -> float:
        logits = torch.cat([net(see(part)) for part in x.split(64)])
        return ((logits > 0) == (target == "AtoB")).double().mean().item()

    untranslated = {way: called(way, pictures.x) for way, pictures in seen.items()}
    figures = {f"classifier_accuracy{name}": 1 - sum(untranslated.values()) / 2}
    for way, pictures in seen.items():
        figures[f"called_target{name}_{way}"] = called(way, pictures.there)
        figures[f"untranslated{name}_{way}"] = untranslated[way]
    return figures


def sheet(seen: dict[str, Seen]) -> Image.Image:
    """Row by row: a picture of A, translated, and back again; one of B, translated, and back again."""
    rows = min(ROWS, *(len(pictures.x) for pictures in seen.values()))
    columns = []
    for x, there, back, _ in seen.values():
        some = torch.arange(rows) * len(x) // rows  # neighbours may be crops of one photograph
        columns += [x[some], there[some], back[some]]
    return common.grid(torch.stack(columns, 1).flatten(0, 1), len(columns))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--classifier-steps", type=int, default=300)
    parser.add_argument("--sheet", type=Path, help="PNG of cycles; it shows pictures of the data: not for publishing")


def prepare(args: argparse.Namespace) -> Callable[[Path], dict[str, float]]:
    """-> what measures a folder. Raises TrainingError."""

    def measure(folder: Path) -> dict[str, float]:
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        config = Config(**facts["config"], data=args.data, out=folder)
        (train_a, test_a), (train_b, test_b) = load_domain(config, "a"), load_domain(config, "b")
        seen = translate(folder, middle(test_a, config.size), middle(test_b, config.size))
        if args.sheet:
            sheet(seen).save(args.sheet)

        figures = {"held_out_A": len(test_a), "held_out_B": len(test_b)}
        for name, see in {"": lambda x: x, "_grey": colourless}.items():
            net = train_classifier(train_a, train_b, config, args.classifier_steps, see)
            figures |= compare(seen, net, see, name)
        for way, pictures in seen.items():
            figures[f"cycle_error_{way}"] = cycle_loss(pictures.back, pictures.x).item()
        for way, pictures in (("AtoB", seen["BtoA"]), ("BtoA", seen["AtoB"])):  # of pictures that are of the target
            figures[f"identity_error_{way}"] = cycle_loss(pictures.same, pictures.x).item()
        return {name: round(value, 4) for name, value in figures.items()}

    return measure
