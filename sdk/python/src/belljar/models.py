"""What the gateway says, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Literal

from .errors import CommandFailed, UnexpectedAnswer

__all__ = [
    "CommandEvent",
    "CommandResult",
    "Exit",
    "FileChange",
    "FileInfo",
    "FileKind",
    "Gap",
    "ProcessInfo",
    "ProcessOutput",
    "SandboxInfo",
    "SandboxStats",
    "Started",
    "Stderr",
    "Stdout",
    "Template",
]


@dataclass(frozen=True)
class SandboxInfo:
    """A sandbox as the gateway sees it. `timeout` is in seconds, `memory_mb` in MiB."""

    id: str
    status: str
    template: str | None
    image: str | None
    created_at: datetime | None
    expires_at: datetime | None
    metadata: Mapping[str, str]
    cpus: float | None
    memory_mb: int | None
    cwd: str | None
    timeout: int | None

    @classmethod
    def parse(cls, value: Any) -> SandboxInfo:
        fields = _object(value, "a sandbox")
        return cls(
            id=_required(fields, "id", str),
            status=_optional(fields, "status", str) or "running",
            template=_optional(fields, "template", str),
            image=_optional(fields, "image", str),
            created_at=_time(fields, "createdAt"),
            expires_at=_time(fields, "expiresAt"),
            metadata=_object(fields.get("metadata") or {}, "metadata"),
            cpus=_number(fields, "cpus"),
            memory_mb=_integer(fields, "memoryMB"),
            cwd=_optional(fields, "cwd", str),
            timeout=_integer(fields, "timeout"),
        )


@dataclass(frozen=True)
class SandboxStats:
    """What a sandbox uses now. None: it did not say."""

    cpu_ms: int | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    processes: int | None
    uptime_ms: int | None
    home_used: int | None
    home_size: int | None
    tmp_used: int | None
    tmp_size: int | None

    @classmethod
    def parse(cls, value: Any) -> SandboxStats:
        fields = _object(value, "stats")
        return cls(
            cpu_ms=_integer(fields, "cpuMs"),
            memory_bytes=_integer(fields, "memoryBytes"),
            memory_limit_bytes=_integer(fields, "memoryLimitBytes"),
            processes=_integer(fields, "processes"),
            uptime_ms=_integer(fields, "uptimeMs"),
            home_used=_integer(fields, "homeUsed"),
            home_size=_integer(fields, "homeSize"),
            tmp_used=_integer(fields, "tmpUsed"),
            tmp_size=_integer(fields, "tmpSize"),
        )


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended. `exit_code` is 124 if its timeout ended it."""

    stdout: str
    stderr: str
    exit_code: int | None
    signal: str | None = None
    timed_out: bool = False
    truncated: bool = False

    def check(self) -> CommandResult:
        """Itself, if the command ended with 0. Raises `CommandFailed` else."""
        if self.exit_code != 0 or self.signal is not None:
            how = f"signal {self.signal}" if self.signal is not None else f"code {self.exit_code}"
            raise CommandFailed(f"The command ended with {how}.", self)
        return self

    @classmethod
    def parse(cls, value: Any) -> CommandResult:
        fields = _object(value, "a result")
        end = Exit.parse(fields)
        return cls(
            stdout=_required(fields, "stdout", str),
            stderr=_required(fields, "stderr", str),
            exit_code=end.exit_code,
            signal=end.signal,
            timed_out=end.timed_out,
            truncated=fields.get("truncated") is True,
        )


@dataclass(frozen=True)
class Started:
    """The command runs. `process` is its number in the sandbox."""

    process: int


@dataclass(frozen=True)
class Stdout:
    """Bytes of the program's output. `text` is them decoded: a character that is split over two
    events is whole in the later one. `end` is the output's offset after them, where it has one."""

    data: bytes
    text: str
    end: int | None = None


@dataclass(frozen=True)
class Stderr:
    """As `Stdout`, of the other stream."""

    data: bytes
    text: str
    end: int | None = None


@dataclass(frozen=True)
class Gap:
    """Output that the sandbox did not keep: the offsets `start` to `end`, bytes."""

    start: int
    end: int


@dataclass(frozen=True)
class Exit:
    """The program has ended, with a code or by a signal."""

    exit_code: int | None
    signal: str | None = None
    timed_out: bool = False

    @classmethod
    def parse(cls, value: Any) -> Exit:
        fields = _object(value, "an exit")
        code = _integer(fields, "exitCode")
        signal = _optional(fields, "signal", str)
        timed_out = fields.get("timedOut") is True
        if code is None and signal is None and not timed_out:
            raise UnexpectedAnswer("The gateway's exit has neither a code nor a signal.")
        return cls(code, signal, timed_out)


CommandEvent = Started | Stdout | Stderr | Gap | Exit


@dataclass(frozen=True)
class ProcessInfo:
    """A program in the sandbox. `output_start` and `output_end` are the offsets of what is kept of its output."""

    id: int
    pid: int | None
    command: str
    background: bool
    output_start: int
    output_end: int
    exit: Exit | None

    @property
    def running(self) -> bool:
        return self.exit is None

    @classmethod
    def parse(cls, value: Any) -> ProcessInfo:
        fields = _object(value, "a process")
        return cls(
            id=_required(fields, "process", int),
            pid=_integer(fields, "pid"),
            command=_optional(fields, "command", str) or "",
            background=fields.get("background") is not False,
            output_start=_integer(fields, "outputStart") or 0,
            output_end=_integer(fields, "outputEnd") or 0,
            exit=_ended(fields),
        )


@dataclass(frozen=True)
class ProcessOutput:
    """What a process has said, from the offset `start` to `end`: to be read on from there."""

    stdout: str
    stderr: str
    start: int
    end: int
    exit: Exit | None

    @classmethod
    def parse(cls, value: Any) -> ProcessOutput:
        fields = _object(value, "output")
        return cls(
            stdout=_required(fields, "stdout", str),
            stderr=_required(fields, "stderr", str),
            start=_required(fields, "from", int),
            end=_required(fields, "offset", int),
            exit=_ended(fields),
        )


class FileKind(str, Enum):
    """What a name stands for."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


@dataclass(frozen=True)
class FileInfo:
    """A file or directory. `size` is in bytes, `mode` the permission bits."""

    name: str
    path: str
    kind: FileKind
    size: int
    mode: int | None
    modified_at: datetime | None
    target: str | None

    @property
    def is_dir(self) -> bool:
        return self.kind is FileKind.DIRECTORY

    @classmethod
    def parse(cls, value: Any) -> FileInfo:
        fields = _object(value, "a file")
        kind = fields.get("kind")
        if kind not in ("file", "directory", "symlink", "other"):
            kind = "directory" if fields.get("isDir") is True else "file"
        return cls(
            name=_required(fields, "name", str),
            path=_required(fields, "path", str),
            kind=FileKind(kind),
            size=_integer(fields, "size") or 0,
            mode=_mode(fields.get("mode")),
            modified_at=_moment(fields, "modifiedMs"),
            target=_optional(fields, "target", str),
        )


@dataclass(frozen=True)
class FileChange:
    """What happened to a path, which was at `old_path` before it was renamed. `overflow`: more happened than was
    kept, look for yourself."""

    type: Literal["created", "modified", "removed", "renamed", "overflow"]
    path: str
    old_path: str | None = None
    is_dir: bool = False

    @classmethod
    def parse(cls, name: str, value: Any) -> FileChange | None:
        fields = _object(value, "a change")
        kind = fields.get("type", name)
        if kind not in ("created", "modified", "removed", "renamed", "overflow"):
            return None
        return cls(
            kind,
            _optional(fields, "path", str) or "",
            _optional(fields, "from", str),
            fields.get("isDir") is True,
        )


@dataclass(frozen=True)
class Template:
    """What sandboxes can be started from."""

    name: str
    image: str | None
    status: str | None

    @classmethod
    def parse(cls, value: Any) -> Template:
        fields = _object(value, "a template")
        return cls(
            name=_required(fields, "name", str),
            image=_optional(fields, "image", str),
            status=_optional(fields, "status", str),
        )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"The gateway sent {type(value).__name__} where {what} should be.")
    return value


def _required(fields: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = fields.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UnexpectedAnswer(f"The gateway's answer has no proper {name!r}.")
    return value


def _optional(fields: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = fields.get(name)
    return value if isinstance(value, kind) else None


def _number(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _integer(fields: dict[str, Any], name: str) -> int | None:
    value = _number(fields, name)
    return None if value is None else int(value)


def _ended(fields: dict[str, Any]) -> Exit | None:
    return None if fields.get("running") is True else Exit.parse(fields)


def _moment(fields: dict[str, Any], name: str) -> datetime | None:
    ms = _number(fields, name)
    try:
        return None if ms is None else datetime.fromtimestamp(ms / 1000, timezone.utc)
    except (OverflowError, OSError, ValueError):
        # A sandbox may date its files as it likes.
        return None


def _mode(value: Any) -> int | None:
    if isinstance(value, str) and value and all(digit in "01234567" for digit in value):
        return int(value, 8)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(fields: dict[str, Any], name: str) -> datetime | None:
    value = fields.get(name)
    if not isinstance(value, str):
        return None
    # Python 3.10 reads neither `Z` nor other than three or six digits of a second.
    head, dot, tail = value.replace("Z", "+00:00").partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        value = f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"
    else:
        value = head
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
