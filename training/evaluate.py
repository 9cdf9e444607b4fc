"""Measure finished models and write the figures into their training.json and card.

    python training/evaluate.py vae_playground --data ../shared/data/digits/mnist pipelines/checkpoints/*-digits-*
    F=../shared/data/faces; D=$F/faces-color-128.parquet,$F/faces-gray-128.parquet
    python training/evaluate.py faces --data $D pipelines/checkpoints/faces-64 --sheet ../nearest.png
    python training/evaluate.py style_transfer --data ../shared/data runs/historic --sheet ../cycles.png
    python training/evaluate.py text_to_image --data ../shared/data/emoji runs/emoji-sd --sheet ../drawn.png

Each subcommand is a function from a folder to {figure: number}, made once for all folders (so that a classifier
is trained once); the figures that no script measured stay as they are.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from pipelines.models.vae import DenseVAE
from training import common, evaluate_faces, evaluate_style, evaluate_text, vae_playground

CLEAR = 0.9  # a sample whose class the classifier gives more than this probability is called clear


def train_classifier(data: common.Images, steps: int, seed: int = 0) -> nn.Module:
    """Grey 28 x 28 pictures -> a small convolutional net, x (N, 1, 28, 28) in [-1, 1] -> logits of its classes."""
    labels = vae_playground.class_numbers(data).long()
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, int(labels.max()) + 1)),
    )
    optimizer = torch.optim.Adam(net.parameters())
    for step in range(steps):
        common.set_lr(optimizer, 2e-3 * common.cosine(step, steps))
        picked = torch.randint(len(data), (128,))
        loss = F.cross_entropy(net(data.batch(picked)), labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, pictures: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor) -> float:
    """Share of `pictures(indices)` that net gives their label."""
    chunks = torch.arange(len(labels)).split(1000)
    return sum((net(pictures(i)).argmax(1) == labels[i]).sum().item() for i in chunks) / len(labels)


def prior(model: DenseVAE, codes: torch.Tensor, n: int) -> tuple[torch.Tensor, ...]:
    """n codes in chunks from N(0, 1); from the Gaussian around the codes if a plain autoencoder has no prior."""
    z = torch.randn(n, model.config.latent_dim, generator=torch.Generator().manual_seed(0))
    if not model.config.variational:
        z = codes.mean(0) + z @ torch.linalg.cholesky(codes.T.cov()).T
    return z.split(1000)


def vae_measure(args: argparse.Namespace) -> Callable[[Path], dict[str, float]]:
    """ELBO and errors on test pictures; what a classifier makes of reconstructions and of samples from the prior.

    `classes_among_clear_samples` is the exponential of the entropy of their classes: 10 if all are equally frequent.
    """
    train = common.load_images(args.data, size=28, channels=1)
    test = common.load_images(args.data, size=28, channels=1, split="test")
    labels = vae_playground.class_numbers(test).long()
    net = train_classifier(train, args.classifier_steps)
    own = accuracy(net, test.batch, labels)

    @torch.no_grad()
    def measure(folder: Path) -> dict[str, float]:
        model = DenseVAE.from_pretrained(folder, torch_dtype=torch.float32).eval()
        codes = vae_playground.encode_all(model, test)
        sure, which = torch.cat([net(model.decode(z)).softmax(1) for z in prior(model, codes, args.samples)]).max(1)
        shares = which[sure > CLEAR].bincount() / (sure > CLEAR).sum()
        reconstructed = accuracy(net, lambda i: model.decode(codes[i]), labels)
        return vae_playground.measure(model, test) | {
            "samples_drawn": args.samples,
            f"samples_clear_p_over_{CLEAR}": round((sure > CLEAR).float().mean().item(), 4),
            "classes_among_clear_samples": round(torch.special.entr(shares).sum().exp().item(), 2),
            "reconstructions_classified_right": round(reconstructed, 4),
            "classifier_test_accuracy": round(own, 4),
        }

    return measure


def vae_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=5000, help="drawn from the prior")
    parser.add_argument("--classifier-steps", type=int, default=2000)


MEASURES = {  # tab -> what its subcommand adds, what makes its measure, how to read the figures
    "vae_playground": (vae_arguments, vae_measure, vae_playground.NOTE),
    "faces": (evaluate_faces.arguments, evaluate_faces.prepare, evaluate_faces.NOTE),
    "style_transfer": (evaluate_style.arguments, evaluate_style.prepare, evaluate_style.NOTE),
    "text_to_image": (evaluate_text.arguments, evaluate_text.prepare, evaluate_text.NOTE),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tabs = parser.add_subparsers(dest="tab", required=True)
    for tab, (add_arguments, _, _) in MEASURES.items():
        command = tabs.add_parser(tab)
        command.add_argument("folders", nargs="+", type=Path, help="folders of finished models")
        command.add_argument("--data", required=True, help="as for training")
        add_arguments(command)
    args = parser.parse_args(argv)
    for folder in args.folders:
        if not (folder / "training.json").is_file():
            raise common.TrainingError(f"{folder.name} holds no finished model.")
        if (tab := json.loads((folder / "training.json").read_text(encoding="utf-8"))["tab"]) != args.tab:
            raise common.TrainingError(f"{folder.name} is a model of {tab}, not of {args.tab}.")
    if getattr(args, "sheet", None):
        if args.sheet.resolve().is_relative_to(common.REPOSITORY):
            raise common.TrainingError("--sheet shows training data; choose a place outside the repository.")
        if len(args.folders) > 1:
            raise common.TrainingError("--sheet is of one model; give one folder.")
    _, make_measure, note = MEASURES[args.tab]
    measure, hardware = make_measure(args), common.hardware()
    print(f"measured on {hardware}")
    for folder in args.folders:
        training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        figures = measure(folder)
        print(folder.name, *(f"  {name:36} {value}" for name, value in figures.items()), sep="\n")
        training["figures"] |= figures
        common.write_card(folder, training | {"figures_hardware": hardware, "figures_note": note})


if __name__ == "__main__":
    with common.one_sentence():
        main()
