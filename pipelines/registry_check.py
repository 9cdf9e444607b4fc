"""What the registry says of the hub, compared with the hub: python -m pipelines.registry --check

One line an entry; ends with status 1 if something has vanished or differs. What is not pinned yet is printed as it has
to be written down.
"""

import argparse
import sys
from collections.abc import Iterator

from . import hub, registry
from .problems import Problem
from .registry import ASK, Model


def entries() -> list[Model]:
    """Everything that may be downloaded."""
    from .conditions import CONDITIONS

    detectors = {condition.detector.id: condition.detector for condition in CONDITIONS.values() if condition.detector}
    return [model for model in (*registry.MODELS, *registry.TOOLS, *detectors.values()) if not model.path]


def differences(model: Model) -> Iterator[str]:
    """How the hub differs from an entry. Raises Problem where there is nothing to compare."""
    with hub.asking(model):
        info = hub.listing(model)
    if model.revision is None:
        yield f"revision is not pinned; main is {info.sha}"
    elif info.sha != model.revision:
        yield f"revision is {info.sha}"
    if bool(getattr(info, "gated", False)) != model.gate:  # a Space has none
        yield f"gate is {bool(info.gated)}"
    files = {file.rfilename: file for file in info.siblings}
    for name, sha256 in model.files.items():
        found = files.get(name)
        if not found:
            yield f"{name} is gone"
        elif sha256 is not None and (real := found.lfs.sha256 if found.lfs else "") != sha256:
            yield f"sha256 of {name} is {real or 'not known to the hub'}" + (" (not pinned)" if sha256 == ASK else "")
    if not model.files and not any(name.endswith(".safetensors") for name in files):
        yield "there are no safetensors"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.registry", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", required=True)
    parser.parse_args(argv)
    wrong = 0
    for model in entries():
        try:
            found = list(differences(model))
        except Problem as problem:
            found = [str(problem)]
        wrong += bool(found)
        print(f"{'differs' if found else 'ok':8} {model.id:22} {model.source}@{(model.revision or '?')[:12]}", end="")
        print("".join(f"; {text}" for text in found), flush=True)
    print(f"{wrong} of {len(entries())} differ" if wrong else "everything is as written down")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
