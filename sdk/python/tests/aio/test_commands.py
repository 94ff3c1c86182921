from __future__ import annotations

import json

import pytest
from fake import FakeGateway

from belljar import (
    BelljarError,
    CommandFailed,
    ConnectionFailed,
    Exit,
    Gap,
    NotFound,
    Sandbox,
    Started,
    Stderr,
    Stdout,
)


async def test_run(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        result = await sb.commands.run("echo hello")
        assert (result.stdout, result.stderr, result.exit_code) == ("hello\n", "", 0)
        assert result.check() is result
        assert (await sb.commands.run(["echo", "a", "b"])).stdout == "a b\n"
        assert (await sb.commands.run("cat", stdin="typed")).stdout == "typed"
        result = await sb.commands.run("env", env={"A": "1"}, cwd="/tmp", timeout=5)
        assert json.loads(result.stdout) == [{"A": "1"}, "/tmp"]
    assert gateway.requests("POST", "/commands")[-1].json["timeout"] == 5


async def test_a_command_that_fails_is_a_result_unless_checked(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        result = await sb.commands.run("both")
        assert (result.stdout, result.stderr, result.exit_code) == ("out", "err", 3)
        with pytest.raises(CommandFailed, match="code 3") as caught:
            result.check()
        assert caught.value.result is result
        late = await sb.commands.run("slow", timeout=1)
        assert late.timed_out
        assert late.exit_code == 124


async def test_code(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        assert (await sb.run_code("print(1)")).stdout == "python: print(1)\n"
        await sb.run_code("1", "node", env={"A": "1"}, timeout=3)
    assert gateway.requests("POST", "/code")[-1].json == {
        "code": "1",
        "language": "node",
        "env": {"A": "1"},
        "timeout": 3,
    }


async def test_stream(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        events = [event async for event in sb.commands.stream("both")]
    assert events == [Started(1), Stdout(b"out", "out"), Stderr(b"err", "err"), Exit(3)]


async def test_a_character_that_is_split_stays_whole_and_no_byte_is_lost(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        events = [event async for event in sb.commands.stream("split")]
    outs = [event for event in events if isinstance(event, Stdout)]
    assert b"".join(event.data for event in outs) == b"caf\xc3\xa9\xff\xe2"
    assert "".join(event.text for event in outs) == "café��"


async def test_a_stream_that_is_closed_lets_go_of_its_command(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        async with sb.commands.stream("sleep") as events:
            async for event in events:
                if isinstance(event, Stdout):
                    break
        assert gateway.abandoned.wait(10)
        assert [event async for event in events] == []


async def test_a_stream_that_breaks_is_not_an_end(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        gateway.break_after.append(2)
        seen = []
        with pytest.raises(ConnectionFailed):
            async for event in sb.commands.stream("both"):
                seen.append(event)
        assert seen == [Started(1), Stdout(b"out", "out")]
    assert len(gateway.requests("POST", "/commands")) == 1


async def test_background(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        process = await sb.commands.start("echo 12345678", stdin=True)
        events = [event async for event in process.output()]
        assert events == [Gap(0, 4), Stdout(b"5678\n", "5678\n", 9), Exit(0)]
        said = await process.read(6)
        assert (said.stdout, said.start, said.end, said.exit) == ("78\n", 6, 9, None)
        assert await process.wait() == Exit(0)
        assert (await process.info()).running
        await process.write_stdin("a")
        await process.write_stdin(b"b")
        await process.close_stdin()
        [played] = next(iter(gateway.sandboxes.values())).processes.values()
        assert (played["stdin"], played["eof"]) == (b"ab", True)
        await process.signal("INT")
        assert played["signals"] == ["INT"]
        await process.kill()
        assert await process.wait() == Exit(137, "SIGKILL")
        [info] = await sb.commands.list()
        assert (info.id, info.command, info.running, info.output_end) == (process.id, "echo 12345678", False, 9)


async def test_output_goes_on_where_a_connection_broke(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        process = await sb.commands.start("split")
        gateway.break_after += [2, 2]
        data = b""
        async for event in process.output():
            if isinstance(event, Stdout | Stderr):
                data += event.data
    # Without the first four bytes, which had gone already.
    assert data == b"!\xa9\xff\xe2"
    starts = [seen.query["from"] for seen in gateway.requests("GET", "/output")]
    assert starts == ["0", "4", "5"]


async def test_no_such_process(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        process = sb.commands.connect(99)
        with pytest.raises(NotFound):
            await process.info()
        await process.kill()
        other = await sb.commands.start("cat")
        with pytest.raises(BelljarError) as caught:
            await other.write_stdin("x")
        assert caught.value.code == "no_stdin"
