# Made by tools/make_sync.py from src/belljar/_async/stream.py: change that.
"""Events that come as long as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

import httpx

from .. import _blocking as platform
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
        self._chunks: Iterator[bytes] | None = None
        self._closed = False

    def __iter__(self) -> EventStream[E]:
        return self

    def __next__(self) -> E:
        try:
            while not self._ready:
                if self._closed or self._events.ended:
                    self.close()
                    raise StopIteration
                self._read()
            return self._ready.popleft()
        except StopIteration:
            raise
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> EventStream[E]:
        self._connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the connection; a command in the foreground ends with it."""
        self._closed = True
        self._disconnect()

    def _connect(self) -> Iterator[bytes]:
        if self._chunks is None:
            self._response = self._open(self._events.position)
            self._chunks = body_of(self._response)
        return self._chunks

    def _read(self) -> None:
        """Reads some more, which may not be enough for an event."""
        try:
            chunks = self._connect()
            try:
                chunk = chunks.__next__()
            except StopIteration:
                raise ConnectionFailed("The stream of events broke off before its end.") from None
            self._ready.extend(self._events.feed(chunk))
            if self._ready:
                self._failures = 0
        except ConnectionFailed:
            self._disconnect()
            wait = delay(self._failures, None)
            if self._events.position is None or self._failures >= self._retries or wait is None:
                raise
            self._failures += 1
            platform.sleep(wait)
            self._events.reconnected()

    def _disconnect(self) -> None:
        response, self._response, self._chunks = self._response, None, None
        if response is not None:
            response.close()
