"""Files of hub models: fetched once at the pinned commit, checked, then used offline. Stdlib only at import.

The settings are those of huggingface_hub: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN. They are read
at every call, so that a session that began offline can go online.
"""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from .problems import Problem
from .registry import INDEX, Model, checksums, get, pinned

DISK = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EACCES: "cache_locked",
    errno.EROFS: "cache_locked",
}
READ = (".json", ".txt", ".model", ".jinja")  # what a part has beside its weights
NETS = re.compile(r"(model|diffusion_pytorch_model)(\.fp16)?(-\d{5}-of-\d{5})?\.safetensors(\.index(\.fp16)?\.json)?")
_reachable: bool | None = None  # what the last contact with the hub showed


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def cache() -> Path:
    """Where huggingface_hub keeps its downloads."""
    return Path(os.path.expandvars(os.environ.get("HF_HUB_CACHE") or _home() / "hub")).expanduser()


def converted() -> Path:
    """Where weights that came in another format are kept as safetensors, beside the downloads."""
    return _home() / "trugbild"


def logged_in() -> bool:
    """Whether there is an access token, from the environment or from `hf auth login`."""
    file = Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token")
    return bool(os.environ.get("HF_TOKEN")) or file.is_file()


def folder(model: Model) -> Path | None:
    """Where the model's files lie on this machine, or None if one is missing."""
    try:
        where = model.path or _snapshot(model)
    except Problem:  # nobody knows which
        return None
    if not model.path and not model.files:
        sizes, others = _fetched(model), [get(id) for id in model.parts.values()]
        whole = sizes and all(_size(where / name) == size for name, size in sizes.items())
        return where if whole and all(folder(other) for other in others) else None
    names = model.files or ("config.json", "diffusion_pytorch_model.safetensors")
    return where if all((where / name).is_file() for name in names) else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1


def _snapshot(model: Model) -> Path:
    return cache() / f"{model.repo_type}s--{model.source.replace('/', '--')}" / "snapshots" / pinned(model).revision


def status(model: Model) -> Problem | None:
    """Why the model's files cannot be had now, or None. Cheap: looks at files and at what the last contact showed."""
    try:
        checksums(model)
        model = pinned(model)
    except Problem as problem:
        return problem
    if folder(model):
        return None
    if model.path:
        return Problem("model_files_missing", model=model.id)
    if _offline_mode():
        return Problem("offline_mode", model=model.id)
    if model.gate and not logged_in():
        return Problem("gated", model=model.id, url=model.card_url)
    return Problem("offline", model=model.id) if _reachable is False else None


def probe(timeout: float = 2.0) -> bool:
    """Whether the hub can be reached; status() goes by the answer. Call it in a thread: a dead DNS takes seconds."""
    global _reachable
    if _offline_mode():
        return False
    try:
        parts = urlsplit(endpoint())
        if not urllib.request.proxy_bypass(parts.hostname or ""):
            parts = urlsplit(urllib.request.getproxies().get(parts.scheme) or endpoint())
        address = parts.hostname or "invalid.", parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection(address, timeout).close()
        _reachable = True
    except (OSError, ValueError):  # the latter for an address that is none
        _reachable = False
    return _reachable


def fetch(model: Model) -> Path:
    """The folder with the model's files, downloaded if they are not here. Every pinned sha256 is checked each time."""
    expected = checksums(model)
    model = pinned(model)
    where = folder(model) or _download(model)
    wrong = [name for name, sha256 in expected.items() if not _is_right(where / name, sha256)]
    if wrong and model.path:
        raise Problem("weights_broken", file=wrong[0])
    if wrong:
        for name in wrong:
            _delete(where / name)
        raise Problem("hash_mismatch", file=wrong[0], model=model.id)
    return where


def _download(model: Model) -> Path:
    # Left alone, huggingface_hub waits and retries for half a minute before it says that there is no network.
    probe()
    if problem := status(model):
        raise problem
    with asking(model):
        if model.files:
            _snapshot_of(model, model.files)
        else:
            _download_pipeline(model)
            for id in model.parts.values():
                fetch(get(id))
    if where := folder(model):
        return where
    raise Problem("gone", model=model.id)  # the hub has the commit, but not the files


@contextmanager
def asking(model: Model):
    """Around calls of huggingface_hub about a model: what they raise becomes a Problem."""
    import httpx2
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        yield
    except Problem:
        raise
    except errors.GatedRepoError:
        raise Problem("gated", model=model.id, url=model.card_url) from None
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        raise Problem("gone", model=model.id) from None
    except errors.HfHubHTTPError as error:
        raise _refusal(model, error.response.status_code) from error
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refusal(model, error.__cause__.response.status_code) from error
        raise Problem("offline", model=model.id) from error
    except OSError as error:
        raise Problem(DISK.get(error.errno, "cut_off"), model=model.id) from error
    except (httpx2.HTTPError, errors.XetDownloadError, RuntimeError) as error:
        raise Problem("cut_off", model=model.id) from error


def _snapshot_of(model: Model, names: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download

    snapshot_download(
        model.source,
        repo_type=model.repo_type,
        revision=model.revision,
        allow_patterns=[glob.escape(name) for name in names],
        cache_dir=cache(),
        endpoint=endpoint(),
    )
    return _snapshot(model)


def _download_pipeline(model: Model) -> None:
    """The files of a repository of diffusers that its index names, each compared with what the hub says it has to be.

    Twenty gigabytes are hashed once, here; what was found right is written down beside the snapshot.
    """
    files = {file.rfilename: file for file in listing(model).siblings}
    index = {}
    if INDEX in files:
        _compared(model, _snapshot_of(model, [INDEX]), [files[INDEX]])
        index = json.loads((_snapshot(model) / INDEX).read_bytes())
    names = needed(files, index, model)
    if not any(name.endswith(".safetensors") for name in names):
        raise Problem("gone", model=model.id)
    missing = sum(files[name].size for name in names if not (_snapshot(model) / name).is_file())
    cache().mkdir(parents=True, exist_ok=True)
    if missing > shutil.disk_usage(cache()).free:
        raise Problem("disk_full", model=model.id)
    _compared(model, _snapshot_of(model, names), [files[name] for name in names])
    note = _note(model)
    note.parent.mkdir(exist_ok=True)
    part = note.with_suffix(".part")
    part.write_text(json.dumps({name: files[name].size for name in names}))
    part.replace(note)


def listing(model: Model):
    """What the hub says of the model's commit and its files: huggingface_hub's ModelInfo or SpaceInfo."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint()).repo_info(
        model.source, repo_type=model.repo_type, revision=model.revision, files_metadata=True
    )


def needed(names: Iterable[str], index: Mapping[str, object], model: Model) -> list[str]:
    """Of all files of a repository those that loading it takes: no pickles, no other formats, no weights twice.

    index: model_index.json, or {} where the repository is one net and no pipeline.
    """
    names = set(names)
    left = [part for part, kind in index.items() if isinstance(kind, list) and kind[:1] != [None]]
    folders = [part for part in left if part not in model.parts] if index else [""]
    found = [INDEX] if index else []
    for folder in folders:
        here = {name for name in names if name.rpartition("/")[0] == folder}
        read = [name for name in here if name.endswith(READ) and not NETS.fullmatch(name.rpartition("/")[2])]
        nets = [name for name in here if NETS.fullmatch(name.rpartition("/")[2])]
        for wanted in dict.fromkeys((model.variant, "")):
            one = [name for name in nets if (".fp16" in name) == bool(wanted)]
            if one:
                parts = [name for name in one if "-of-" in name or ".index." in name]
                read += parts or one
                break
        found += sorted(read)
    return found


def _compared(model: Model, where: Path, files: Iterable) -> None:
    """Raises Problem hash_mismatch, and deletes what is not what the hub says."""
    wrong = [file.rfilename for file in files if not _is_as_listed(where / file.rfilename, file)]
    for name in wrong:
        _delete(where / name)
    if wrong:
        raise Problem("hash_mismatch", file=wrong[0], model=model.id)


def _is_as_listed(path: Path, file) -> bool:
    """Large files are named by their sha256, small ones by git's sha1 of a blob."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "not there", path.name)
    digest = hashlib.sha256() if file.lfs else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest() == (file.lfs.sha256 if file.lfs else file.blob_id)


def _delete(path: Path) -> None:
    """The link and the blob behind it, so that the next try downloads them again."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _note(model: Model) -> Path:
    return _snapshot(model).parents[1] / "trugbild" / f"{model.revision}-{model.id}.json"


def _fetched(model: Model) -> dict[str, int]:
    """The files of a repository that were downloaded and found right, with their sizes."""
    try:
        return json.loads(_note(model).read_bytes())
    except (OSError, ValueError):
        return {}


def _refusal(model: Model, status: int) -> Problem:
    if status == 401:  # the hub's answer for repositories that are gone, too, as long as nobody is logged in
        return Problem("unauthorised", model=model.id)
    if status == 403:
        return Problem("gated", model=model.id, url=model.card_url)
    if status in (404, 410):
        return Problem("gone", model=model.id)
    return Problem("hub_failed", model=model.id, status=status)


def _is_right(file: Path, sha256: str | None) -> bool:
    """Whether a file is the pinned one; small JSON is not pinned, but has to be JSON."""
    if sha256:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    try:
        return file.suffix != ".json" or isinstance(json.loads(file.read_bytes()), dict)
    except (ValueError, RecursionError):
        return False


def _offline_mode() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _home() -> Path:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser()
