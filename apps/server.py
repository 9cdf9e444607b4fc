"""What the app answers besides gradio: our files, health, metrics; and what every page gets before gradio's scripts."""

import html
import json
import secrets
import threading
import time
from pathlib import Path

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request, cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from apps import i18n

ASSETS = Path(__file__).parent / "assets"
MAX_UPLOAD = "40mb"
UPLOADS_KEPT = 600  # seconds
MOST_KEPT = 16  # large pictures that wait to be saved, in memory alone
_started = time.time()
_pages = dict.fromkeys(i18n.LANGUAGES, 0)
_kept: dict[str, bytes] = {}  # token -> PNG or WebP, the oldest first


def keep(data: bytes) -> str:
    """A picture that is too large to be written into the page -> its address there, for UPLOADS_KEPT seconds."""
    token = secrets.token_urlsafe(16)
    _kept[token] = data
    for old in list(_kept)[:-MOST_KEPT]:
        _kept.pop(old, None)
    forget = threading.Timer(UPLOADS_KEPT, _kept.pop, (token, None))
    forget.daemon = True
    forget.start()
    return f"trugbild/kept/{token}"


def _picture(request: Request) -> Response:
    data = _kept.get(request.path_params["token"])
    if data is None:
        return PlainTextResponse("404", 404)
    return Response(data, media_type="image/webp" if data[:4] == b"RIFF" else "image/png")


def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok", "uptime_s": round(time.time() - _started)})


def _metrics(_: Request) -> PlainTextResponse:
    lines = ["# TYPE trugbild_pages_total counter"]
    lines += [f'trugbild_pages_total{{lang="{lang}"}} {count}' for lang, count in _pages.items()]
    return PlainTextResponse("\n".join([*lines, ""]))


def routes() -> list:
    """For `launch(app_kwargs={"routes": ...})`."""
    return [
        Route("/trugbild/kept/{token}", _picture),
        Mount("/trugbild", StaticFiles(directory=ASSETS)),
        Route("/health", _health),
        Route("/metrics", _metrics),
    ]


class PageMiddleware:
    """Writes the language, our style sheet and script into the page's head, before anything of gradio's runs.

    gradio translates in the browser by `navigator.language` and knows no `?lang=`: so that is what we set.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            return await self.app(scope, receive, send)
        headers, query = Headers(scope=scope), QueryParams(scope["query_string"])
        cookies = cookie_parser(headers.get("cookie", ""))
        lang = i18n.choose(query.get("lang"), cookies.get(i18n.COOKIE), headers.get("accept-language"))
        # The page must reach us readable; compression of 200 kB is not worth a second code path.
        scope = {**scope, "headers": [(k, v) for k, v in scope["headers"] if k != b"accept-encoding"]}
        start, body = None, b""

        async def rewrite(message):
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            if start["status"] == 200:
                _pages[lang] += 1
                body = _page(body.decode(), lang, query.get("lecture") == "1").encode()
            kept = [(k, v) for k, v in start["headers"] if k != b"content-length"]
            await send({**start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
            await send({"type": "http.response.body", "body": body})

        return await self.app(scope, receive, rewrite)


def _page(page: str, lang: str, lecture: bool) -> str:
    words = {k.removeprefix("shell."): v for k, v in i18n.texts(lang).items() if k.startswith("shell.")}
    description = html.escape(i18n.say("shell.tagline", lang), quote=True)
    head = f"""<head>
<script>for (const [name, value] of [["language", "{lang}"], ["languages", ["{lang}"]]])
Object.defineProperty(navigator, name, {{get: () => value}});
window.trugbild = {{lang: "{lang}", words: {json.dumps(words).replace("<", chr(92) + "u003c")}}};</script>
<style>:root {{ --problem: {json.dumps(words["problem"])} }}</style>
<link rel="stylesheet" href="trugbild/shell.css"><script src="trugbild/shell.js"></script>
<meta name="description" content="{description}">"""
    classes = ' class="lecture"' if lecture else ""
    return page.replace('<html\n\tlang="en"', f'<html\n\tlang="{lang}"{classes}', 1).replace("<head>", head, 1)
