"""What both sides know of WebSockets: bounds, and how their errors are ours."""

from __future__ import annotations

import json
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from .errors import AuthError, BelljarError, ConnectionFailed, NotFound, UnexpectedAnswer, of_problem

# The largest frame that is taken, bytes. The gateway's are at most 64 KiB.
MAX_FRAME = 1 << 20


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
    kind: type[BelljarError] = {4003: AuthError, 4004: NotFound}.get(close.code, ConnectionFailed)
    return kind(close.reason or f"The gateway closed the terminal with code {close.code}.")
