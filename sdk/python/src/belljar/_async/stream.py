"""Events that come as long as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, TypeVar

import httpx

from .. import _aio as platform
from .._events import Events
from .._retry import delay
from ..errors import ConnectionFailed
from .client import body_of

E = TypeVar("E")


class EventStream(Generic[E]):
    """Events, one after the other, to be iterated over. It connects when it is entered, or first asked for one.

    It holds a connection until its last event. Whoever stops before that closes it: by `close`, or by
    entering it with `with`.
    """

    def __init__(
        self,
        open: Callable[[int | None], platform.Eventual[httpx.Response]],
        events: Events[E],
        *,
        retries: int = 0,
    ) -> None:
        self._open = open
        self._events = events
        # How often in a row a broken connection is made anew, where that loses nothing.
        self._retries = retries
        self._failures = 0
        self._ready: deque[E] = deque()
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._closed = False

    def __aiter__(self) -> EventStream[E]:
        return self

    async def __anext__(self) -> E:
        try:
            while not self._ready:
                if self._closed or self._events.ended:
                    await self.close()
                    raise StopAsyncIteration
                await self._read()
            return self._ready.popleft()
        except StopAsyncIteration:
            raise
        except BaseException:
            await self.close()
            raise

    async def __aenter__(self) -> EventStream[E]:
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Lets go of the connection; a command in the foreground ends with it."""
        self._closed = True
        await self._disconnect()

    async def _connect(self) -> AsyncIterator[bytes]:
        if self._chunks is None:
            self._response = await self._open(self._events.position)
            self._chunks = body_of(self._response)
        return self._chunks

    async def _read(self) -> None:
        """Reads some more, which may not be enough for an event."""
        try:
            chunks = await self._connect()
            try:
                chunk = await chunks.__anext__()
            except StopAsyncIteration:
                raise ConnectionFailed("The stream of events broke off before its end.") from None
            self._ready.extend(self._events.feed(chunk))
            if self._ready:
                self._failures = 0
        except ConnectionFailed:
            await self._disconnect()
            wait = delay(self._failures, None)
            if self._events.position is None or self._failures >= self._retries or wait is None:
                raise
            self._failures += 1
            await platform.sleep(wait)
            self._events.reconnected()

    async def _disconnect(self) -> None:
        response, self._response, self._chunks = self._response, None, None
        if response is not None:
            await response.aclose()
