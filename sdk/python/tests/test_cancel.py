"""What only asynchronous code can do: be cancelled in the middle."""

from __future__ import annotations

import asyncio

import pytest
from fake import FakeGateway

from belljar import Sandbox


async def arrived(gateway: FakeGateway) -> None:
    assert await asyncio.to_thread(gateway.arrived.wait, 10)


async def test_a_cancelled_create_leaves_no_sandbox(gateway: FakeGateway) -> None:
    gateway.hold_creates = True
    creating = asyncio.ensure_future(_create())
    await arrived(gateway)
    creating.cancel()
    gateway.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert len(gateway.requests("DELETE")) == 1
    assert not gateway.sandboxes


async def _create() -> None:
    async with Sandbox.create():
        raise AssertionError("it was cancelled before")


async def test_a_cancelled_command_lets_go_of_its_connection(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        running = asyncio.ensure_future(sb.commands.run("sleep"))
        await arrived(gateway)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await asyncio.to_thread(gateway.abandoned.wait, 10)


async def test_a_cancelled_stream_too(gateway: FakeGateway) -> None:
    async def read(sb: Sandbox) -> None:
        async for _ in sb.commands.stream("sleep"):
            pass

    async with Sandbox.create() as sb:
        reading = asyncio.ensure_future(read(sb))
        await arrived(gateway)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await asyncio.to_thread(gateway.abandoned.wait, 10)


async def test_a_block_that_is_cancelled_kills_its_sandbox(gateway: FakeGateway) -> None:
    inside = asyncio.Event()

    async def block() -> None:
        async with Sandbox.create():
            inside.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(block())
    await inside.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not gateway.sandboxes
