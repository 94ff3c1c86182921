# Made by tools/make_sync.py from tests/aio/test_pty.py: change that.
from __future__ import annotations

import pytest
from fake import KEY, FakeGateway, Fault

from belljar.sync import ConnectionFailed, NotFound, NotRunning, Sandbox, ServerError


def test_a_terminal(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        with sb.pty.create(100, 30, command="/bin/sh", cwd="/tmp", env={"A": "1"}) as pty:
            [played] = gateway.sandboxes[sb.id].ptys.values()
            assert played["order"] == {
                "cols": 100,
                "rows": 30,
                "command": "/bin/sh",
                "cwd": "/tmp",
                "env": {"A": "1"},
            }
            pty.resize(120, 40)
            assert played["size"] == (120, 40)
            pty.write("é\n")
            pty.write(b"\xff")
            pty.write("exit\n")
            assert b"".join([data for data in pty]) == b"$ \xc3\xa9\n\xff"
        assert not gateway.sandboxes[sb.id].ptys
    assert gateway.requests("GET")[-1].headers["Authorization"] == f"Bearer {KEY}"


def test_a_terminal_is_left_and_found_again(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        first = sb.pty.create()
        first.close()
        assert first.id in gateway.sandboxes[sb.id].ptys
        with sb.pty.connect(first.id) as pty:
            for data in pty:
                assert data == b"$ "
                break
        first.kill()
        with pytest.raises(NotFound):
            sb.pty.connect(first.id)


def test_a_terminal_that_breaks_is_not_an_end(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        pty = sb.pty.create()
        pty.write("break\n")
        with pytest.raises(ConnectionFailed):
            for _ in pty:
                pass
        pty.kill()
        pty = sb.pty.create()
        pty.write("stop\n")
        with pytest.raises(NotRunning) as caught:
            for _ in pty:
                pass
        assert caught.value.code == "sandbox_ended"


def test_a_long_text_is_typed_in_pieces(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        process = sb.commands.start("cat", stdin=True)
        process.write_stdin("é" * 50_000)
        assert gateway.sandboxes[sb.id].processes[process.id]["stdin"] == ("é" * 50_000).encode()
        assert [len(seen.body) for seen in gateway.requests("POST")[-4:]] == [32768, 32768, 32768, 1696]


def test_a_terminal_that_cannot_be_attached_is_killed(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        # The first request makes it, the second is the upgrade.
        gateway.fail_upgrades = Fault(500, b'{"error":"internal","message":"Broken."}')
        with pytest.raises(ServerError, match=r"Broken|500"):
            sb.pty.create()
        assert not gateway.sandboxes[sb.id].ptys
