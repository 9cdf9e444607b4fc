"""training/evaluate_style.py on domains whose answer is known, and the subcommand on a tiny pair."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from training import common, evaluate, style_transfer
from training import evaluate_style as style

TINY = "--a a --b b --size 32 --load-size 36 --ngf 4 --ndf 4 --blocks 1 --steps 1 --held-out 0.25 --cpu"


def stripes(n, size=36, tint=(1, 1, 1), wide=2, seed=0):
    """n pictures (N, 3, S, S) bytes: noise in stripes of that many px, in that colour."""
    x = torch.rand(n, 1, size // wide, 1, generator=torch.Generator().manual_seed(seed))
    x = x.repeat_interleave(wide, 2).expand(-1, 1, -1, size)
    return (255 * x * torch.tensor(tint).view(3, 1, 1)).byte()


def accuracy(a, b, see):
    config = SimpleNamespace(size=32, load_size=36, zoom=1.0, mirror=True, colour_a=0.1, colour_b=0.0, seed=0)
    net = style.train_classifier(a[10:], b[10:], config, 60, see)
    held_out = [style_transfer.middle(pixels[:10], 32) for pixels in (a, b)]
    seen = {way: style.Seen(x, x, x, x) for way, x in zip(("AtoB", "BtoA"), held_out, strict=True)}
    return style.compare(seen, net, see)["classifier_accuracy"]


def test_with_and_without_colour():
    x = torch.rand(2, 3, 4, 4) * 2 - 1
    grey = style.colourless(x)
    assert grey.shape == x.shape and torch.equal(grey[:, 0], grey[:, 2])
    assert torch.allclose(style.colourless(grey), grey, atol=1e-6)
    red, green = stripes(70, tint=(1, 0, 0)), stripes(70, tint=(0, 0.299 / 0.587, 0), seed=1)  # equally light
    assert accuracy(red, green, lambda x: x) == 1
    assert accuracy(red, green, style.colourless) < 0.8
    assert accuracy(stripes(70), stripes(70, wide=6), style.colourless) > 0.9


def test_shares():
    """The net calls what is light B; A is dark but for one in four, and translations are light but for one."""
    light, dark = torch.ones(3, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    mostly_light, mostly_dark = torch.cat([light, dark]), torch.cat([-light, -dark])
    seen = {
        "AtoB": style.Seen(mostly_dark, mostly_light, mostly_dark, mostly_dark),
        "BtoA": style.Seen(light, mostly_dark[:3], light, light),
    }
    assert style.compare(seen, lambda x: x.mean((1, 2, 3)), lambda x: x, "_some") == {
        "classifier_accuracy_some": (0.75 + 1) / 2,
        "called_target_some_AtoB": 0.75,
        "untranslated_some_AtoB": 0.25,
        "called_target_some_BtoA": 1,
        "untranslated_some_BtoA": 0,
    }


def test_sheet_shows_both_cycles():
    def pictures(*levels):
        return [torch.full((1, 3, 8, 8), level / 127.5 - 1) for level in levels]

    a = style.Seen(*(torch.cat(pictures(first, first + 1)) for first in (10, 20, 30, 40)))
    b = style.Seen(*(torch.cat(pictures(first, 0, 0, 0, first + 1, 0, 0, 0)) for first in (50, 60, 70, 80)))
    shown = np.asarray(style.sheet({"AtoB": a, "BtoA": b}))
    assert shown.shape == (2 * 8, 6 * 8, 3)
    assert shown[::8, ::8, 0].tolist() == [[10, 20, 30, 50, 60, 70], [11, 21, 31, 51, 61, 71]]  # spread over all of B


# ------------------------------------------------------------------------------------------------------ subcommand


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two folders of 16 and 12 pictures, and a pair that was trained on them for a step."""
    folder = tmp_path_factory.mktemp("domains")
    for name, pixels in {"a": stripes(16), "b": stripes(12, tint=(0.2, 1, 0.5), wide=4)}.items():
        (folder / name).mkdir()
        for i, picture in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(picture).save(folder / name / f"{i:02d}.png")
    AcceleratorState._reset_state(True)
    argv = ["--data", str(folder), "--out", str(folder / "tiny"), *TINY.split()]
    style_transfer.main(common.parse(style_transfer.Config, argv))
    return folder


def test_figures_are_written_into_both_files(data, tmp_path, capsys):
    argv = ["style_transfer", str(data / "tiny"), "--data", str(data), "--classifier-steps", "4"]
    evaluate.main([*argv, "--sheet", str(tmp_path / "cycles.png")])
    facts = json.loads((data / "tiny" / "training.json").read_text())
    figures, card = facts["figures"], (data / "tiny" / "README.md").read_text()
    assert (figures["pictures seen"], figures["held_out_A"], figures["held_out_B"]) == (1, 4, 3)
    names = ["classifier_accuracy", "classifier_accuracy_grey"]
    for way in ("AtoB", "BtoA"):
        names += [
            f"called_target_{way}",
            f"called_target_grey_{way}",
            f"untranslated_{way}",
            f"untranslated_grey_{way}",
        ]
        names += [f"cycle_error_{way}", f"identity_error_{way}"]
    for name in names:
        assert 0 <= figures[name] <= 2
        assert f"| {name} | {figures[name]} |" in card
    assert style.NOTE in card and facts["figures_hardware"] in card
    assert "called_target_grey_BtoA " in capsys.readouterr().out
    assert Image.open(tmp_path / "cycles.png").size == (6 * 32, 3 * 32)


def test_refused(data, tmp_path):
    argv = ["style_transfer", str(data / "tiny"), "--data", str(data)]
    with pytest.raises(common.TrainingError, match="outside the repository"):
        evaluate.main([*argv, "--sheet", "cycles.png"])
    with pytest.raises(common.TrainingError, match="give one folder"):
        evaluate.main([*argv[:2], *argv[1:], "--sheet", str(tmp_path / "cycles.png")])
    with pytest.raises(common.TrainingError, match="tiny is a model of style_transfer, not of faces"):
        evaluate.main(["faces", *argv[1:]])
    with pytest.raises(common.TrainingError, match="does not exist"):
        evaluate.main([*argv[:-1], str(tmp_path)])
