"""What the server answers besides the page, what the page brings along, and what nobody gets to see."""

import http.client
import json
import os
import re
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import LANGUAGES, ROOT

from apps import i18n, server

SECRETS = ("Traceback", "site-packages", str(ROOT), os.path.expanduser("~/"), "root:x:")


@pytest.fixture(scope="module")
def http_(app):
    with httpx.Client(base_url=app.url, timeout=120) as client:
        yield client


def raw(app, path: str, method: str = "GET") -> tuple[int, bytes]:
    """The path exactly as given: other clients tidy it up first."""
    connection = http.client.HTTPConnection(urlsplit(app.url).netloc, timeout=60)
    connection.putrequest(method, path, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def assert_tells_nothing(text: str):
    assert not [secret for secret in SECRETS if secret in text], text[:500]


# ---- what monitoring asks for ---------------------------------------------------------------------------------------


def test_health(http_):
    answer = http_.get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok" and answer.json()["uptime_s"] >= 0
    assert set(answer.json()) == {"status", "uptime_s"}


def test_metrics_count_pages_by_language(http_):
    def counts() -> dict[str, int]:
        answer = http_.get("/metrics")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
        assert answer.text.endswith("\n")
        return {
            lang: int(n) for lang, n in re.findall(r'^trugbild_pages_total\{lang="(\w+)"\} (\d+)$', answer.text, re.M)
        }

    before = counts()
    assert set(before) == set(LANGUAGES)
    http_.get("/?lang=de")
    http_.get("/?lang=de")
    http_.get("/?lang=en")
    after = counts()
    assert (after["de"] - before["de"], after["en"] - before["en"]) == (2, 1)


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "headers", "lang"),
    [
        ("", {"accept-language": "de-DE,de;q=0.9"}, "de"),
        ("", {"accept-language": "en-US"}, "en"),
        ("?lang=de", {"accept-language": "en-US"}, "de"),
        ("", {"accept-language": "en", "cookie": "trugbild_lang=de"}, "de"),
        ("?lang=en", {"accept-language": "de", "cookie": "trugbild_lang=de"}, "en"),
        ("?lang=%22%3E%3Cscript%3Ealert(1)%3C/script%3E", {"accept-language": "de"}, "de"),
        ("?lang=%ff%00", {"cookie": "trugbild_lang=%00; ;;=;\"'"}, "en"),
    ],
)
def test_the_page_is_in_the_persons_language_from_its_first_byte(http_, query, headers, lang):
    answer = http_.get(f"/{query}", headers=headers)
    assert answer.status_code == 200
    page = answer.text
    assert re.search(r"<html\s[^>]*lang=\"(\w+)\"", page)[1] == lang
    assert f'window.trugbild = {{lang: "{lang}"' in page
    assert i18n.texts(lang)["shell.tagline"] in page
    assert "alert(1)</script>" not in page
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_our_script_and_style_come_before_gradios(http_):
    page = http_.get("/").text
    ours, style = page.index("trugbild/shell.js"), page.index("trugbild/shell.css")
    assert max(ours, style) < page.index('type="module"')
    assert page.index("navigator") < ours, "the language is set before anything reads it"
    for name in ("shell.js", "shell.css"):
        assert http_.get(f"/trugbild/{name}").status_code == 200


def test_lecture_mode_is_in_the_first_byte_too(http_):
    assert 'class="lecture"' in http_.get("/?lecture=1").text
    assert 'class="lecture"' not in http_.get("/?lecture=0").text


def test_the_pages_files_are_ours(http_):
    page = http_.get("/").text + http_.get("/trugbild/shell.css").text + http_.get("/trugbild/shell.js").text
    loaded = re.findall(r"""(?:src|href)=["']?(https?:[^"'\s>]+)|url\(["']?(https?:[^)"']+)""", page)
    ours = ("http://www.w3.org/",)
    assert [url for pair in loaded for url in pair if url and not url.startswith(ours)] == []


def test_fonts_are_shipped(http_):
    css = http_.get("/trugbild/shell.css").text
    fonts = re.findall(r"url\((fonts/[^)]+)\)", css)
    assert fonts
    for font in fonts:
        assert http_.get(f"/trugbild/{font}").content[:4] == b"wOF2"


# ---- what nobody gets to see ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/monitoring", "/monitoring/summary", "/monitoring/x", "/gradio_api/monitoring/summary"]
)
def test_no_monitoring(http_, path):
    answer = http_.get(path)
    assert answer.status_code in (401, 403, 404) or "disabled" in answer.text.lower()


@pytest.mark.parametrize(
    "path",
    [
        "/trugbild/../main.py", "/trugbild/../../README.md", "/trugbild/%2e%2e/main.py", "/trugbild/..%2fmain.py",
        "/trugbild/%2e%2e%2fmain.py", "/trugbild/....//main.py", "/trugbild/fonts/../../main.py",
        "/trugbild//etc/passwd",
        "/trugbild/%2fetc%2fpasswd", "/trugbild/..\\main.py", "/trugbild/%00", "/trugbild/",
        "/trugbild/fonts", "/trugbild/fonts/",
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=apps/main.py", "/gradio_api/file=../main/README.md",
        "/gradio_api/file=%2fetc%2fpasswd", "/gradio_api/file=", "/gradio_api/file=.", "/gradio_api/file=/",
        "/file=/etc/passwd", "/gradio_api/proxy=http://127.0.0.1:1/", "/static/../../etc/passwd",
        "/assets/../../etc/passwd",
        "/gradio_api/stream/x/y/z.m3u8", "/custom_component/x/y/../../../etc/passwd",
    ],
)  # fmt: skip
def test_files_of_the_server_are_not_to_be_had(app, path):
    status, body = raw(app, path)
    assert 400 <= status < 500
    assert b"argparse" not in body and b"root:" not in body
    assert_tells_nothing(body.decode("utf-8", "replace"))


def test_uploads_are_found_by_their_address_only(http_, tmp_path):
    secret = b"what somebody else has uploaded"
    answer = http_.post("/gradio_api/upload", files={"files": ("mine.png", secret)})
    (path,) = answer.json()
    assert http_.get(f"/gradio_api/file={path}").content == secret  # whoever knows it may see it again
    folder, cache = os.path.dirname(path), os.environ["GRADIO_TEMP_DIR"]
    for place in (folder, folder + "/", cache, cache + "/", os.path.dirname(cache)):
        listed = http_.get(f"/gradio_api/file={place}")
        assert listed.status_code >= 400 and b"mine" not in listed.content
    assert len(os.path.basename(folder)) >= 32, "an address that cannot be guessed"


def test_uploads_are_named_harmlessly(http_):
    for name in ("../../../evil.png", "/etc/evil.png", "a" * 5000 + ".png", "evil\x00.png", "<script>.png"):
        answer = http_.post("/gradio_api/upload", files={"files": (name, b"x")})
        assert_tells_nothing(answer.text.replace(os.environ["GRADIO_TEMP_DIR"], ""))
        if answer.status_code == 200:
            (path,) = answer.json()
            assert os.path.realpath(path).startswith(os.path.realpath(os.environ["GRADIO_TEMP_DIR"]) + os.sep)


def test_large_uploads_are_refused(app):
    limit = int(server.MAX_UPLOAD.removesuffix("mb")) * 2**20
    answer = httpx.post(
        f"{app.url}/gradio_api/upload", files={"files": ("large.png", bytes(limit + 2**20))}, timeout=60
    )
    assert answer.status_code == 413
    assert_tells_nothing(answer.text)
    left = [os.path.join(where, name) for where, _, names in os.walk(os.environ["GRADIO_TEMP_DIR"]) for name in names]
    assert not [file for file in left if file.endswith("large.png")]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/gradio_api/call/decode", b"{"),
        ("POST", "/gradio_api/call/decode", b"[]"),
        ("POST", "/gradio_api/call/decode", b'{"data": "x"}'),
        ("POST", "/gradio_api/call/decode", b'{"data": null}'),
        ("POST", "/gradio_api/call/nothing", b'{"data": []}'),
        ("POST", "/gradio_api/call/drag", b'{"data": []}'),
        ("POST", "/gradio_api/queue/join", b'{"data": [], "fn_index": 99999, "session_hash": "x"}'),
        ("POST", "/gradio_api/queue/join", b"\xff\xfe"),
        ("POST", "/gradio_api/component_server", b'{"component_id": 1, "fn_name": "__init__", "session_hash": "x"}'),
        ("POST", "/gradio_api/component_server", b'{"component_id": 99999, "fn_name": "qr", "session_hash": "x"}'),
        ("POST", "/gradio_api/component_server", b"nonsense"),
        ("POST", "/gradio_api/upload", b"nonsense"),
        ("GET", "/no/such/page", b""),
        ("POST", "/", b"x"),
        ("POST", "/health", b"x"),
        ("DELETE", "/metrics", b""),
    ],
)  # fmt: skip
def test_nonsense_gets_no_traces(app, method, path, body):
    with httpx.Client(timeout=60) as client:
        headers = {"content-type": "application/json"}
        answer = client.request(method, app.url + path, content=body, headers=headers)
    assert_tells_nothing(answer.text)


def test_a_wrong_number_of_values_gets_no_traces(ask):
    for values in ((), (1,), (1,) * 50):
        event, answer = ask("decode", *values)
        assert event == "error"
        assert_tells_nothing(str(answer))


def test_configuration_names_no_folders_of_the_server(http_):
    for path in ("/config", "/gradio_api/info", "/"):
        assert_tells_nothing(http_.get(path).text)


def test_what_the_page_does_by_itself_is_not_in_the_api(http_):
    info = http_.get("/gradio_api/info").json()
    assert set(info["named_endpoints"]) == {
        "/decode", "/reconstruct", "/interpolate", "/sample", "/arithmetic", "/autoencode_photo",
        "/person", "/walk", "/mix", "/face_arithmetic", "/edit", "/verdict", "/project", "/learnt",
        "/translate", "/styles", "/cycle", "/discriminator_map",
        "/text_to_image", "/xy_grid", "/compare", "/change", "/control", "/diffusion_steps", "/attention",
        "/noise_picture", "/paths",
    }  # fmt: skip
    assert info["unnamed_endpoints"] == {}


def test_the_header_answers_over_the_network(app, http_):
    component = app.header._id

    def call(name, data):
        body = {"component_id": component, "fn_name": name, "data": data, "session_hash": "test"}
        return http_.post("/gradio_api/component_server", json=body)

    assert call("qr", {"link": "http://127.0.0.1/?tab=vae_playground"}).json()["svg"].startswith("<svg")
    for lang in LANGUAGES:
        told = call("qr", {"link": "x" * 9999, "lang": lang}).json()
        assert told == {"problem": i18n.say("shell.link_too_long", lang)}
        told = call("open_picture", {"data": "data:image/png;base64,AAAA", "lang": lang}).json()
        assert told == {"problem": i18n.say("problems.recipe_format", lang)}
    assert call("page", {}).status_code == 404
    for data in (None, 5, [], {"data": "x" * 10_000}):
        answer = call("open_picture", data)
        assert answer.status_code == 200 and set(json.loads(answer.text)) == {"problem"}
