"""What can go wrong. Every error of this package is a `BelljarError`."""

from __future__ import annotations

from typing import Any

__all__ = [
    "AlreadyExists",
    "AtCapacity",
    "AuthError",
    "BelljarError",
    "CommandFailed",
    "Conflict",
    "ConnectionFailed",
    "FileError",
    "InvalidRequest",
    "NotFound",
    "NotRunning",
    "RateLimited",
    "RequestTimeout",
    "ServerError",
    "TooLarge",
    "UnexpectedAnswer",
]


class BelljarError(Exception):
    """The base of all errors here.

    `code` is the gateway's stable name of what happened (`at_capacity`), empty if it named none;
    `status` the HTTP status, if there was an answer; `retry_after` how long to wait before it may
    work, in seconds, if the gateway said so.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.retry_after = retry_after


class AuthError(BelljarError):
    """No key (401), or one that may not do this (403)."""


class NotFound(BelljarError):
    """There is no such sandbox, process, terminal, template or file, or it is not yours."""


class Conflict(BelljarError):
    """It cannot be done as things are now (409)."""


class AlreadyExists(Conflict):
    """What should be made is there already."""


class NotRunning(Conflict):
    """The sandbox is stopped, or has ended."""


class InvalidRequest(BelljarError):
    """A field or a value that the gateway does not take."""


class TooLarge(BelljarError):
    """More bytes than the gateway, the sandbox's disk or the caller's own limit takes."""


class FileError(BelljarError):
    """The sandbox's own kernel refused: no permission, not a directory, not empty, …; see `code`."""


class RateLimited(BelljarError):
    """Too many requests (429); see `retry_after`."""


class ServerError(BelljarError):
    """The gateway, or what it stands on, has a fault (5xx)."""


class AtCapacity(ServerError):
    """Every place for a sandbox is taken; see `retry_after`."""


class ConnectionFailed(BelljarError):
    """The gateway could not be reached, or the connection broke before the end."""


class RequestTimeout(ConnectionFailed):
    """The gateway took longer than the client's `timeout`."""


class UnexpectedAnswer(BelljarError):
    """An answer that is not what the protocol says, as from a proxy in between."""


class CommandFailed(BelljarError):
    """A command ended with another code than 0. Only `CommandResult.check()` raises it."""

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message, code="command_failed")
        self.result = result


# What the sandbox's file system says, with whatever status it comes.
_FILE_CODES = frozenset(
    {"not_a_directory", "is_a_directory", "not_empty", "permission_denied", "read_only", "bad_path", "io", "not_a_file"}
)
_BY_CODE: dict[str, type[BelljarError]] = {
    "already_exists": AlreadyExists,
    "at_capacity": AtCapacity,
    "no_space": TooLarge,
    "not_found": NotFound,
    "not_running": NotRunning,
    "too_large": TooLarge,
}
_BY_STATUS: dict[int, type[BelljarError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    413: TooLarge,
    429: RateLimited,
    507: TooLarge,
}


def of_problem(status: int, problem: Any, retry_after: float | None = None) -> BelljarError:
    """The error that an answer of this status stands for. `problem` is its body, if that was JSON."""
    fields = problem if isinstance(problem, dict) else {}
    code = _text(fields, "error") or _text(fields, "code")
    message = _text(fields, "detail") or _text(fields, "message") or _text(fields, "title")
    if retry_after is None:
        told = fields.get("retryAfter")
        if isinstance(told, (int, float)) and not isinstance(told, bool) and told >= 0:
            retry_after = float(told)
    if code in _FILE_CODES:
        kind: type[BelljarError] = FileError
    elif code in _BY_CODE:
        kind = _BY_CODE[code]
    elif status in _BY_STATUS:
        kind = _BY_STATUS[status]
    else:
        kind = ServerError if status >= 500 else InvalidRequest
    return kind(message or f"The gateway answered {status}.", code=code, status=status, retry_after=retry_after)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
