"""Server-Sent Events from bytes, without any I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .errors import UnexpectedAnswer

# The longest event, bytes. The gateway's are at most some 100 KiB; a peer that never ends one is no gateway.
MAX_EVENT = 4 << 20


@dataclass(frozen=True)
class ServerEvent:
    name: str
    data: str


class Decoder:
    """Bytes in any pieces in, whole events out. Comments and fields it does not know are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        # Lines end with LF or CRLF. A bare CR, which the standard also allows, no gateway sends.
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event
        if self._size + len(self._rest) > MAX_EVENT:
            raise UnexpectedAnswer(f"The gateway sent an event of more than {MAX_EVENT} bytes.")

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            event = ServerEvent(self._name or "message", "\n".join(self._data)) if self._data else None
            self._name, self._data, self._size = "", [], 0
            return event
        self._size += len(line)
        if self._size > MAX_EVENT:
            raise UnexpectedAnswer(f"The gateway sent an event of more than {MAX_EVENT} bytes.")
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None
