"""Where the gateway is, and as whom to speak to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

DEFAULT_URL = "http://127.0.0.1:3001"


@dataclass(frozen=True)
class Options:
    url: str
    api_key: str | None
    timeout: float
    retries: int

    def __repr__(self) -> str:
        # A key has no business in a log.
        return f"Options(url={self.url!r}, timeout={self.timeout}, retries={self.retries})"

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    @property
    def websocket_url(self) -> str:
        # http → ws, https → wss
        return "ws" + self.url.removeprefix("http")


def read_options(
    url: str | None,
    api_key: str | None,
    timeout: float,
    retries: int,
    environ: Mapping[str, str] = os.environ,
) -> Options:
    """Arguments, else BELLJAR_URL and BELLJAR_API_KEY, else the defaults."""
    url = (url or environ.get("BELLJAR_URL") or DEFAULT_URL).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url: {url!r} is not of the form http://host:port or https://host")
    if timeout <= 0:
        raise ValueError("timeout: must be more than 0 seconds")
    if retries < 0:
        raise ValueError("retries: must be 0 or more")
    return Options(url, api_key or environ.get("BELLJAR_API_KEY") or None, timeout, retries)


def segment(value: str | int) -> str:
    """One part of a path, so that no id can become two of them."""
    text = str(value)
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} is not an id")
    return quote(text, safe="")
