"""`sb.pty`: programs on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from .. import _aio as platform
from .._options import segment
from .._socket import pieces
from ..errors import BelljarError, NotFound, UnexpectedAnswer
from .client import API, Client


class Ptys:
    """Terminals of a sandbox."""

    def __init__(self, client: Client, sandbox: str) -> None:
        self._client = client
        self._path = f"/sandboxes/{sandbox}/pty"

    def create(
        self,
        cols: int = 80,
        rows: int = 24,
        *,
        command: str | Sequence[str] | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> platform.Opening[Pty]:
        """Opens a terminal with a program on it: by default the template's shell. Where it is entered with `with`,
        it is killed at the end."""

        async def start() -> Pty:
            body: dict[str, Any] = {"cols": cols, "rows": rows}
            if command is not None:
                body["command"] = command if isinstance(command, str) else list(command)
            if cwd is not None:
                body["cwd"] = cwd
            if env is not None:
                body["env"] = dict(env)

            async def undo(answer: Any) -> None:
                await Pty(self._client, self._path, _id(answer), None).kill()

            answer = await self._client.request("POST", self._path, body=body, undo=undo)
            pty = Pty(self._client, self._path, _id(answer.json()), None)
            try:
                await pty._connect()
            except BaseException:
                await platform.complete(pty.kill)
                raise
            return pty

        return platform.opening(start)

    def connect(self, id: str) -> platform.Opening[Pty]:
        """A terminal that is there already, from its present output on."""

        async def start() -> Pty:
            pty = Pty(self._client, self._path, segment(id), None)
            await pty._connect()
            return pty

        return platform.opening(start)


class Pty:
    """A terminal. Iterating over it gives the bytes of its output, until its program has ended."""

    def __init__(self, client: Client, path: str, id: str, socket: platform.Socket | None) -> None:
        self.id = id
        self._client = client
        self._path = f"{path}/{segment(id)}"
        self._socket = socket

    def __repr__(self) -> str:
        return f"Pty({self.id!r})"

    async def __aenter__(self) -> Pty:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await platform.complete(self.kill)
        except BelljarError:
            # What went wrong first is what the caller should hear.
            if error is None:
                raise

    def __aiter__(self) -> Pty:
        return self

    async def __anext__(self) -> bytes:
        data = await self._open_socket().receive()
        if data is None:
            raise StopAsyncIteration
        return data

    async def write(self, data: str | bytes) -> None:
        """Types."""
        for piece in pieces(data):
            await self._open_socket().send(piece)

    async def resize(self, cols: int, rows: int) -> None:
        body = {"cols": cols, "rows": rows}
        await self._client.request("POST", f"{self._path}/resize", body=body, repeatable=True)

    async def close(self) -> None:
        """Lets go of the terminal, and lets its program run on."""
        if self._socket is not None:
            await self._socket.close()

    async def kill(self) -> None:
        """Ends the terminal and its program. That it has ended already is all right."""
        await self.close()
        try:
            await self._client.request("DELETE", self._path)
        except NotFound:
            pass

    async def _connect(self) -> None:
        options = self._client.options
        url = options.websocket_url + API + self._path
        self._socket = await platform.connect(url, options.headers, options.timeout)

    def _open_socket(self) -> platform.Socket:
        assert self._socket is not None, "only an opened terminal is handed out"
        return self._socket


def _id(answer: Any) -> str:
    fields = answer if isinstance(answer, dict) else {}
    id = fields.get("sessionID", fields.get("id"))
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str):
        raise UnexpectedAnswer("The gateway did not say which terminal it opened.")
    return id
