"""Start Trugbild: `python apps/main.py`, from any folder."""

import argparse
import atexit
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="trugbild", description="Live demos of generative image models.")
    on_space = "SPACE_ID" in os.environ  # a Space of Hugging Face: a proxy asks, and nobody sits there
    parser.add_argument(
        "--host",
        default="0.0.0.0" if on_space else "127.0.0.1",
        help="address to listen on; 0.0.0.0 for everyone in the network",
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--share", action="store_true", help="a public address through gradio's tunnel")
    parser.add_argument(
        "--lang", help="de or en, where neither link nor switch says it; without: the browser's language"
    )
    parser.add_argument("--tabs", help="only these, joined by commas")
    parser.add_argument(
        "--model", action="append", default=[], metavar="FOLDER", help="a model of your own (repeatable)"
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="real pictures: t10k-images-idx3-ubyte.gz in mnist/ and fashion/, portraits in faces/",
    )
    parser.add_argument("--no-browser", action="store_true", default=on_space, help="do not open the page")
    return parser.parse_args(argv)


def upload_folder() -> str:
    """Where gradio keeps uploads for a few minutes: in memory where the system has such a place."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 512 * 2**20
    folder = tempfile.mkdtemp(prefix="trugbild-", dir=memory if roomy else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def stop(sentence: str) -> int:
    print(f"trugbild: {sentence}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    args = arguments(sys.argv[1:] if argv is None else argv)
    if not 0 < args.port < 65536:
        return stop(f"Port {args.port} does not exist; choose one from 1 to 65535.")
    with socket.socket(socket.AF_INET6 if ":" in args.host else socket.AF_INET) as probe:
        if os.name == "posix":  # the port of an app that just ended is free; elsewhere this takes ports that are not
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((args.host, args.port))
        except OSError:
            return stop(f"Port {args.port} on {args.host} is taken or not allowed; choose another with --port.")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # runs what atexit knows
    # gradio reads these when it is imported, which takes seconds: so late, after what can be refused at once.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": upload_folder()}
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if args.share:
        os.environ.setdefault("TRUGBILD_PUBLIC", "1")  # pictures are checked before strangers see them
    if args.data:
        if not Path(args.data).is_dir():
            return stop(f"There is no folder {args.data}.")
        os.environ["TRUGBILD_DATA"] = str(Path(args.data).resolve())
    import pipelines

    threading.Thread(
        target=pipelines.probe, daemon=True
    ).start()  # the picker says what has to be downloaded and cannot
    try:
        pipelines.discover(Path(__file__).resolve().parents[1] / "runs")
        for folder in args.model:
            pipelines.register_folder(folder)
    except pipelines.Problem as problem:
        return stop(str(problem))
    from apps import i18n, shell

    if args.lang and args.lang not in i18n.LANGUAGES:
        return stop(f"There is no language {args.lang}; choose from {', '.join(i18n.LANGUAGES)}.")
    i18n.default = args.lang
    names = tuple(args.tabs.split(",")) if args.tabs else shell.TABS
    for name in names:
        if name not in shell.TABS:
            return stop(f"There is no tab {name}; choose from {', '.join(shell.TABS)}.")

    demo = shell.page(pipelines.load, names)
    _, url, _ = shell.launch(
        demo,
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        prevent_thread_lock=True,
        quiet=True,
    )
    print(f"Trugbild: {url}  (Ctrl+C ends it)", flush=True)
    if not args.no_browser:
        webbrowser.open(url)
    demo.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
