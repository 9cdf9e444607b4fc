"""Write README.md's front matter, the only place where a Hugging Face Space looks, from space.yaml: `make readme`."""

from pathlib import Path

ROOT = Path(__file__).parent


def readme() -> str:
    """README.md as it should be: space.yaml without its comments, then the text."""
    metadata = [line for line in (ROOT / "space.yaml").read_text("utf-8").splitlines() if not line.startswith("#")]
    text = (ROOT / "README.md").read_text("utf-8")
    if text.startswith("---\n"):
        text = text.split("\n---\n", 1)[1]
    return "\n".join(["---", *metadata, "---", text])


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), "utf-8")
