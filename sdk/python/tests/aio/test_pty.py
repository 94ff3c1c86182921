from __future__ import annotations

import pytest
from fake import KEY, FakeGateway, Fault

from belljar import ConnectionFailed, NotFound, NotRunning, Sandbox, ServerError


async def test_a_terminal(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        async with sb.pty.create(100, 30, command="/bin/sh", cwd="/tmp", env={"A": "1"}) as pty:
            [played] = gateway.sandboxes[sb.id].ptys.values()
            assert played["order"] == {
                "cols": 100,
                "rows": 30,
                "command": "/bin/sh",
                "cwd": "/tmp",
                "env": {"A": "1"},
            }
            await pty.resize(120, 40)
            assert played["size"] == (120, 40)
            await pty.write("é\n")
            await pty.write(b"\xff")
            await pty.write("exit\n")
            assert b"".join([data async for data in pty]) == b"$ \xc3\xa9\n\xff"
        assert not gateway.sandboxes[sb.id].ptys
    assert gateway.requests("GET")[-1].headers["Authorization"] == f"Bearer {KEY}"


async def test_a_terminal_is_left_and_found_again(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        first = await sb.pty.create()
        await first.close()
        assert first.id in gateway.sandboxes[sb.id].ptys
        async with sb.pty.connect(first.id) as pty:
            async for data in pty:
                assert data == b"$ "
                break
        await first.kill()
        with pytest.raises(NotFound):
            await sb.pty.connect(first.id)


async def test_a_terminal_that_breaks_is_not_an_end(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        pty = await sb.pty.create()
        await pty.write("break\n")
        with pytest.raises(ConnectionFailed):
            async for _ in pty:
                pass
        await pty.kill()
        pty = await sb.pty.create()
        await pty.write("stop\n")
        with pytest.raises(NotRunning) as caught:
            async for _ in pty:
                pass
        assert caught.value.code == "sandbox_ended"


async def test_a_long_text_is_typed_in_pieces(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        process = await sb.commands.start("cat", stdin=True)
        await process.write_stdin("é" * 50_000)
        assert gateway.sandboxes[sb.id].processes[process.id]["stdin"] == ("é" * 50_000).encode()
        assert [len(seen.body) for seen in gateway.requests("POST")[-4:]] == [32768, 32768, 32768, 1696]


async def test_a_terminal_that_cannot_be_attached_is_killed(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        # The first request makes it, the second is the upgrade.
        gateway.fail_upgrades = Fault(500, b'{"error":"internal","message":"Broken."}')
        with pytest.raises(ServerError, match=r"Broken|500"):
            await sb.pty.create()
        assert not gateway.sandboxes[sb.id].ptys
