"""`sb.files`: what is on the sandbox's disks."""

from __future__ import annotations

import builtins
import os
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import httpx

from .. import _aio as platform
from .. import _tar
from .._events import FileChanges
from ..errors import FileError, NotFound, TooLarge
from ..models import FileChange, FileInfo
from .client import Client, body_of
from .stream import EventStream

# The most that `download` takes unless told otherwise, bytes: a sandbox must not fill this machine's disk.
MAX_DOWNLOAD = 1 << 30

# The most entries that the gateway lists.
MAX_ENTRIES = 10_000

_BYTES = {"Content-Type": "application/octet-stream"}
_TAR = {"Content-Type": "application/x-tar"}


class Files:
    """Paths are the sandbox's; relative ones start at its working directory."""

    def __init__(self, client: Client, sandbox: str) -> None:
        self._client = client
        self._path = f"/sandboxes/{sandbox}/files"

    async def read(self, path: str, *, offset: int | None = None, length: int | None = None) -> bytes:
        """A file's bytes, or `length` of them from `offset` on."""
        answer = await self._client.request("GET", self._path, query=_range(path, offset, length))
        return answer.data

    async def read_text(self, path: str, *, encoding: str = "utf-8") -> str:
        """A file's text. Raises `UnicodeDecodeError` if it is not in `encoding`."""
        return (await self.read(path)).decode(encoding)

    async def stream(self, path: str, *, offset: int | None = None, length: int | None = None) -> AsyncIterator[bytes]:
        """A file's bytes in pieces, for what is too large for `read`."""
        response = await self._client.open("GET", self._path, query=_range(path, offset, length))
        async for chunk in body_of(response):
            yield chunk

    async def write(
        self,
        path: str,
        data: str | bytes | AsyncIterator[bytes],
        *,
        mode: int | None = None,
        mkdirs: bool = True,
    ) -> None:
        """Writes a file, whole or not at all. `mode`: permission bits, as `0o755`; `mkdirs`: with what is above."""
        content = data.encode() if isinstance(data, str) else data
        await self._client.request(
            "PUT", self._path, query=_placed(path, mode, mkdirs), content=content, headers=_BYTES
        )

    async def list(self, path: str = ".", *, depth: int = 1, limit: int | None = None) -> builtins.list[FileInfo]:
        """What is in a directory; `depth` 2 also what is in its directories, and so on. At most `limit` entries;
        without one, more than 10,000 are an error."""
        return await self._infos("list", {"path": path, "depth": depth}, limit)

    async def glob(self, pattern: str, path: str = ".", *, limit: int | None = None) -> builtins.list[FileInfo]:
        """What below `path` fits a pattern, as `**/*.py`. `limit` as for `list`."""
        return await self._infos("glob", {"path": path, "pattern": pattern}, limit)

    async def stat(self, path: str) -> FileInfo:
        answer = await self._client.request("GET", f"{self._path}/stat", query={"path": path})
        return FileInfo.parse(answer.json())

    async def exists(self, path: str) -> bool:
        """Whether there is something. Raises `NotFound` if the sandbox itself is gone."""
        try:
            await self.stat(path)
        except NotFound as error:
            if error.code == "not_found":
                return False
            raise
        return True

    async def mkdir(self, path: str) -> None:
        """Makes a directory, and those above it. That it is there already is all right."""
        # Twice is once, therefore it may be repeated.
        await self._client.request("POST", f"{self._path}/mkdir", query={"path": path}, repeatable=True)

    async def move(self, source: str, target: str) -> None:
        await self._client.request("POST", f"{self._path}/move", body={"from": source, "to": target})

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file or an empty directory; `recursive`: a directory with what is in it."""
        await self._client.request("DELETE", self._path, query={"path": path, "recursive": recursive})

    def watch(self, path: str = ".", *, recursive: bool = False) -> EventStream[FileChange]:
        """What happens to a path, from the moment when it is entered until it is closed."""

        async def open(_: int | None) -> httpx.Response:
            return await self._client.open(
                "GET",
                f"{self._path}/watch",
                query={"path": path, "recursive": recursive},
                headers={"Accept": "text/event-stream"},
                patience=None,
            )

        return EventStream(open, FileChanges())

    async def upload(self, source: str | os.PathLike[str], path: str) -> None:
        """A local file to the file `path`, or what is in a local directory into the directory `path`."""
        local = Path(source)
        if local.is_dir():
            await self.unpack(platform.chunks(_tar.pack(local)), path)
            return
        file: IO[bytes] = await platform.in_thread(lambda: local.open("rb"))
        try:
            status = os.fstat(file.fileno())
            await self._client.request(
                "PUT",
                self._path,
                query=_placed(path, status.st_mode & 0o777, True),
                content=platform.chunks(iter(lambda: file.read(_tar.CHUNK), b"")),
                headers=_BYTES | {"Content-Length": str(status.st_size)},
            )
        finally:
            file.close()

    async def download(
        self, path: str, target: str | os.PathLike[str], *, max_bytes: int | None = MAX_DOWNLOAD
    ) -> None:
        """A file to the local file `target`, or what is in a directory into the local directory `target`.

        What comes is not trusted: of a directory only files and directories are made, no links, none of them outside
        `target`. More than `max_bytes` is an error; a file is then not written.
        """
        local = Path(target)
        response: httpx.Response | None = None
        try:
            response = await self._client.open("GET", self._path, query={"path": path})
        except FileError as error:
            if error.code != "is_a_directory":
                raise
        if response is None:
            with tempfile.TemporaryFile() as archive:
                # Headers are not counted as contents, but they are not without end either.
                limit = None if max_bytes is None else 2 * max_bytes
                response = await self._client.open("GET", f"{self._path}/archive", query={"path": path})
                await _save(response, archive, limit)
                archive.seek(0)
                await platform.in_thread(partial(_tar.unpack, archive, local, max_bytes))
            return
        # Beside the target, so that it can take its place in one step.
        with tempfile.NamedTemporaryFile(dir=local.parent, prefix=".belljar-", delete=False) as file:
            try:
                await _save(response, file, max_bytes)
                file.close()
                os.replace(file.name, local)
            except BaseException:
                file.close()
                os.unlink(file.name)
                raise

    async def pack(self, path: str) -> AsyncIterator[bytes]:
        """A directory as the pieces of a tar archive. It is the sandbox's: unpack it with care."""
        response = await self._client.open("GET", f"{self._path}/archive", query={"path": path})
        async for chunk in body_of(response):
            yield chunk

    async def unpack(self, archive: bytes | AsyncIterator[bytes], path: str) -> None:
        """Unpacks a tar archive into a directory of the sandbox."""
        await self._client.request("PUT", f"{self._path}/archive", query={"path": path}, content=archive, headers=_TAR)

    async def _infos(self, route: str, query: dict[str, Any], limit: int | None) -> builtins.list[FileInfo]:
        query["limit"] = MAX_ENTRIES if limit is None else limit
        answer = await self._client.request("GET", f"{self._path}/{route}", query=query)
        if limit is None and answer.headers.get("X-Truncated") == "true":
            raise TooLarge(f"There are more than {MAX_ENTRIES} entries: set a limit.", code="too_large")
        return [FileInfo.parse(entry) for entry in answer.array()]


async def _save(response: httpx.Response, file: IO[bytes], max_bytes: int | None) -> None:
    async for chunk in body_of(response, max_bytes):
        await platform.in_thread(partial(file.write, chunk))


def _range(path: str, offset: int | None, length: int | None) -> dict[str, str | int | None]:
    return {"path": path, "offset": offset, "length": length}


def _placed(path: str, mode: int | None, mkdirs: bool) -> dict[str, str | bool | None]:
    return {"path": path, "mode": None if mode is None else f"{mode:o}", "mkdirs": mkdirs}
