"""Looking inside text to image: what is recorded is what the nets compute, and what the sections make of it."""

import io
import math

import gradio as gr
import numpy as np
import pytest
import torch
from conftest import LANGUAGES, models_apart
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_flux import FluxAttention
from PIL import Image

import pipelines
from apps import text_inside_pictures as compute
from apps.sections import Sections
from apps.text_inside import lay_out
from apps.text_pictures import Asked
from pipelines import recipe, runtime, text_attention, text_inside
from pipelines.problems import Problem
from pipelines.text_levels import Level, predicted
from tests import tiny_text

KINDS = tuple(tiny_text.KINDS.values())
PROMPT = "a frog with melon hat, 🐸"
HOW = (PROMPT, "", 5, 4, 4.0, "", "", 1.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{"diffusion": pipeline, "flow": pipeline}"""
    with models_apart():
        folders = tiny_text.folders(tmp_path_factory.mktemp("text"))
        ids = {kind: pipelines.register_folder(folder).id for kind, folder in folders.items()}
        yield {kind: pipelines.load(id) for kind, id in ids.items()}


@pytest.fixture(params=KINDS)
def p(models, request):
    return models[request.param]


def traced(p, prompt=PROMPT, negative="", seed=5, steps=4, guidance=4.0, sampler=""):
    return p.trace(prompt, negative, seed, steps, guidance, sampler)


# ---- steps and guidance


@pytest.mark.parametrize("negative", ["", "bear"])
def test_a_step_goes_along_the_difference_of_with_and_without(p, negative):
    """Ho & Salimans 2022, eq. 6: what the pipeline did is what the frames show."""
    for sampler in p.samplers:
        made = traced(p, negative=negative, sampler=sampler)
        for moment in made.moments:
            given, free = (
                text_inside.said(p, moment.x, moment.t, text_inside.told(p, text)) for text in (PROMPT, negative)
            )
            assert (given - free).abs().max() > 1e-3
            assert torch.allclose(moment.output, free + 4 * (given - free), atol=1e-3), sampler
            x0 = [predicted(p.scheduler(sampler), out, moment.x, moment.level) for out in (given, free)]
            assert torch.allclose(moment.x0, x0[1] + 4 * (x0[0] - x0[1]), rtol=1e-3, atol=1e-2), sampler


def test_frames_are_pictures_of_the_steps(p):
    made = traced(p)
    frames = text_inside.frames(p, made, [0, 2])
    assert [frame.number for frame in frames] == [1, 3]
    for frame, moment in zip(frames, (made.moments[0], made.moments[2]), strict=True):
        assert frame.level == moment.level
        for shown, x in ((frame.noised, moment.x), (frame.expected, moment.x0)):
            near = np.asarray(shown, int) - np.asarray(p.decode(x), int)
            assert shown.size == (128, 128) and np.abs(near).mean() < 2  # bf16
    for one in text_inside.guidance(p, made, [0, 2]):
        difference = np.asarray(one.given, int) - np.asarray(one.free, int)
        assert (np.asarray(one.difference) == np.clip(128 + difference, 0, 255)).all()
        assert one.gap > 0


def test_progress_is_told(p):
    for task in (text_inside.frames, text_inside.guidance):
        told = []
        task(p, traced(p), [0, 1, 3], lambda *step, told=told: told.append(step))
        assert told == [(1, 3, None), (2, 3, None), (3, 3, None)]


def test_channels_side_by_side():
    x = torch.zeros(1, 20, 2, 3)
    x[0, 0], x[0, 1], x[0, 5] = 3, -9, 1.5
    grey = np.asarray(text_inside.channels(x))
    assert grey.shape == (4 * 3 - 1, 4 * 4 - 1), "16 at most, a line between"
    assert (grey[:2, :3] == 255).all() and (grey[:2, 4:7] == 0).all() and (grey[3:5, 4:7] == 191).all()
    assert (grey[:2, 8:11] == 128).all()
    assert text_inside.channels(torch.zeros(1, 4, 64, 64)).size == (129, 129)


def test_steps_at_equal_distances():
    assert text_inside.spread(8, 24) == list(range(8))
    assert text_inside.spread(100, 5) == [0, 25, 50, 74, 99]
    assert text_inside.spread(1, 5) == [0]
    for n in range(1, 101):
        assert {0, n - 1} <= set(text_inside.spread(n, 24)) and len(text_inside.spread(n, 24)) == min(n, 24)


# ---- the twin


def test_the_twin_answers_the_same_from_the_same_memory(p):
    net = p.family.net
    twin = text_attention.twin(net)
    assert twin is not net
    theirs = dict(twin.named_parameters())
    assert all(theirs[name].data_ptr() == value.data_ptr() for name, value in net.named_parameters())
    assert not any(value.is_meta for value in (*twin.parameters(), *twin.buffers()))
    moment, conditions = traced(p, steps=1).moments[0], text_inside.told(p, PROMPT)
    sink = text_attention.Sink(conditions.hidden.shape[1])
    plain = text_inside.said(p, moment.x, moment.t, conditions)
    assert torch.equal(text_inside.said(p, moment.x, moment.t, conditions, twin, sink=sink), plain)
    assert torch.equal(text_inside.said(p, moment.x, moment.t, conditions, twin), plain)
    assert sink.layers == {"diffusion": 4, "flow": 2}[p.model.kind]
    assert not any(type(x).__name__ in ("CrossAttention", "JointAttention") for x in net.attn_processors.values())


def share_of_value_one(attn, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs attention whose outputs are what they are -> (output, weights that the sink was told)."""
    torch.nn.init.eye_(attn.to_out[0].weight)
    torch.nn.init.zeros_(attn.to_out[0].bias)
    sink = text_attention.Sink(3)
    sink.add = lambda weights: setattr(sink, "weights", weights)
    with torch.no_grad():
        out = attn(*args, **kwargs, sink=sink)
    return (out[0] if isinstance(out, tuple) else out), sink.weights


def test_cross_attention_tells_the_weights_it_uses():
    torch.manual_seed(0)
    attn = Attention(query_dim=8, cross_attention_dim=6, heads=2, dim_head=4, processor=text_attention.CrossAttention())
    torch.nn.init.zeros_(attn.to_v.weight)
    attn.to_v.weight.data[:, 5] = 1
    text = torch.randn(1, 3, 6)
    text[0, :, 5] = torch.tensor([0.0, 1.0, 0.0])  # values: 1 for the second token
    out, weights = share_of_value_one(attn, 3 * torch.randn(1, 4, 8), text)
    assert weights.shape == (4, 3) and torch.allclose(weights.sum(1), torch.ones(4), atol=1e-5)
    assert torch.allclose(out[0].unflatten(-1, (2, 4)).mean((1, 2)), weights[:, 1], atol=1e-5)


@pytest.mark.parametrize("single", [False, True])
def test_joint_attention_tells_the_weights_it_uses(single):
    torch.manual_seed(0)
    more = (
        {"pre_only": True, "out_dim": 8}
        if single
        else {"added_kv_proj_dim": 8, "out_dim": 8, "context_pre_only": False}
    )
    attn = FluxAttention(8, 2, 4, bias=True, processor=text_attention.JointAttention(), **more)
    image, text = 3 * torch.randn(1, 4, 8), 3 * torch.randn(1, 3, 8)
    turns = torch.randn(7, 4)
    turns = turns.cos(), turns.sin()
    for layer in [attn.to_v] + ([] if single else [attn.add_v_proj]):  # values: 1 for text, 0 for the picture
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, float(layer is not attn.to_v))
    if single:  # one layer for both: it reads which is which
        text[..., 7], image[..., 7] = 1.0, 0.0
        attn.to_v.weight.data[:, 7] = 1
        attn.to_out = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
        out, weights = share_of_value_one(attn, torch.cat([text, image], 1), image_rotary_emb=turns)
        out = out[:, 3:]
    else:
        out, weights = share_of_value_one(attn, image, text, image_rotary_emb=turns)
    assert weights.shape == (4, 3)
    assert weights.sum(1).min() > 0 and weights.sum(1).max() < 1
    assert torch.allclose(out[0].unflatten(-1, (2, 4)).mean((1, 2)), weights.sum(1), atol=1e-5)


def test_layers_of_all_sizes_count_the_same():
    sink = text_attention.Sink(2)
    sink.add(torch.tensor([[0.2, 0.8]] * 4))
    sink.add(torch.tensor([[0.6, 0.1]] * 16))
    sink.add(torch.tensor([[0.4, 0.0]] * 16))
    assert sink.maps() == pytest.approx(np.broadcast_to([[[0.4]], [[0.3]]], (2, 4, 4)), abs=1e-6)
    assert sink.shares() == pytest.approx([0.4, 0.3])
    corner = torch.zeros(16, 2)
    corner[3, 0] = 1.0  # the last place of the first row
    sink = text_attention.Sink(2)
    sink.add(corner)
    assert sink.maps()[0].argmax() == 3


# ---- words


def test_attention_to_every_word_adds_up(p):
    made = traced(p)
    found = text_attention.attention(p, made)
    assert [word.text for word in found.words] == ["a", "frog", "with", "melon", "hat", "🐸"]
    assert sum(found.shares.values()) == pytest.approx(1, abs=1e-4)
    assert found.shares["words"] == pytest.approx(sum(word.share for word in found.words))
    assert (found.shares["picture"] > 0.01) == (p.model.kind == "flow")
    assert (found.shares["start"] > 0) == (p.model.kind == "diffusion"), "T5 has no start token"
    assert found.shares["other"] > 0, "the comma"
    for word in found.words:
        assert word.picture.size == made.image.size and 0 < word.share < 1 <= word.peak


def test_the_overlay_colours_what_stands_out_and_nothing_else():
    image = Image.new("RGB", (64, 64), (90, 90, 90))
    even = np.full((8, 8), 0.1, np.float32)
    even[0, 0] = 0.101
    assert np.ptp(np.asarray(text_attention.overlay(image, even), int), axis=2).max() < 4, "hardly any difference"
    one = np.full((8, 8), 0.1, np.float32)
    one[2, 5] = 0.9
    seen = np.asarray(text_attention.overlay(image, one), int)
    red = seen[..., 0] - seen[..., 1]
    assert np.unravel_index(red.argmax(), red.shape) in [(y, x) for y in range(16, 24) for x in range(40, 48)]
    assert red[:8].max() == red[40:].max() == 0
    assert np.asarray(text_attention.overlay(image, np.zeros((8, 8), np.float32))).std() == 0


def test_tokens_are_those_that_the_encoders_read(p):
    tokenizers = [p.pipe.tokenizer] + ([p.pipe.tokenizer_2] if p.model.kind == "flow" else [])
    for text in (PROMPT, "", "frog " * 60, "Ein Frosch mit  Melonenhut!", "\u200b\u202e ÄÖ 1,5", "gi\nraffe's"):
        found = text_attention.tokens(p, text)
        assert [read.name for read in found] == ["CLIP", "T5"][: len(tokenizers)]
        for read, tokenizer in zip(found, tokenizers, strict=True):
            theirs = tokenizer(text, truncation=True, max_length=tokenizer.model_max_length, padding="max_length")
            ours = [id for _, id in read.before] + [piece.id for piece in read.pieces if piece.kept]
            ours += [id for _, id in read.after] + read.padding * [tokenizer.pad_token_id]
            assert theirs.input_ids == ours
            for n in range(len(read.words)):
                assert all(read.pieces[place - len(read.before)].word == n for place in read.places(n))
            assert all(piece.text.isprintable() and piece.text for piece in read.pieces)


def test_words_not_pieces(models):
    (read,) = text_attention.tokens(models["diffusion"], "a giraffe's top-hat, 🐸 \u200b!")
    assert read.words == ["a", "giraffe's", "top-hat", "🐸"]
    pieces = ["".join(piece.text for piece in read.pieces if piece.word == n) for n in range(3)]
    assert pieces == ["a", "giraffe's", "top-hat"]
    assert len(read.places(1)) > 1
    (read,) = text_attention.tokens(models["diffusion"], "frog " * 60)
    assert sum(piece.kept for piece in read.pieces) == read.length - 2 == 22
    assert read.places(21) == [22] and read.places(22) == []


# ---- the forward process


def test_noise_is_that_of_the_schedule(models):
    p = models["diffusion"]
    schedule = p.pipe.scheduler
    for t, i in ((0, 0), (0.5, 500), (1, 999)):
        time, level = text_inside.at(p, t)
        assert time == i and level.signal**2 == pytest.approx(float(schedule.alphas_cumprod[i]))
        assert level.signal**2 + level.noise**2 == pytest.approx(1)
        x, noise = torch.randn(2, 1, 4, 8, 8)
        theirs = DDPMScheduler.from_config(schedule.config).add_noise(x, noise, torch.tensor([i]))
        assert torch.allclose(level.signal * x + level.noise * noise, theirs, atol=1e-5)
    for t in (0, 0.25, 1):
        assert text_inside.at(models["flow"], t) == (1000 * t, Level(1 - t, t))


def test_log_snr():
    assert text_inside.log_snr(Level(0.8, 0.6)) == pytest.approx(math.log(0.64 / 0.36))
    assert text_inside.log_snr(Level(1, 0)) == math.inf and text_inside.log_snr(Level(0, 1)) == -math.inf


def test_a_picture_is_noised_with_the_noise_that_its_seed_draws_from(p):
    photo = Image.radial_gradient("L").resize((300, 200))
    start = traced(p, steps=1).moments[0].x
    with runtime.autocast():
        x0 = p.encode(photo)
    for t in (0, 0.3, 1):
        made, level = text_inside.noise(p, photo, PROMPT, 5, t), text_inside.at(p, t)[1]
        assert made.original.size == (128, 128) and made.original.mode == "RGB"
        x = level.signal * x0 + level.noise * start
        assert made.noised.tobytes() == text_inside.look(p, x).tobytes() and made.level == level
    assert torch.equal(x, start), "at the end nothing else is left"
    for t in (float("nan"), -0.1, 2, "a", None):
        with pytest.raises(Problem):
            text_inside.noise(p, photo, PROMPT, 5, t)


def test_what_the_net_expects_is_what_it_says_of_the_noised_picture(p):
    photo = Image.radial_gradient("L").convert("RGB").resize((128, 128))
    made = text_inside.noise(p, photo, PROMPT, 5, 0.4)
    with runtime.autocast():
        x0 = p.encode(photo)
    x = made.level.signal * x0 + made.level.noise * runtime.noise(5, 1, *x0.shape[1:]).cpu()
    time, level = text_inside.at(p, 0.4)
    answer = text_inside.said(p, x, time, text_inside.told(p, PROMPT))
    expected = level.signal * x - level.noise * answer if p.model.kind == "diffusion" else x - 0.4 * answer
    assert made.expected.tobytes() == text_inside.look(p, expected).tobytes()


# ---- what the tab computes


def look(p, *more, **changes):
    asked = dict(zip(Asked._fields[1:], HOW, strict=True)) | changes
    return pipelines.load, p.model.id, *asked.values(), *more


CALLS = {
    "steps": (compute.diffusion_steps, (3,), {"step": 3}),
    "words": (compute.attention, (), {}),
    "noise": (compute.noise_picture, (None, "cat", 0.5), {"photo": "cat", "t": 0.5}),
}


@pytest.mark.parametrize("section", CALLS)
@pytest.mark.parametrize("lang", LANGUAGES)
def test_pictures_carry_what_makes_them_again(p, section, lang):
    task, more, own = CALLS[section]
    one, again = (task(*look(p, *more), lang=lang) for _ in range(2))
    assert [item.data for item in one.figures] == [item.data for item in again.figures]
    expected = {"section": section, "prompt": PROMPT, "negative_prompt": "", "steps": 4, "guidance": 4.0}
    saved = [item for item in one.figures if item.name]
    assert len(saved) == {"steps": 9, "words": 7, "noise": 2}[section]
    for item in saved:
        made = recipe.read(item.data)
        assert (made.model, made.seed) == (p.model.id, 5)
        assert made.settings.items() >= (expected | own).items(), item.caption
        assert made.settings["sampler"] == p.samplers[0]
    assert all("{" not in item.caption and item.caption for item in one.figures)


def test_the_step_is_chosen(p):
    third = compute.diffusion_steps(*look(p, 3), lang="en")
    made = traced(p)
    shown = Image.open(io.BytesIO(third.figures[2].data))
    assert shown.tobytes() == text_inside.look(p, made.moments[2].x0).tobytes()
    assert third.numbers["signal"] == made.moments[2].level.signal
    for step in (0, 5, 1.5, None, "x", float("nan")):
        with pytest.raises(Problem):
            compute.diffusion_steps(*look(p, step), lang="en")
    between = next(i for i in range(30) if i not in text_inside.spread(30, 24)) + 1
    many = compute.diffusion_steps(*look(p, between, steps=30), lang="en")
    strip = Image.open(io.BytesIO(many.figures[0].data))
    assert strip.size == (9 * 130, 3 * 262), "24 at equal distances, and the one between"


def test_numbers_of_the_words(p):
    result = compute.attention(*look(p), lang="en")
    assert len(result.figures) == 1 + len(result.numbers["shares"]) == 7
    assert result.numbers["share_words"] == pytest.approx(sum(result.numbers["shares"]))
    assert ("tokens_2" in result.numbers) == (p.model.kind == "flow")
    assert result.figures[2].name.endswith("_frog")


@pytest.mark.parametrize("prompt", ["", " ", ",;!", "\u200b\u202e", "🐸" * 40, "x" * 1000, "<b>frog</b> {w} & %"])
def test_any_prompt_goes(p, prompt):
    result = compute.attention(*look(p, prompt=prompt, steps=1), lang="de")
    assert len(result.figures) == 1 + len(result.numbers["shares"])
    html = compute.pieces(text_attention.tokens(p, prompt), "de")
    assert "<b>frog" not in html and "\u202e" not in html
    assert ("abgeschnitten" in html) == (len(prompt) >= 40)


def test_the_drawn_picture_is_drawn_once(p, monkeypatch):
    draws, draw = [], Asked.draw
    monkeypatch.setattr(Asked, "draw", lambda self, load: draws.append(self) or draw(self, load))
    first, _ = (compute.noise_picture(*look(p, None, "drawn", t), lang="en") for t in (0.1, 0.9))
    assert len(draws) == 1
    assert Image.open(io.BytesIO(first.figures[0].data)).tobytes() == traced(p).image.tobytes()
    monkeypatch.setitem(pipelines._wanted, p.model.id, {"dtype": "float32"})
    compute.noise_picture(*look(p, None, "drawn", 0.1), lang="en")
    assert len(draws) == 2, "in another precision it may be another picture"


def test_ones_own_picture_is_in_no_recipe(p):
    result = compute.noise_picture(*look(p, Image.new("RGB", (50, 40), "red"), "cat", 0.5), lang="en")
    assert recipe.read(result.figures[1].data).settings["photo"] == "own"
    for photo in ("own", "nobody", None):
        with pytest.raises(Problem):
            compute.noise_picture(*look(p, None, photo, 0.5), lang="en")


def test_infinite_ratios_are_left_out_of_the_numbers(models):
    for t, finite in ((0, False), (0.5, True), (1, False)):
        numbers = compute.noise_picture(*look(models["flow"], None, "cat", t), lang="en").numbers
        assert ("log_snr" in numbers) == finite


def test_a_film_has_all_that_can_be_scrubbed_to(p):
    walk = compute.Walk.of(pipelines.load, Asked.of(p.model.id, *HOW))
    film = compute.film(walk, "en")
    assert film["steps"] == [1, 2, 3, 4] and film["labels"][3] == "Step 4 of 4"
    assert (film["columns"], film["rows"]) == (4, 1)
    below = compute.below(walk, walk.guidance(walk.frames), "en")
    for shots, n in ((film["pairs"], 2), (below, 6)):
        assert [shot.count("<img") for shot in shots] == [n] * 4
    assert film["sheet"].count('class="save"') == 1


def test_curves_go_through_their_mark(models):
    for kind, t, height in (("flow", 0.25, 0.75), ("diffusion", 0.0, 1.0)):
        course = text_inside.course(models[kind])
        html = compute.curves(course, t, kind == "flow", "de")
        assert html.count("<polyline") == 2 and html.count('class="mark"') == 2
        assert f'cy="{12 + 150 * (1 - height):.1f}"' in html or kind == "diffusion"
        assert "nan" not in html and "inf" not in html
    straight = compute.curves(text_inside.course(models["flow"]), 0.0, True, "en")
    assert straight.count("<circle") == 1, "where the ratio is infinite there is no dot"


def test_it_is_laid_out(models):
    """As the tab does it: three sections filled, endpoints named, settings for the link."""
    with gr.Blocks() as demo:
        inputs = {name: gr.Textbox() for name in Asked._fields}
        sections = Sections("text_to_image", dict.fromkeys(("steps", "words", "noise"), "x"), pipelines.load)
        params = lay_out(pipelines.load, sections, inputs)
    assert [param.name for param in params] == ["photo", "t", "step"]
    named = {fn.api_name for fn in demo.fns.values()}
    assert {"diffusion_steps", "attention", "noise_picture"} <= named
