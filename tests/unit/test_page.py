"""The example page's helpers: links, the local web server, and the error if npm fails."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from livekit import api

from devtools import page
from devtools.page import PageUnavailable, link, served

pytestmark = pytest.mark.slow


@dataclass
class Server:
    url: str = "http://127.0.0.1:7880"
    api_key: str = "key"
    api_secret: str = "secret-secret-secret-secret-secret"


def test_a_link_keeps_its_token_to_the_browser() -> None:
    made = urlsplit(link("http://127.0.0.1:5000/", Server(), "math", "anna", name="Anna", role="teacher"))
    assert (made.netloc, made.path, made.query) == ("127.0.0.1:5000", "/", "")
    given = parse_qs(made.fragment)
    assert given["url"] == ["ws://127.0.0.1:7880"]
    claims = api.TokenVerifier("key", Server.api_secret).verify(given["token"][0])
    assert (claims.identity, claims.name) == ("anna", "Anna")
    assert json.loads(claims.metadata) == {"role": "teacher"}
    assert claims.video and claims.video.room == "math" and claims.video.can_update_own_metadata


def test_a_folder_is_served_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>Lesson", encoding="utf-8")
    with served(tmp_path) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.read() == b"<p>Lesson"


def test_the_output_of_npm_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "SOURCE", tmp_path)
    (tmp_path / "package.json").write_text('{"scripts": {"build": "node --no-such-option"}}')
    with pytest.raises(PageUnavailable, match=r"(?s)^npm run failed:.*no-such-option"):
        page._npm("run", "build")
