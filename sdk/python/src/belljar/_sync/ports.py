# Made by tools/make_sync.py from src/belljar/_async/ports.py: change that.
"""`sb.ports`: servers inside the sandbox."""

from __future__ import annotations

from urllib.parse import quote

from .client import API, Client


class Ports:
    """The gateway proxies HTTP and WebSockets to ports of the sandbox's loopback. Requests to these addresses need
    the same key as all others: see `headers`."""

    def __init__(self, client: Client, sandbox: str) -> None:
        self._client = client
        self._path = f"{API}/sandboxes/{sandbox}/ports"

    def url(self, port: int, path: str = "/") -> str:
        """Where a server on this port is reached."""
        return self._client.options.url + self._place(port, path)

    def websocket_url(self, port: int, path: str = "/") -> str:
        return self._client.options.websocket_url + self._place(port, path)

    @property
    def headers(self) -> dict[str, str]:
        """What a request to these addresses has to carry."""
        return self._client.options.headers

    def _place(self, port: int, path: str) -> str:
        if not 1 <= port <= 65535:
            raise ValueError("port: must be between 1 and 65535")
        # A query may follow the path; both are the caller's.
        return f"{self._path}/{port}/{quote(path.lstrip('/'), safe='/?&=%:@!$,;~+*()')}"
