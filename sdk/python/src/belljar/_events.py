"""Server-sent events as the events of commands and of files, without any I/O."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from ._sse import Decoder, ServerEvent
from .errors import UnexpectedAnswer, of_problem
from .models import CommandEvent, Exit, FileChange, Gap, Started, Stderr, Stdout

E = TypeVar("E", covariant=True)


class Events(Protocol, Generic[E]):
    """What a stream makes of its bytes."""

    # Where the next connection has to go on, if it can at all.
    position: int | None
    # Nothing comes after this.
    ended: bool

    def feed(self, chunk: bytes) -> Iterator[E]: ...

    def reconnected(self) -> None:
        """The bytes that follow are those of another connection."""


class CommandEvents:
    """The output of a command. `position` is the offset of its first byte, if it has offsets."""

    def __init__(self, position: int | None = None) -> None:
        self.position = position
        self.ended = False
        self._resumable = position is not None
        self._sse = Decoder()
        utf8 = codecs.getincrementaldecoder("utf-8")
        self._text = {"stdout": utf8("replace"), "stderr": utf8("replace")}

    def reconnected(self) -> None:
        self._sse = Decoder()

    def feed(self, chunk: bytes) -> Iterator[CommandEvent]:
        for event in self._sse.feed(chunk):
            yield from self._event(event)

    def _event(self, event: ServerEvent) -> Iterator[CommandEvent]:
        if event.name in self._text:
            yield self._output(event.name, _fields(event))
        elif event.name == "start":
            process = _fields(event).get("process")
            # Of a process that is only listened to it says nothing new.
            if isinstance(process, int) and not self._resumable:
                yield Started(process)
        elif event.name == "gap":
            fields = _fields(event)
            start, end = fields.get("from"), fields.get("to")
            if isinstance(start, int) and isinstance(end, int):
                self.position = end
                # What was split by the gap stays split.
                for decoder in self._text.values():
                    decoder.reset()
                yield Gap(start, end)
        elif event.name == "exit":
            for name, decoder in self._text.items():
                if rest := decoder.decode(b"", final=True):
                    yield _KINDS[name](b"", rest, self.position)
            self.ended = True
            yield Exit.parse(_fields(event))
        elif event.name == "error":
            raise _error(event)

    def _output(self, name: str, fields: dict[str, Any]) -> CommandEvent:
        data = _data(fields)
        end = fields.get("offset")
        if not isinstance(end, int):
            end = None
        if self._resumable:
            self.position = end
        return _KINDS[name](data, self._text[name].decode(data), end)


class FileChanges:
    """What happens to watched files. A watch that broke cannot go on where it was."""

    position: int | None = None
    ended = False

    def __init__(self) -> None:
        self._sse = Decoder()

    def reconnected(self) -> None:
        self._sse = Decoder()

    def feed(self, chunk: bytes) -> Iterator[FileChange]:
        for event in self._sse.feed(chunk):
            if event.name == "error":
                raise _error(event)
            change = FileChange.parse(event.name, _fields(event))
            if change is not None:
                yield change


_KINDS: dict[str, type[Stdout | Stderr]] = {"stdout": Stdout, "stderr": Stderr}


def _fields(event: ServerEvent) -> dict[str, Any]:
    try:
        value = json.loads(event.data)
    except ValueError as error:
        raise UnexpectedAnswer(f"The gateway sent an event {event.name!r} that is not JSON.") from error
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"The gateway sent an event {event.name!r} that is not an object.")
    return value


def _data(fields: dict[str, Any]) -> bytes:
    text, encoded = fields.get("data"), fields.get("dataBase64")
    if isinstance(text, str):
        return text.encode("utf-8", "surrogatepass")
    if isinstance(encoded, str):
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise UnexpectedAnswer("The gateway sent output that is not base64.") from error
    raise UnexpectedAnswer("The gateway sent output without data.")


def _error(event: ServerEvent) -> Exception:
    fields = _fields(event)
    status = fields.get("status")
    return of_problem(status if isinstance(status, int) else 500, fields)
