"""README's pictures: `make screenshots` writes docs/screenshots/*.webp, and beside the ControlNet its first picture."""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

import pipelines
from apps.text_control import EDGES, HAND, OUTLINE, OUTLINED, control
from apps.text_to_image import PROMPT, SEED
from pipelines import registry
from tests.served import ROOT, chromium, opened, served

FOLDER = ROOT / "docs" / "screenshots"
# name -> what is opened, how wide and high the window is, which picture must be there
PICTURES = {
    "faces": ("tab=faces&lang=de&__theme=light", (1280, 900), "#crowd img"),
    "mix": ("tab=faces&section=mix&lang=en&__theme=dark", (1280, 1050), "#mixed img"),
    "verdict": ("tab=faces&section=verdict&lang=de&__theme=light", (1280, 900), "#scores img"),
    "faces-phone": ("tab=faces&lang=en&__theme=dark", (390, 1240), "#crowd img"),
    "historic": ("tab=style_transfer&lang=de&__theme=light", (1280, 900), "#translated img"),
    "cycle": ("tab=style_transfer&section=cycle&lang=en&__theme=dark", (1280, 1050), "#around img"),
    "plane": ("lang=en&__theme=light", (1280, 1000), "#decoded img"),
    "reconstruct": ("lang=de&section=reconstruct&noise=0.3&__theme=light", (1280, 1000), "#rebuilt img"),
    "compare": ("lang=en&section=compare&__theme=dark", (1280, 1240), ".figures img"),
    "lecture": ("lang=de&grid=1&lecture=1&__theme=dark", (1280, 720), "#decoded img"),
    "text": ("tab=text_to_image&lang=de&__theme=light", (1280, 1000), "#drawn img"),
    "control": (
        "tab=text_to_image&model=emoji-sd&steps=20&guidance=4&section=control&lang=en&__theme=dark",
        (1280, 1000),
        "#controlled img",
    ),
    "phone": ("lang=de&section=sample&__theme=light", (390, 1240), ".figures img"),
}


def first_of_control() -> None:
    """What the section of the ControlNet shows before a net is loaded; to be drawn anew when its nets learnt on."""
    model = registry.get("emoji-sd-canny")
    asked = model.base, PROMPT, "", SEED, *(registry.get(model.base).defaults[name] for name in ("steps", "guidance"))
    made = control(pipelines.load, *asked, "", "", 1.0, None, HAND, EDGES, OUTLINE, OUTLINED, 1.0, 0.0, 1.0, lang="en")
    (model.path / "first.png").write_bytes(made.figures[1].data)


def main() -> None:
    first_of_control()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with served() as (url, _), chromium() as browser:
        for name, (query, (width, height), picture) in PICTURES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            opened(page, f"{url}/?{query if 'tab=' in query else f'tab=vae_playground&{query}'}")
            page.locator(picture).filter(visible=True).last.wait_for(timeout=60_000)
            page.wait_for_timeout(3000)  # the plane's background is a picture, too, and says not when it is drawn
            shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
            shot.save(FOLDER / f"{name}.webp", quality=82, method=6)
            page.close()
            print(FOLDER / f"{name}.webp", (FOLDER / f"{name}.webp").stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
