"""Write what README.md repeats from elsewhere: its front matter from space.yaml, the figures of the models from their
training.json. `make readme`; a Hugging Face Space looks only at the front matter, and a test compares."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent
FIGURES = {  # tab -> column -> key in training.json, digits
    "vae_playground": {
        "negative ELBO, nats": ("test_negative_elbo_nats", 1),
        "squared error": ("test_reconstruction_mse", 4),
        "clear samples": ("samples_clear_p_over_0.9", 2),
    },
    "faces": {
        "faces found, of real ones": ("faces_found_of_real", 2),
        "recall": ("recall", 2),
        "nearer than real": ("nearer_than_real", 3),
    },
    "style_transfer": {
        "taken for B": ("called_target_AtoB", 2),
        "taken for A": ("called_target_BtoA", 2),
        "cycle error of A": ("cycle_error_AtoB", 3),
        "cycle error of B": ("cycle_error_BtoA", 3),
    },
    "text_to_image": {
        "scenes seen": ("scenes seen", 0),
        "all right": ("all_right", 2),
        "object right": ("object_right", 2),
        "hat right": ("hat_right_trained", 2),
        "hat of a new pair": ("hat_right_held_out", 2),
        "background": ("background_right", 2),
        "frog with melon hat": ("frog_with_melon_hat_right", 1),
        "autoencoder, dB": ("autoencoder_db", 1),
    },
    "companions": {  # nets that go with another
        "edges followed, F": ("F of edges, with control", 2),
        "without it": ("F of edges, without control", 2),
        "new thing drawn": ("new_thing_right", 2),
        "old things right": ("object_right", 2),
        "old things without it": ("object_right_without", 2),
    },
}


def front_matter() -> str:
    """space.yaml without its comments."""
    lines = (ROOT / "space.yaml").read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def models(tab: str) -> str:
    """A line for each bundled model of a tab, or for the companions."""
    rows = [["model", "trained on", "parameters", *FIGURES[tab]], ["---"] * (3 + len(FIGURES[tab]))]
    for file in sorted(ROOT.glob("pipelines/checkpoints/*/training.json")):
        facts = json.loads(file.read_text("utf-8"))
        if ("companions" if facts.get("base") else facts["tab"]) == tab:
            name = f"[{file.parent.name}]({file.parent.relative_to(ROOT).as_posix()}/README.md)"
            found = [(facts["figures"].get(key), digits) for key, digits in FIGURES[tab].values()]
            figures = ["–" if value is None else f"{value:.{digits}f}" for value, digits in found]
            if not any(value is not None for value, _ in found):
                continue  # a helper that nobody picks
            rows.append([name, facts["data"]["name"], f"{facts['parameters']:,}", *figures])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def readme() -> str:
    """README.md as it should be."""
    text = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"\A(---\n.*?\n---\n)?", lambda _: f"---\n{front_matter()}\n---\n", text, count=1, flags=re.DOTALL)
    table = r"(<!-- models of (\w+) -->\n).*?(\n<!-- end -->)"
    return re.sub(table, lambda m: m[1] + models(m[2]) + m[3], text, flags=re.DOTALL)


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), "utf-8")
