"""A sandbox, from its start to its end."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from .. import _aio as platform
from .._options import segment
from ..errors import BelljarError, NotFound
from ..models import CommandResult, SandboxInfo, SandboxStats
from .client import Client
from .commands import Commands, _patience
from .files import Files
from .ports import Ports
from .pty import Ptys

# What a start may take beside a request's usual time, seconds: it may have to wait in line.
START = 60.0


class Sandbox:
    """A sealed Linux environment. `create` and `connect` make one."""

    def __init__(self, client: Client, info: SandboxInfo, *, owns_client: bool, kill_at_exit: bool) -> None:
        self.id = info.id
        self.client = client
        path = segment(info.id)
        self._path = f"/sandboxes/{path}"
        self.commands = Commands(client, path)
        self.files = Files(client, path)
        self.pty = Ptys(client, path)
        self.ports = Ports(client, path)
        self._owns_client = owns_client
        self._kill_at_exit = kill_at_exit

    def __repr__(self) -> str:
        return f"Sandbox({self.id!r})"

    @classmethod
    def create(
        cls,
        template: str | None = None,
        *,
        image: str | None = None,
        timeout: int | None = None,
        env: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        cpus: float | None = None,
        memory: int | str | None = None,
        cwd: str | None = None,
        client: Client | None = None,
    ) -> platform.Opening[Sandbox]:
        """Starts a sandbox from a template or an image. `timeout`: seconds until it is ended; `memory`: MiB, or
        a text as `"512Mi"`. Where it is entered with `with`, it is killed at the end. If the caller is cancelled
        meanwhile, what was started is killed."""
        body: dict[str, Any] = {
            "template": template,
            "image": image,
            "timeout": timeout,
            "env": None if env is None else dict(env),
            "metadata": None if metadata is None else dict(metadata),
            "cpus": cpus,
            "memory" if isinstance(memory, str) else "memoryMB": memory,
            "cwd": cwd,
        }
        body = {name: value for name, value in body.items() if value is not None}

        async def start(client: Client, owns_client: bool) -> Sandbox:
            async def undo(answer: Any) -> None:
                await cls._of(client, answer, False, False).kill()

            answer = await client.request(
                "POST",
                "/sandboxes",
                body=body,
                # With a key of its own it can be repeated: the gateway starts one sandbox for it.
                headers={"Idempotency-Key": str(uuid.uuid4())},
                repeatable=True,
                patience=START,
                undo=undo,
            )
            return cls._of(client, answer.json(), owns_client, True)

        return cls._with_client(client, start)

    @classmethod
    def connect(cls, id: str, *, client: Client | None = None) -> platform.Opening[Sandbox]:
        """A sandbox that is there already. Leaving its `with` lets it run on."""

        async def start(client: Client, owns_client: bool) -> Sandbox:
            answer = await client.request("GET", f"/sandboxes/{segment(id)}")
            return cls._of(client, answer.json(), owns_client, False)

        return cls._with_client(client, start)

    @classmethod
    async def list(
        cls,
        *,
        state: str | None = None,
        template: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int | None = None,
        client: Client | None = None,
    ) -> builtins.list[SandboxInfo]:
        """Your sandboxes: all, or those in a state, of a template, with this metadata; at most `limit`."""
        query = {"state": state, "template": template}
        query |= {f"metadata.{name}": value for name, value in (metadata or {}).items()}
        asked = client or Client()
        try:
            return [SandboxInfo.parse(value) for value in await asked.pages("/sandboxes", query, limit)]
        finally:
            if client is None:
                await asked.close()

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._kill_at_exit:
                await platform.complete(self.kill)
        except BelljarError:
            # What went wrong first is what the caller should hear.
            if error is None:
                raise
        finally:
            await self.close()

    async def info(self) -> SandboxInfo:
        return SandboxInfo.parse((await self.client.request("GET", self._path)).json())

    async def stats(self) -> SandboxStats:
        return SandboxStats.parse((await self.client.request("GET", f"{self._path}/stats")).json())

    async def set_timeout(self, timeout: int) -> None:
        """Ends the sandbox in so many seconds from now, instead of when it would have."""
        body = {"timeout": timeout}
        await self.client.request("POST", f"{self._path}/timeout", body=body, repeatable=True)

    async def run_code(
        self,
        code: str,
        language: str = "python",
        *,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        """Runs a program's text: `python`, `node`, `bash`, and what the template has besides."""
        body: dict[str, Any] = {"code": code, "language": language}
        if env is not None:
            body["env"] = dict(env)
        if timeout is not None:
            body["timeout"] = timeout
        answer = await self.client.request("POST", f"{self._path}/code", body=body, patience=_patience(timeout))
        return CommandResult.parse(answer.json())

    async def stop(self) -> SandboxInfo:
        """Ends its programs and frees its place. Its files are in memory: they are gone."""
        return await self._action("stop")

    async def restart(self) -> SandboxInfo:
        """Starts it afresh, under the same id and without its files."""
        return await self._action("restart")

    async def kill(self) -> None:
        """Ends the sandbox and all that is in it. That it has ended already is all right."""
        try:
            await self.client.request("DELETE", self._path)
        except NotFound:
            pass

    async def close(self) -> None:
        """Closes the connections, if they are this sandbox's own. It runs on."""
        if self._owns_client:
            await self.client.close()

    async def _action(self, action: str) -> SandboxInfo:
        answer = await self.client.request("POST", f"{self._path}/actions", body={"action": action}, patience=START)
        return SandboxInfo.parse(answer.json())

    @classmethod
    def _of(cls, client: Client, answer: Any, owns_client: bool, kill_at_exit: bool) -> Sandbox:
        return cls(client, SandboxInfo.parse(answer), owns_client=owns_client, kill_at_exit=kill_at_exit)

    @staticmethod
    def _with_client(client: Client | None, start: Any) -> platform.Opening[Sandbox]:
        async def open() -> Sandbox:
            used = client or Client()
            try:
                return await start(used, client is None)  # type: ignore[no-any-return]
            except BaseException:
                if client is None:
                    await used.close()
                raise

        return platform.opening(open)
