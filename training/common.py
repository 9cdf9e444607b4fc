"""The base of every training script: command line, data, checkpoints, logs, EMA, model card.

A script is a dataclass and a `main` that is read top to bottom:

    @dataclass(kw_only=True)
    class Config(common.Config):
        latent_dim: int = common.option(2, "numbers in a code")

    def main(config):
        run = common.Run(config)                                        # accelerator, folder, SIGTERM
        data = common.load_images(config.data, size=28, channels=1)     # idx, parquet, image folder, hub:owner/name
        model = DenseVAE(latent_dim=config.latent_dim).to(run.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        ema = common.EMA(model, decay=0.999)
        run.track(model=model, optimizer=optimizer, ema=ema)            # also several nets, or dicts of plain numbers
        for step in run.steps():                                        # resumes, logs, saves, stops
            common.set_lr(optimizer, config.lr * common.cosine(step, config.steps))
            x = data.batch(run.indices(len(data))).to(run.device)       # this process's share of the global batch
            z = run.noise((config.latent_dim,))                         # likewise: (N, latent_dim), f(seed, step)
            with run.autocast():
                loss = vae_loss(model(x, z), x)
            run.update(loss, optimizer)                                 # backward, average, check, step
            ema.update(model)
            run.log(loss=loss)
        run.save(ema.module, {"id": "...", "tab": "...", ...})          # weights in fp16, training.json, card

    if __name__ == "__main__":
        common.launch(main, Config)

The interface in one line each:
  option, Config, parse, launch      a dataclass -> a command line; one sentence and exit 2 where a person erred
  load_images -> Images              `len`, `.batch(indices)` -> x in [-1, 1], `.column(name)`, `.pixels` (uint8)
  Run                                `device, precision, folder, step, rank, world, is_main`, scalars-as-dicts through
                                     `track(...)`, `steps indices share noise generator autocast update log due
                                     picture save`
  EMA, set_lr, cosine, grid          small helpers of a loop
  begin, seen_before                 what --from needs: weights of a finished model, and what it had seen
  write_card                         training.json + README.md of a finished model

A run goes on bit for bit: the order of the data is a function of (seed, epoch), noise of (seed, step), and the global
random state is set from (seed, step) before each step, so nothing but the tracked objects has to be saved. They
go into one file, `<out>/state/state.safetensors` (JSON in its header, no pickle), written under a temporary name,
fsynced and renamed over its predecessor. Modules are not wrapped: `update` averages the gradients over processes, so
GANs, methods other than `forward` and double backward work alike on one process and on many.
"""

import argparse
import contextlib
import dataclasses
import errno
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
import typing
import zlib
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import accelerate
import numpy as np
import psutil
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipelines.runtime import fast_bf16
from training.data import Images, TrainingError, load_images  # noqa: F401 - scripts need `common` alone

REPOSITORY = Path(__file__).resolve().parents[1]


# ---------------------------------------------------------------------------------------------------- command line


def option(default, help: str):
    """A field of a Config with its help text."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(kw_only=True)
class Config:
    """What every script takes; a script adds fields of its own and may give other defaults."""

    data: str = dataclasses.field(metadata={"help": "folder of idx, parquet or pictures; a file; or hub:owner/name"})
    out: Path = dataclasses.field(metadata={"help": "folder of the finished model; its state/ holds what resumes"})
    steps: int = option(20_000, "updates in all")
    batch_size: int = option(128, "pictures in an update, over all processes")
    lr: float = option(1e-3, "learning rate at its highest")
    seed: int = option(0, "of weights, order and noise")
    precision: typing.Literal["fp32", "bf16"] = option(
        "fp32", "of the forward pass; weights stay in fp32. bf16 is fp32 where the processor would emulate it"
    )
    cpu: bool = option(False, "ignore a GPU")
    log_every: int = option(100, "steps between lines of log.jsonl")
    save_every: int = option(1000, "steps between checkpoints")
    sample_every: int = option(1000, "steps between pictures of samples")
    resume: bool = option(False, "go on from the checkpoint in OUT if there is one")
    dry_run: bool = option(False, "check data, sizes and memory, run two steps, say what would happen")
    may_change: typing.ClassVar[frozenset[str]] = frozenset()  # when a run goes on, beside FREE


# Fields that may differ between a run and its continuation: they do not change what is computed.
FREE = {
    "data",
    "backgrounds",
    "latents",
    "model",
    "keep",
    "prompts",
    "source",
    "licence",
    "attribution",
    "out",
    "cpu",
    "log_every",
    "save_every",
    "sample_every",
    "snapshot_every",
    "resume",
    "dry_run",
}


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, quota, limit on a file's size


def parse(cls: type[Config], argv: list[str] | None = None) -> Config:
    """argv -> cls. A flag for every field; lists take several words, bools are --x and --no-x."""
    module = sys.modules[cls.__module__]
    parser = argparse.ArgumentParser(description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, required = hints[field.name], field.default is dataclasses.MISSING
        help = field.metadata.get("help", "") + ("" if required else f" [{field.default}]")
        kind = {"required": required, "default": None if required else field.default, "help": help.replace("%", "%%")}
        if hint is bool:
            kind["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hint) is typing.Literal:
            kind["choices"] = typing.get_args(hint)
        elif typing.get_origin(hint) is tuple:
            kind |= {"nargs": "+", "type": typing.get_args(hint)[0]}
        else:
            kind["type"] = hint
        flag = "--" + field.name.rstrip("_").replace("_", "-")  # from_ is --from
        parser.add_argument(flag, dest=field.name, **kind)
    values = vars(parser.parse_args(argv))
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


@contextlib.contextmanager
def one_sentence():
    """What a person can put right ends as its sentence on stderr and exit status 2, not as a trace."""
    try:
        yield
    except TrainingError as error:
        text = str(error)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        text = f"Nothing more can be written ({error}); the last checkpoint is whole, --resume goes on from it."
    else:
        return
    print(f"\n{text}", file=sys.stderr)
    sys.exit(2)


def launch(main, cls: type[Config], argv: list[str] | None = None) -> None:
    """Parse and run; see `one_sentence` for errors."""
    with one_sentence():
        main(parse(cls, argv))


# ------------------------------------------------------------------------------------------------------ small parts


class EMA:
    """`module`: a copy of a model whose weights are a running mean of it; buffers are copied."""

    def __init__(self, model: torch.nn.Module, decay: float = 0.999):
        self.module, self.decay = deepcopy(model).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: torch.nn.Module, decay: float | None = None) -> None:
        weight = 1 - (self.decay if decay is None else decay)
        for mean, value in zip(self.module.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, weight)
        for mean, value in zip(self.module.buffers(), model.buffers(), strict=True):
            mean.copy_(value)

    def state_dict(self):
        return self.module.state_dict()

    def load_state_dict(self, state):
        self.module.load_state_dict(state)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate is set from the step, so no scheduler has a state to save."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def cosine(step: int, steps: int, warmup: int = 0) -> float:
    """Rises to 1 over `warmup` steps, falls to 0 at `steps` along half a cosine (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def seed_of(seed: int, *parts: int | str) -> int:
    """(seed, step, name ...) -> a 63-bit seed; neighbours are unrelated."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in (seed, *parts)]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def grid(x: torch.Tensor, columns: int | None = None) -> Image.Image:
    """x (N, C, H, W) in [-1, 1], C 1 or 3 -> one PIL picture, row by row; by default about square."""
    columns = columns or math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    pixels = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    pixels = torch.cat([pixels, pixels.new_zeros(rows * columns - len(x), *x.shape[1:])])
    _, c, h, w = pixels.shape
    sheet = pixels.reshape(rows, columns, c, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    return Image.fromarray(sheet.squeeze(-1).numpy())


def begin(part: torch.nn.Module, folder: str, name: str = "") -> None:
    """Fills it with the weights of that part of a folder, or all of it, if one is given. Raises TrainingError."""
    if not folder:
        return
    try:
        part.load_state_dict(type(part).from_pretrained(Path(folder) / name, torch_dtype=torch.float32).state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        what = name or type(part).__name__
        raise TrainingError(f"{Path(folder).name} holds no {what} of these sizes.") from error


def seen_before(folder: str, what: str) -> int:
    """The figure `what` of a finished model that another begins as, 0 if it begins as none. Raises TrainingError."""
    if not folder:
        return 0
    try:
        return json.loads((Path(folder) / "training.json").read_text("utf-8"))["figures"][what]
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"{Path(folder).name} is no finished model of this script.") from error


# ------------------------------------------------------------------------------------------------------- checkpoint


def pack(value, path: str, tensors: dict[str, torch.Tensor]):
    """A nested state_dict -> JSON; its tensors move into `tensors` under their path."""
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().cpu().clone().contiguous()
        return {"tensor": path}
    if isinstance(value, dict):  # as pairs: an optimizer's keys are ints, and JSON knows only strings
        return {"dict": [[k, pack(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [pack(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"{path}: a {type(value).__name__} cannot be saved")


def unpack(packed, tensors: dict[str, torch.Tensor]):
    """The inverse of `pack`; tuples come back as lists."""
    ((kind, value),) = packed.items()
    if kind == "dict":
        return {k: unpack(v, tensors) for k, v in value}
    if kind == "list":
        return [unpack(v, tensors) for v in value]
    return tensors[value] if kind == "tensor" else value


def write_state(path: Path, state: dict) -> None:
    """A nested dict of tensors and plain values -> one safetensors file, whole or not at all."""
    tensors, temporary = {}, path.with_suffix(".tmp")
    header = {"state": json.dumps(pack(state, "", tensors))}
    try:
        save_file(tensors, temporary, header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        if os.name == "posix":  # there, the new name is safe once its folder is
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(f"{path.name} could not be written ({error}); its predecessor is whole.") from error


def read_state(path: Path) -> dict:
    """The inverse of `write_state`."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a safe_open is no dict
        return unpack(json.loads(file.metadata()["state"]), tensors)


# -------------------------------------------------------------------------------------------------------------- run


class Run:
    """One training run: where it computes, what it remembers, when it stops."""

    def __init__(self, config: Config):
        self.config, self.step, self.seconds, self.tracked = config, 0, 0.0, {}
        self.folder, self.state_path = Path(config.out), Path(config.out) / "state" / "state.safetensors"
        cpu = config.cpu or not torch.accelerator.is_available()  # said outright: else two CPU processes are two runs
        half = config.precision == "bf16" and fast_bf16(torch.device("cpu" if cpu else "cuda"))
        self.precision = "bf16" if half else "fp32"
        self.accelerator = Accelerator(mixed_precision="bf16" if half else "no", cpu=cpu)
        self.device = self.accelerator.device
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.is_main, self.autocast = self.accelerator.is_main_process, self.accelerator.autocast
        if config.batch_size % self.world:
            raise TrainingError(f"A batch of {config.batch_size} cannot be shared by {self.world} processes.")
        if self.state_path.exists() and not (config.resume or config.dry_run):
            raise TrainingError(f"{self.folder.name} holds a run already: add --resume, or choose another --out.")
        torch.backends.cudnn.deterministic = True
        torch.manual_seed(seed_of(config.seed, "weights"))
        self.sums = {}  # of what was logged since the last line
        self.stop = False
        self._epoch = (-1, None)

    def track(self, **objects) -> None:
        """Name what a checkpoint holds: modules, optimizers, EMAs (state_dict), dicts of plain values or tensors."""
        self.tracked |= objects

    def steps(self):
        """Yield the steps still to do, from 0. After each: log, save, stop on SIGTERM. A dry run ends after two."""
        config, begin = self.config, time.monotonic()
        if config.resume and not config.dry_run and self.state_path.exists():
            self._load()
        if self.is_main and not config.dry_run:
            try:
                (self.folder / "state").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise TrainingError(f"The folder {self.folder.name} cannot be made: {error.strerror}.") from error
            self._cut_log()
        first, before = self.step, self.seconds
        launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None
        previous = signal.signal(signal.SIGTERM, self._on_signal)
        try:
            while self.step < config.steps:
                torch.manual_seed(seed_of(config.seed, "step", self.step, self.rank))
                if config.dry_run and self.step == 1:
                    begin = time.monotonic()  # the first step warmed up
                yield self.step
                self.step += 1
                now = time.monotonic() - begin
                self.seconds = before + now
                if config.dry_run and self.step in (2, config.steps):
                    self._say_plan(now)
                if config.dry_run:
                    continue
                last = self.step == config.steps
                # `accelerate launch` dies of a SIGTERM without passing it on: its end is the signal
                self.stop = self.stop or (launcher is not None and os.getppid() != launcher)
                stop = self.accelerator.reduce(torch.tensor(float(self.stop), device=self.device)).item() > 0
                if self.step % config.log_every == 0 or last:
                    self._flush(now / (self.step - first))
                if self.step % config.save_every == 0 or last or stop:
                    self._save()
                if stop and not last:
                    self._say(f"stopped at step {self.step}; --resume goes on from here")
                    sys.exit(0)
        finally:
            signal.signal(signal.SIGTERM, previous)

    def _on_signal(self, *_):
        self.stop = True

    # ---- what a step draws

    def generator(self, name: str = "noise", step: int | None = None) -> torch.Generator:
        """A CPU generator that is a function of (seed, step, name)."""
        return torch.Generator().manual_seed(seed_of(self.config.seed, name, self.step if step is None else step))

    def share(self, x: torch.Tensor) -> torch.Tensor:
        """The global batch (N, ...) -> this process's part (N / processes, ...)."""
        part = len(x) // self.world
        return x[self.rank * part : (self.rank + 1) * part]

    def noise(self, shape: tuple[int, ...], name: str = "noise", uniform: bool = False) -> torch.Tensor:
        """(N, *shape) from N(0, 1), or uniform in [0, 1): drawn for the global batch on the CPU, our part of it."""
        draw = torch.rand if uniform else torch.randn
        return self.share(draw(self.config.batch_size, *shape, generator=self.generator(name))).to(self.device)

    def indices(self, n: int) -> torch.Tensor:
        """Our part of this step's batch from n items: epochs, each shuffled by (seed, epoch), end to end."""
        place = torch.arange(self.step * self.config.batch_size, (self.step + 1) * self.config.batch_size)
        epochs = range(int(place[0]) // n, int(place[-1]) // n + 1)
        return self.share(torch.cat([self._order(epoch, n)[place[place // n == epoch] % n] for epoch in epochs]))

    def _order(self, epoch: int, n: int) -> torch.Tensor:
        if self._epoch[0] != (epoch, n):
            generator = torch.Generator().manual_seed(seed_of(self.config.seed, "order", epoch))
            self._epoch = ((epoch, n), torch.randperm(n, generator=generator))
        return self._epoch[1]

    # ---- what a step does

    def update(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer, max_norm: float = math.inf) -> float:
        """Backward, mean gradient over processes, clip to max_norm, optimizer step; -> norm of the gradient.

        A loss or gradient that is not finite stops the run before the update.
        """
        optimizer.zero_grad(set_to_none=True)  # also what the backward of another network's loss left here
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.world > 1:
            flat = self.accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "mean")
            for p, mean in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                p.grad.copy_(mean.view_as(p))
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        if not math.isfinite(value := self.mean(loss)) or not math.isfinite(norm):
            what = f"gradient is {norm:f}" if math.isfinite(value) else f"loss is {value:f}"
            raise TrainingError(f"Step {self.step + 1}: the {what}; stopped before the update.")
        optimizer.step()
        return norm.item()

    def mean(self, value: float | torch.Tensor) -> float:
        """The mean of a number over processes."""
        value = torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()
        return self.accelerator.reduce(value, "mean").item()

    def log(self, **values: float | torch.Tensor) -> None:
        """Numbers of this step; log.jsonl gets their means over processes and interval."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + self.mean(value), count + 1)

    def due(self, every: int) -> bool:
        """Whether something that happens each `every` steps, and at the end, follows this step (main process only)."""
        done = self.step + 1
        return self.is_main and not self.config.dry_run and (done % every == 0 or done == self.config.steps)

    def picture(self, name: str, image: Image.Image) -> None:
        """Keep a picture of progress: <out>/state/<name>-<step>.png."""
        image.save(self.folder / "state" / f"{name}-{self.step + 1:07d}.png")

    # ---- what it writes

    def _flush(self, pace: float) -> None:
        line = {"step": self.step} | {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        if self.is_main:
            with self.state_path.with_name("log.jsonl").open("a") as file:
                file.write(json.dumps(line | {"seconds": round(self.seconds, 2)}) + "\n")
        numbers = " ".join(f"{k} {v:.4g}" for k, v in line.items() if k != "step")
        left = duration(pace * (self.config.steps - self.step))
        self._say(f"step {self.step}/{self.config.steps}  {numbers}  {1 / pace:.3g} steps/s  {left} left")

    def _cut_log(self) -> None:
        """Drop what a killed process logged after its last checkpoint: those steps are done again."""
        path = self.state_path.with_name("log.jsonl")
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= self.step]
        path.with_suffix(".tmp").write_text("".join(kept))
        path.with_suffix(".tmp").replace(path)

    def _save(self) -> None:
        if self.is_main:
            state = {k: dict(v) if isinstance(v, dict) else v.state_dict() for k, v in self.tracked.items()}
            own = {"step": self.step, "seconds": self.seconds, "sums": self.sums, "config": self._config()}
            write_state(self.state_path, {"run": own, "tracked": state})
        self.accelerator.wait_for_everyone()

    def _load(self) -> None:
        config = self.config
        try:
            state = read_state(self.state_path)
            own, tracked = state["run"], state["tracked"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(f"{self.state_path.name} is not a checkpoint of a run.") from error
        for name, value in self._config().items():
            if name not in FREE | config.may_change and own["config"].get(name) != value:
                was = own["config"].get(name)
                raise TrainingError(f"The run in {self.folder.name} has {name} {was}, not {value}.")
        if tracked.keys() != self.tracked.keys():
            raise TrainingError(f"{self.state_path.name} holds {', '.join(tracked)}, not {', '.join(self.tracked)}.")
        for name, target in self.tracked.items():
            target.update(tracked[name]) if isinstance(target, dict) else target.load_state_dict(tracked[name])
            if isinstance(target, torch.optim.Optimizer):
                # fused optimizers walk through memory: moments must lie there as their weights do (channels_last)
                for weight, state in target.state.items():
                    for key, value in state.items():
                        if value.shape == weight.shape:
                            state[key] = torch.empty_like(weight).copy_(value)
        self.step, self.seconds, self.sums = own["step"], own["seconds"], own["sums"]
        self._say(f"goes on from step {self.step}")

    def _config(self) -> dict:
        return json.loads(json.dumps(dataclasses.asdict(self.config), default=str))

    def save(self, models: torch.nn.Module | dict[str, torch.nn.Module], training: dict) -> None:
        """The finished model -> <out>: fp16 weights, training.json, card. `training`: see `write_card`.

        Several that make one: {folder below <out>: model}. The main process writes, no other waits: a script may also
        call it where only the main one comes (`due`).
        """
        if self.is_main:
            parts = models if isinstance(models, dict) else {"": models}
            for part, model in parts.items():
                model = deepcopy(model).half().to(memory_format=torch.contiguous_format)  # safetensors takes no other
                model.save_pretrained(self.folder / part)
            known = {
                "parameters": sum(p.numel() for model in parts.values() for p in model.parameters()),
                "config": {k: Path(v).name if k == "from_" else v for k, v in self._config().items() if k not in FREE}
                | {"precision": self.precision},
                "training_seconds": round(self.seconds),
                **provenance(self.device),
            }
            write_card(self.folder, training | known)

    def _say(self, text: str) -> None:
        if self.is_main:
            print(text, file=sys.stderr, flush=True)

    def _say_plan(self, seconds: float) -> typing.NoReturn:
        modules = {k: v for k, v in self.tracked.items() if isinstance(v, torch.nn.Module)}
        sizes = ", ".join(f"{k} {sum(p.numel() for p in m.parameters()):,} parameters" for k, m in modules.items())
        memory = psutil.Process().memory_info().rss / 2**20
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated() / 2**20
        self._say(f"{sizes}; {memory:,.0f} MB of memory on {hardware(self.device)}")
        total = duration(seconds * self.config.steps)
        self._say(f"a step takes {seconds:.3g} s: {self.config.steps} steps would take {total}")
        self._say(f"would write the model to {self.folder}; nothing was written")
        sys.exit(0)


def duration(seconds: float) -> str:
    """3725 -> "1 h 02 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


# ------------------------------------------------------------------------------------------------------- model card


def hardware(device: torch.device | str = "cpu") -> str:
    """Name of what computes: the GPU, or the processor and the threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {torch.get_num_threads()} threads"


def provenance(device: torch.device | str = "cpu") -> dict:
    """Hardware, versions, git commit of what is running."""
    git = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "accelerate": accelerate.__version__}
    return {"hardware": hardware(device), "versions": versions, "git_commit": git.stdout.strip() or "unknown"}


def write_card(folder: Path, training: dict) -> None:
    """training -> folder/training.json, and from the same values folder/README.md with YAML front matter.

    Required: id, tab, kind, licence, title, summary, data {name, url, licence, attribution}, figures {name: number},
    use (a line of Python), limits [sentences]. Optional: figures_note, figures_hardware, sheet (what sheet.webp shows),
    tags, script (if not the tab's) and task (as the hub names it). `Run.save` adds the rest. English only.
    """
    data = training["data"]
    front = {
        "license": training["licence"].lower().replace(" ", "-"),  # the hub's name of it
        "library_name": "diffusers",
        "pipeline_tag": training.get("task", "unconditional-image-generation"),
        "tags": ["trugbild", training["tab"], *training.get("tags", [])],
    }
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", f"# {training['title']}", ""]
    lines += [training["summary"], "", "```python", training["use"], "```", "", "## Figures", ""]
    measured = training.get("figures_hardware", training["hardware"])
    lines += [f"Measured on {measured}.", "", "| figure | value |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in training["figures"].items()]
    lines += ["", training["figures_note"]] if "figures_note" in training else []
    if "sheet" in training:
        lines += ["", "## Contact sheet", "", "![](sheet.webp)", "", training["sheet"]]
    took = duration(training["training_seconds"])
    lines += ["", "## Training", "", f"{training['parameters']:,} parameters, {took} on {training['hardware']}."]
    lines += [
        f"Script: `training/{training.get('script', training['tab'])}.py` of commit {training['git_commit']}.",
        "",
    ]
    lines += ["`steps` is what was planned; the figures say how much was seen when this was saved.", ""]
    lines += ["| setting | value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in training["config"].items())]
    lines += ["", "## Data and licence", "", f"Trained on [{data['name']}]({data['url']}): {data['attribution']}."]
    lines += [f"Licence of the data: {data['licence']}. Licence of the weights: {training['licence']}.", ""]
    lines += ["## Limits", "", *(f"- {sentence}" for sentence in training["limits"]), ""]
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"training.json": json.dumps(training, indent=2) + "\n", "README.md": "\n".join(lines)}.items():
        (folder / (name + ".tmp")).write_text(text, encoding="utf-8")
        (folder / (name + ".tmp")).replace(folder / name)
