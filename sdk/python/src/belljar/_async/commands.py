"""`sb.commands`: programs without a terminal."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from .._events import CommandEvents
from .._options import segment
from .._socket import pieces
from ..errors import ConnectionFailed, NotFound, UnexpectedAnswer
from ..models import CommandEvent, CommandResult, Exit, ProcessInfo, ProcessOutput
from .client import Client
from .stream import EventStream

# What the gateway takes where a command names no timeout, seconds.
DEFAULT_TIMEOUT = 60.0

Command = str | Sequence[str]
CommandStream = EventStream[CommandEvent]


class Commands:
    """`command` is a line for the sandbox's shell, or a list: a program and its arguments, without any shell.
    `timeout` is in seconds; what runs longer is ended, with exit code 124. A request may be 64 KiB
    long: what is longer belongs into a file, or is typed into a process (`start`)."""

    def __init__(self, client: Client, sandbox: str) -> None:
        self._client = client
        self._sandbox = sandbox
        self._path = f"/sandboxes/{sandbox}/commands"

    async def run(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        stdin: str | None = None,
    ) -> CommandResult:
        """Runs a command to its end. Of each stream at most 1 MiB is kept: see `truncated`. If the caller is cancelled,
        the command is ended."""
        answer = await self._client.request(
            "POST",
            self._path,
            body=_body("wait", command, env, cwd, timeout, stdin),
            patience=_patience(timeout),
        )
        return CommandResult.parse(answer.json())

    def stream(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        stdin: str | None = None,
    ) -> CommandStream:
        """Runs a command and gives its output as it comes, `Stdout` and `Stderr`, and last its `Exit`. Nothing is lost:
        a program that writes faster than it is read has to wait. Closing the stream ends the command."""
        body = _body("stream", command, env, cwd, timeout, stdin)

        async def open(_: int | None) -> httpx.Response:
            return await self._client.open(
                "POST",
                self._path,
                body=body,
                headers={"Accept": "text/event-stream"},
                patience=_patience(timeout),
            )

        return EventStream(open, CommandEvents())

    async def start(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
        stdin: bool = False,
    ) -> Process:
        """Starts a command in the background. It runs until it ends, is killed, or the sandbox ends; `timeout` None
        is without another end. `stdin`: whether it is written to later; else it reads nothing."""
        body = _body("background", command, env, cwd, timeout, True if stdin else None)

        async def undo(answer: Any) -> None:
            await self.connect(_process(answer)).kill()

        answer = await self._client.request("POST", self._path, body=body, undo=undo)
        return self.connect(_process(answer.json()))

    async def list(self) -> builtins.list[ProcessInfo]:
        """What runs in the sandbox by `start`, `run` and `stream`, and what of it has ended lately."""
        answer = await self._client.request("GET", f"/sandboxes/{self._sandbox}/processes")
        return [ProcessInfo.parse(value) for value in answer.array()]

    def connect(self, process: int) -> Process:
        """The process of this number, as another program may have started it."""
        return Process(self._client, self._sandbox, process)


class Process:
    """A command in the background. Its newest 256 KiB of output are kept, both streams in order of their
    arrival, addressed by one offset in bytes."""

    def __init__(self, client: Client, sandbox: str, id: int) -> None:
        self.id = id
        self._client = client
        self._path = f"/sandboxes/{sandbox}/processes/{segment(id)}"

    def __repr__(self) -> str:
        return f"Process({self.id})"

    async def info(self) -> ProcessInfo:
        answer = await self._client.request("GET", self._path)
        return ProcessInfo.parse(answer.json())

    async def read(self, start: int = 0) -> ProcessOutput:
        """What it has said so far, from an offset on, up to 1 MiB."""
        query = {"from": start, "follow": False}
        answer = await self._client.request("GET", f"{self._path}/output", query=query)
        return ProcessOutput.parse(answer.json())

    def output(self, start: int = 0) -> CommandStream:
        """Its output from an offset on, as it comes, and last its `Exit`. What is not kept any more is a `Gap`. A
        connection that breaks is made anew and goes on where it was."""

        async def open(position: int | None) -> httpx.Response:
            return await self._client.open(
                "GET",
                f"{self._path}/output",
                query={"from": position, "follow": True},
                headers={"Accept": "text/event-stream"},
                patience=None,
            )

        return EventStream(open, CommandEvents(start), retries=self._client.options.retries)

    async def wait(self) -> Exit:
        """How it ended, once it has."""
        info = await self.info()
        if info.exit is not None:
            return info.exit
        async with self.output(info.output_end) as events:
            async for event in events:
                if isinstance(event, Exit):
                    return event
        raise ConnectionFailed("The output ended before the process did.")

    async def signal(self, signal: int | str) -> None:
        """Sends a signal, `15` or `"TERM"`, to the process and what it started."""
        await self._client.request("POST", f"{self._path}/signal", body={"signal": signal})

    async def kill(self) -> None:
        """Ends the process and what it started. That it has ended already is all right."""
        try:
            await self._client.request("DELETE", self._path)
        except NotFound as error:
            if error.code not in ("", "not_found", "no_process"):
                raise

    async def write_stdin(self, data: str | bytes) -> None:
        """Types into a process that was started with `stdin=True`."""
        for piece in pieces(data):
            await self._input(piece, eof=False)

    async def close_stdin(self) -> None:
        """Ends its input: it reads an end of file."""
        await self._input(b"", eof=True)

    async def _input(self, data: bytes, *, eof: bool) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        await self._client.request("POST", f"{self._path}/stdin", query={"eof": eof}, content=data, headers=headers)


def _body(
    mode: str,
    command: Command,
    env: Mapping[str, str] | None,
    cwd: str | None,
    timeout: float | None,
    stdin: str | bool | None,
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "mode": mode,
        "command": command if isinstance(command, str) else list(command),
        "env": None if env is None else dict(env),
        "cwd": cwd,
        "timeout": timeout,
        "stdin": stdin,
    }
    return {name: value for name, value in body.items() if value is not None}


def _patience(timeout: float | None) -> float:
    """How much longer an answer may take than that of another request, seconds."""
    return DEFAULT_TIMEOUT if timeout is None else timeout


def _process(answer: Any) -> int:
    process = answer.get("process") if isinstance(answer, dict) else None
    if isinstance(process, dict):
        process = process.get("id")
    if not isinstance(process, int) or isinstance(process, bool):
        raise UnexpectedAnswer("The gateway did not say which process it started.")
    return process
