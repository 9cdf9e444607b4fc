"""Train a variational autoencoder (or a plain one) of small grey pictures: MNIST, Fashion-MNIST or your own.

    accelerate launch training/vae_playground.py --data ../shared/data/digits/mnist --out runs/vae-digits-2d
    ... --out runs/ae-digits-2d --no-variational --steps 8000
    ... --out runs/vae-digits-16d --latent-dim 16 --hidden 400 256 --beta 1.5 --steps 20000
    ... --out runs/vae-digits-2d-beta4 --beta 4 --hidden 256 128 --blocks 3 --steps 4000
    ... --data ../shared/data/digits/fashion --dataset fashion --out runs/vae-fashion-2d --steps 7000
    torchrun --nproc-per-node 2 training/vae_playground.py ...          two processes, the same losses

Add --precision bf16 where the processor has it, as the bundled models did; a quarter of an hour each at most.
OUT becomes a folder that `pipelines.load` reads: weights, card, training.json, codes.safetensors (codes of the test
pictures) and, for two dimensions, plane.png (decodings on a square grid).

Pixels are binary random variables: a grey value g is the probability of ink. The loss is the negative ELBO in nats, its
expectation over that binarisation in closed form (cross-entropy is linear in the target), so no binary picture
is ever drawn. The encoder sees the grey picture; any q gives a lower bound, so this is one for the binary picture.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `accelerate launch` works from any folder

from pipelines.models.vae import DenseVAE
from training import common

DATA = {
    "mnist": {
        "name": "MNIST",
        "url": "http://yann.lecun.com/exdb/mnist/",
        "licence": "CC BY-SA 3.0",
        "attribution": "Yann LeCun, Corinna Cortes and Christopher J.C. Burges",
    },
    "fashion": {
        "name": "Fashion-MNIST",
        "url": "https://github.com/zalandoresearch/fashion-mnist",
        "licence": "MIT",
        "attribution": "Copyright 2017 Zalando SE, https://tech.zalando.com",
    },
    "own": {"name": "own pictures", "url": ".", "licence": "as their owner says", "attribution": "whoever made them"},
}


@dataclass(kw_only=True)
class Config(common.Config):
    dataset: str = common.option("mnist", f"whose names go into the card: {', '.join(DATA)}")
    latent_dim: int = common.option(2, "numbers in a code")
    hidden: tuple[int, ...] = common.option((400, 192), "widths of the encoder; the decoder mirrors them")
    blocks: int = common.option(4, "residual layers next to the code, in encoder and decoder")
    variational: bool = common.option(True, "no: a plain autoencoder, the same net without KL term")
    beta: float = common.option(1.0, "weight of the KL term")
    clip: float = common.option(200.0, "largest norm of a gradient (usually 100); exp(logvar) can throw a run off")
    steps: int = common.option(16_000, "updates in all")


def reconstruction_loss(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """-log p(x|z) in nats, (N,): Bernoulli pixels (Kingma & Welling 2014, eq. 11), mean over binarisations of x."""
    ink = (x + 1) / 2
    return F.binary_cross_entropy_with_logits(logits.float(), ink, reduction="none").flatten(1).sum(1)


def kl_loss(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, (N,) (Kingma & Welling 2014, appendix B)."""
    mean, logvar = mean.float(), logvar.float()
    return -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1)


def vae_loss(logits, x, mean, logvar, beta: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """-> loss, reconstruction, KL, means over the batch in nats.

    beta = 1 is the negative ELBO (Kingma & Welling 2014, eq. 10), another beta Higgins et al. 2017, eq. 4.
    """
    reconstruction = reconstruction_loss(logits, x).mean()
    kl = kl_loss(mean, logvar).mean() if logvar is not None else torch.zeros_like(reconstruction)
    return reconstruction + beta * kl, reconstruction, kl


@torch.no_grad()
def encode_all(model: DenseVAE, data: common.Images) -> torch.Tensor:
    """Means of the codes of all pictures, (N, D) float32."""
    device = model.device
    return torch.cat([model.encode(data.batch(i).to(device))[0].cpu() for i in torch.arange(len(data)).split(1000)])


@torch.no_grad()
def measure(model: DenseVAE, data: common.Images, draws: int = 8, seed: int = 0) -> dict[str, float]:
    """Test figures; the ELBO is a mean over `draws` codes a picture. A plain autoencoder has no ELBO."""
    generator = torch.Generator().manual_seed(seed)
    nats, kls, squares = [], [], []
    for indices in torch.arange(len(data)).split(1000):
        x = data.batch(indices).to(model.device)
        mean, logvar = model.encode(x)
        squares.append((model.decode(mean) - x).square().flatten(1).mean(1) / 4)  # in units of black to white = 1
        kls.append(kl_loss(mean, logvar) if logvar is not None else torch.zeros(len(x)))
        for _ in range(draws if logvar is not None else 1):
            noise = torch.randn(mean.shape, generator=generator).to(x.device)
            nats.append(reconstruction_loss(model(x, noise)[0], x))
    reconstruction, kl = torch.cat(nats).mean().item(), torch.cat(kls).mean().item()
    elbo = {"test_negative_elbo_nats": round(reconstruction + kl, 2), "test_kl_nats": round(kl, 2)}
    return {
        **(elbo if model.config.variational else {}),
        "test_reconstruction_nats": round(reconstruction, 2),
        "test_reconstruction_mse": round(torch.cat(squares).mean().item(), 5),
    }


def class_numbers(data: common.Images) -> torch.Tensor:
    """Labels, numbers or names of folders, -> uint8 (N,), numbered in their order."""
    number = {label: i for i, label in enumerate(sorted(set(data.column("label"))))}
    return torch.tensor([number[label] for label in data.column("label")], dtype=torch.uint8)


def write_codes(folder: Path, model: DenseVAE, data: common.Images) -> float:
    """codes.safetensors: what the latent plane shows of the test pictures. -> half the side of a square around them."""
    codes, labels = encode_all(model, data), class_numbers(data)
    classes = range(int(labels.max()) + 1)
    lower, upper = codes.quantile(torch.tensor([0.01, 0.99]), dim=0)
    tensors = {
        "codes": codes,
        "class_means": torch.stack([codes[labels == c].mean(0) for c in classes]),
        "lower": lower,
        "upper": upper,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in tensors.items()} | {"labels": labels}, folder / "codes.safetensors")
    return max(lower.abs().max().item(), upper.abs().max().item())


def plane_radius(config: Config, reach: float) -> float:
    """Half the side of the plane: three sigma of the prior, or `reach` where the KL term is weak or missing."""
    return 3.0 if config.variational and config.beta >= 1 else round(max(3.0, reach), 1)


@torch.no_grad()
def plane(model: DenseVAE, radius: float, grid: int):
    """Decodings of grid x grid codes over [-radius, radius]^2, the top row at y = +radius -> one grey PIL picture."""
    axis = torch.linspace(-radius, radius, grid)
    y, x = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    return common.grid(model.decode(torch.stack([x, y], -1).reshape(-1, 2).to(model.device)), grid)


def main(config: Config) -> None:
    if config.dataset not in DATA:
        raise common.TrainingError(f"--dataset is one of {', '.join(DATA)}, not {config.dataset}.")
    run = common.Run(config)
    data = common.load_images(config.data, size=28, channels=1)
    test = common.load_images(config.data, size=28, channels=1, split="test")
    class_numbers(test)  # that there are labels is better known now than after training

    model = DenseVAE(
        hidden=config.hidden,
        blocks=config.blocks,
        latent_dim=config.latent_dim,
        variational=config.variational,
        beta=config.beta,
    ).to(run.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
    run.track(model=model, optimizer=optimizer)

    for step in run.steps():
        common.set_lr(optimizer, config.lr * common.cosine(step, config.steps, warmup=100))
        x = data.batch(run.indices(len(data))).to(run.device)
        with run.autocast():
            logits, mean, logvar = model(x, run.noise((config.latent_dim,)))
        loss, reconstruction, kl = vae_loss(logits, x, mean, logvar, config.beta)
        run.update(loss, optimizer, max_norm=config.clip)
        run.log(loss=loss, reconstruction=reconstruction, kl=kl)
        if run.due(config.sample_every):
            z = torch.randn(64, config.latent_dim, generator=run.generator("samples", step=0))
            with torch.no_grad():
                run.picture("samples", common.grid(model.decode(z.to(run.device))))

    model = model.half().float().eval()  # figures, codes and plane are of the weights as they are shipped
    radius = write_codes(run.folder, model, test) if run.is_main else 0.0
    training = {
        "id": run.folder.name,
        "tab": "vae_playground",
        "kind": "latent",
        "year": 2026,
        # MNIST is share-alike: what is learnt from it goes on under the same terms.
        "licence": "Apache-2.0" if config.dataset == "own" else DATA[config.dataset]["licence"],
        "title": run.folder.name,
        "summary": f"{describe(config)} Trained with `training/vae_playground.py` of Trugbild.",
        "use": f'vae = DenseVAE.from_pretrained("{run.folder.name}")  # from pipelines.models.vae',
        "data": DATA[config.dataset] | {"train": len(data), "test": len(test)},
        "figures": measure(model, test),
        "figures_note": NOTE,
        "limits": LIMITS,
    }
    if config.latent_dim == 2 and run.is_main:
        training["plane"] = {"radius": plane_radius(config, radius), "grid": 21}
        plane(model, **training["plane"]).save(run.folder / "plane.png", optimize=True)
    run.save(model, training)


def describe(config: Config) -> str:
    """One sentence for the card."""
    kind = "variational autoencoder" if config.variational else "plain autoencoder"
    beta = f" with beta = {config.beta:g}" if config.variational and config.beta != 1 else ""
    return f"A {kind}{beta} of {DATA[config.dataset]['name']} with {config.latent_dim} latent dimensions."


NOTE = (
    "Nats are those of pictures binarised at random, a pixel's grey value being its probability of ink; the mean over "
    "all binarisations is taken in closed form. The encoder sees the grey picture; the negative ELBO (beta = 1, "
    "whatever beta the training had) is a mean over 8 codes a test picture. The mse counts black to white as 1. "
    "Samples are decoded from N(0, 1), those of a plain autoencoder from the Gaussian around its codes; clear is a "
    "sample whose class a "
    "small convolutional classifier, trained on the training pictures, gives more than the probability named. "
    "classes_among_clear_samples is the exponential of the entropy of these classes: 10 if all are equally frequent."
)
LIMITS = [
    "Grey pictures of 28 x 28 pixels, centred as in the training data; anything else comes back as the nearest one.",
    "Pictures between two classes look like both: that is what the model shows, not an error.",
    "For teaching; not for recognising handwriting.",
]


if __name__ == "__main__":
    common.launch(main, Config)
