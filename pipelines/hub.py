"""Files of hub models: fetched once at the pinned commit, checked, then used offline. Stdlib only at import.

The settings are those of huggingface_hub: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN. They are read
at every call, so that a session that began offline can go online.
"""

import errno
import hashlib
import json
import os
import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from .problems import Problem
from .registry import Model, checksums

DISK = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EACCES: "cache_locked",
    errno.EROFS: "cache_locked",
}
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
    where = model.path or _snapshot(model)
    names = model.files or ("config.json", "diffusion_pytorch_model.safetensors")
    return where if all((where / name).is_file() for name in names) else None


def _snapshot(model: Model) -> Path:
    return cache() / f"{model.repo_type}s--{model.source.replace('/', '--')}" / "snapshots" / model.revision


def status(model: Model) -> Problem | None:
    """Why the model's files cannot be had now, or None. Cheap: looks at files and at what the last contact showed."""
    try:
        checksums(model)
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
    where = folder(model) or _download(model)
    wrong = [name for name, sha256 in expected.items() if not _is_right(where / name, sha256)]
    if wrong and model.path:
        raise Problem("weights_broken", file=wrong[0])
    if wrong:
        for name in wrong:  # the link and the blob behind it, so that the next try downloads them again
            (where / name).resolve().unlink(missing_ok=True)
            (where / name).unlink(missing_ok=True)
        raise Problem("hash_mismatch", file=wrong[0], model=model.id)
    return where


def _download(model: Model) -> Path:
    # Left alone, huggingface_hub waits and retries for half a minute before it says that there is no network.
    probe()
    if problem := status(model):
        raise problem
    import httpx2
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        snapshot_download(
            model.source,
            repo_type=model.repo_type,
            revision=model.revision,
            allow_patterns=list(model.files),
            cache_dir=cache(),
            endpoint=endpoint(),
        )
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
    if where := folder(model):
        return where
    raise Problem("gone", model=model.id)  # the hub has the commit, but not the files


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
