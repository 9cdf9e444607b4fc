"""Write what README.md repeats from elsewhere: its front matter from space.yaml, the figures of the models from their
training.json. `make readme`; a Hugging Face Space looks only at the front matter, and a test compares."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent
FIGURES = {  # column -> key in training.json, digits
    "negative ELBO, nats": ("test_negative_elbo_nats", 1),
    "squared error": ("test_reconstruction_mse", 4),
    "clear samples": ("samples_clear_p_over_0.9", 2),
}


def front_matter() -> str:
    """space.yaml without its comments."""
    lines = (ROOT / "space.yaml").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def models() -> str:
    """A line for each bundled model."""
    rows = [["model", "trained on", "code", *FIGURES], ["---"] * (3 + len(FIGURES))]
    for file in sorted(ROOT.glob("pipelines/checkpoints/*/training.json")):
        facts, config = (
            json.loads(file.read_text("utf-8")),
            json.loads((file.parent / "config.json").read_text("utf-8")),
        )
        name = f"[{file.parent.name}]({file.parent.relative_to(ROOT).as_posix()}/README.md)"
        found = [(facts["figures"].get(key), digits) for key, digits in FIGURES.values()]
        figures = ["–" if value is None else f"{value:.{digits}f}" for value, digits in found]
        rows.append([name, facts["data"]["name"], f"{config['latent_dim']} numbers", *figures])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def readme() -> str:
    """README.md as it should be."""
    text = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"\A(---\n.*?\n---\n)?", lambda _: f"---\n{front_matter()}\n---\n", text, count=1, flags=re.DOTALL)
    return re.sub(
        r"(<!-- models -->\n).*?(\n<!-- end -->)", lambda m: m[1] + models() + m[2], text, count=1, flags=re.DOTALL
    )


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), "utf-8")
