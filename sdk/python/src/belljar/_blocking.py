"""What `_aio.py` is for the asynchronous side, for the synchronous one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import connect as _connect

from ._socket import MAX_FRAME, ended_well, of_closed, of_refused
from .errors import ConnectionFailed

T = TypeVar("T")
sleep = time.sleep

# Nothing to wait for here: what is opened is there.
Opening = Annotated[T, "opened"]
Eventual = Annotated[T, "now"]


def opening(start: Callable[[], T]) -> T:
    return start()


def finish(start: Callable[[], T], undo: Callable[[T], object]) -> T:
    """A thread is not cancelled in the middle of a request."""
    return start()


def complete(start: Callable[[], None]) -> None:
    start()


def in_thread(call: Callable[[], T]) -> T:
    return call()


def chunks(source: Iterator[bytes]) -> Iterator[bytes]:
    return source


class Socket:
    """A WebSocket with raw bytes both ways."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def send(self, data: bytes) -> None:
        try:
            self._connection.send(data)
        except ConnectionClosed as error:
            raise of_closed(error) from error

    def receive(self) -> bytes | None:
        """The next frame; None at the end."""
        try:
            frame = self._connection.recv()
        except ConnectionClosed as error:
            if ended_well(error):
                return None
            raise of_closed(error) from error
        return frame.encode() if isinstance(frame, str) else bytes(frame)

    def close(self) -> None:
        self._connection.close()


def connect(url: str, headers: Mapping[str, str], timeout: float) -> Socket:
    try:
        connection = _connect(
            url,
            additional_headers=headers,
            open_timeout=timeout,
            max_size=MAX_FRAME,
            compression=None,
        )
        # Some versions connect only when they are entered, others at once and enter for nothing.
        return Socket(connection.__enter__())
    except InvalidHandshake as error:
        raise of_refused(error) from error
    except (OSError, EOFError, InvalidURI, ConnectionClosed) as error:
        raise ConnectionFailed(f"The gateway could not be reached: {error}") from error
