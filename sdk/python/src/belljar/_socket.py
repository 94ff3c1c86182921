"""What both sides know of WebSockets: bounds, and how their errors are ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from .errors import AuthError, BelljarError, ConnectionFailed, NotFound, NotRunning, UnexpectedAnswer, of_problem

# The largest frame that is taken, bytes. The gateway's are at most 64 KiB.
MAX_FRAME = 1 << 20
# The most that is typed at once, bytes: half of what the gateway takes.
MAX_TYPED = 32 * 1024


def pieces(data: str | bytes) -> Iterator[bytes]:
    """What is typed, in pieces that the gateway takes."""
    data = data.encode() if isinstance(data, str) else data
    return (data[at : at + MAX_TYPED] for at in range(0, len(data), MAX_TYPED))


def ended_well(error: ConnectionClosed) -> bool:
    """Whether the program has ended, or the caller has left."""
    return error.rcvd is not None and error.rcvd.code == 1000


def of_refused(error: InvalidHandshake) -> BelljarError:
    """The gateway answered the upgrade with something else."""
    if isinstance(error, InvalidStatus):
        problem: Any = None
        try:
            problem = json.loads(error.response.body or b"")
        except ValueError:
            pass
        return of_problem(error.response.status_code, problem)
    return UnexpectedAnswer(f"The gateway did not open a WebSocket: {error}")


def of_closed(error: ConnectionClosed) -> BelljarError:
    """The connection ended in another way than by a good close."""
    close = error.rcvd
    if close is None:
        return ConnectionFailed("The connection to the terminal broke.")
    if close.reason in _REASONS:
        kind, message = _REASONS[close.reason]
    else:
        kind = {4003: AuthError, 4004: NotFound}.get(close.code, ConnectionFailed)
        message = f"The gateway closed the terminal: {close.reason or close.code}."
    return kind(message, code=close.reason)


# What the gateway says when it closes.
_REASONS: dict[str, tuple[type[BelljarError], str]] = {
    "sandbox_ended": (NotRunning, "The sandbox ended meanwhile."),
    "taken_over": (ConnectionFailed, "Somebody else reads this terminal faster: connect to it again."),
}
