"""What the asynchronous side takes from asyncio. `_blocking.py` is the same for the synchronous side;
these two are written by hand, everything above them once (see tools/make_sync.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from websockets.asyncio.client import connect as _connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from ._socket import MAX_FRAME, ended_well, of_closed, of_refused
from .errors import ConnectionFailed

T = TypeVar("T")
Eventual = Awaitable
sleep = asyncio.sleep

# How long something that was cancelled is waited for, so that it can be undone, seconds.
UNDO = 10.0


class _Closing(Protocol):
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


C = TypeVar("C", bound=_Closing)


class Opening(Generic[C]):
    """Something that has to be awaited, or entered at once: `await x`, `async with x`, `async with await x`."""

    def __init__(self, start: Callable[[], Awaitable[C]]) -> None:
        self._start = start
        self._opened: C | None = None

    def __await__(self) -> Generator[Any, None, C]:
        return self._start().__await__()

    async def __aenter__(self) -> C:
        self._opened = await self
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, trace)


def opening(start: Callable[[], Awaitable[C]]) -> Opening[C]:
    return Opening(start)


async def finish(start: Callable[[], Awaitable[T]], undo: Callable[[T], Awaitable[object]]) -> T:
    """Runs `start` to its end even if the caller is cancelled meanwhile; then what it did is undone
    before the cancellation goes on."""
    task = asyncio.ensure_future(start())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        try:
            await asyncio.wait_for(_undo(task, undo), UNDO)
        except Exception:
            # It failed by itself, or too late: there is nothing that could be undone.
            task.cancel()
        raise


async def _undo(task: asyncio.Future[T], undo: Callable[[T], Awaitable[object]]) -> None:
    await undo(await task)


async def complete(start: Callable[[], Awaitable[None]]) -> None:
    """Runs `start` to its end, for at most `UNDO` seconds more if the caller is cancelled meanwhile."""

    async def nothing(_: None) -> None:
        pass

    await finish(start, nothing)


async def in_thread(call: Callable[[], T]) -> T:
    """Runs what blocks, such as a disk, where it does not hold up others."""
    return await asyncio.to_thread(call)


async def chunks(source: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A blocking iterator, read in a thread."""
    while True:
        chunk = await asyncio.to_thread(next, source, None)
        if chunk is None:
            return
        yield chunk


class Socket:
    """A WebSocket with raw bytes both ways."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def send(self, data: bytes) -> None:
        try:
            await self._connection.send(data)
        except ConnectionClosed as error:
            raise of_closed(error) from error

    async def receive(self) -> bytes | None:
        """The next frame; None at the end."""
        try:
            frame = await self._connection.recv()
        except ConnectionClosed as error:
            if ended_well(error):
                return None
            raise of_closed(error) from error
        return frame.encode() if isinstance(frame, str) else bytes(frame)

    async def close(self) -> None:
        await self._connection.close()


async def connect(url: str, headers: Mapping[str, str], timeout: float) -> Socket:
    try:
        return Socket(
            await _connect(
                url,
                additional_headers=headers,
                open_timeout=timeout,
                max_size=MAX_FRAME,
                compression=None,
            )
        )
    except InvalidHandshake as error:
        raise of_refused(error) from error
    except (OSError, EOFError, InvalidURI, ConnectionClosed) as error:
        raise ConnectionFailed(f"The gateway could not be reached: {error}") from error
