"""Against the gateway that BELLJAR_URL names, with its template `base`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from belljar import (
    AuthError,
    Client,
    Exit,
    FileError,
    Gap,
    InvalidRequest,
    NotFound,
    NotRunning,
    Sandbox,
    Stderr,
    Stdout,
    TooLarge,
    sync,
)

pytestmark = pytest.mark.skipif("BELLJAR_URL" not in os.environ, reason="BELLJAR_URL is not set")


async def test_a_sandbox_from_start_to_end() -> None:
    async with Sandbox.create(template="base", metadata={"test": "python"}, timeout=120) as sb:
        info = await sb.info()
        assert (info.id, info.status, info.metadata) == (sb.id, "running", {"test": "python"})
        assert sb.id in [one.id for one in await Sandbox.list(metadata={"test": "python"})]
        async with Sandbox.connect(sb.id) as again:
            assert again.id == sb.id
        assert (await sb.info()).status == "running"
        await sb.set_timeout(300)
        assert (await sb.stats()).memory_bytes
        await sb.files.write("here", "x")
        assert (await sb.stop()).status == "stopped"
        with pytest.raises(NotRunning):
            await sb.commands.run("true")
        assert (await sb.restart()).status == "running"
        assert not await sb.files.exists("here")
    with pytest.raises(NotFound):
        await Sandbox.connect(sb.id)
    with pytest.raises(InvalidRequest, match="nothing"):
        await Sandbox.create(template="nothing")


@pytest.mark.skipif(not os.environ.get("BELLJAR_API_KEY"), reason="this gateway needs no key")
async def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sandbox.create() as sb:
        async with Client(api_key="blj_000000000000_wrong") as client:
            with pytest.raises(AuthError) as caught:
                await Sandbox.connect(sb.id, client=client)
            assert caught.value.status == 403
        with monkeypatch.context() as without:
            without.delenv("BELLJAR_API_KEY")
            with pytest.raises(AuthError) as caught:
                await Sandbox.connect(sb.id)
            assert caught.value.status == 401


async def test_templates() -> None:
    async with Client() as client:
        assert "base" in [template.name for template in await client.templates.list()]
        assert (await client.templates.get("base")).status == "ready"
        with pytest.raises(NotFound):
            await client.templates.get("nothing")


async def test_commands() -> None:
    async with Sandbox.create(template="base") as sb:
        result = await sb.commands.run("echo $A; pwd; cat; exit 3", env={"A": "é"}, cwd="/tmp", stdin="typed")
        assert (result.stdout, result.exit_code) == ("é\n/tmp\ntyped", 3)
        assert (await sb.commands.run(["echo", "$A"])).stdout == "$A\n"
        late = await sb.commands.run("sleep 100", timeout=1)
        assert (late.exit_code, late.timed_out) == (124, True)
        assert (await sb.run_code("echo hello", "bash")).stdout == "hello\n"
        out = err = ""
        async for event in sb.commands.stream("echo out; echo err >&2; exit 7"):
            if isinstance(event, Stdout):
                out += event.text
            elif isinstance(event, Stderr):
                err += event.text
            elif isinstance(event, Exit):
                assert event.exit_code == 7
        assert (out, err) == ("out\n", "err\n")
        data, text = b"", ""
        async for event in sb.commands.stream(r"printf '\377\303'; sleep 0.2; printf '\251'"):
            if isinstance(event, Stdout):
                data, text = data + event.data, text + event.text
        assert (data, text) == (b"\xff\xc3\xa9", "\ufffd\xe9")
        with pytest.raises(InvalidRequest) as caught:
            await sb.commands.run(["/nowhere/nothing"])
        assert caught.value.code == "spawn_failed"
        many = await asyncio.gather(*(sb.commands.run(f"echo {n}") for n in range(20)))
        assert [result.stdout for result in many] == [f"{n}\n" for n in range(20)]


async def test_a_command_that_is_cancelled_ends() -> None:
    async with Sandbox.create(template="base") as sb:
        async with sb.commands.stream("echo started; exec sleep 1234", timeout=600) as events:
            async for event in events:
                if isinstance(event, Stdout):
                    break
        # The gateway has to notice first that nobody listens any more.
        while (await sb.commands.run("grep -qx sleep /proc/[0-9]*/comm")).exit_code == 0:
            pass


async def test_background() -> None:
    async with Sandbox.create(template="base") as sb:
        process = await sb.commands.start("cat; echo end", stdin=True)
        await process.write_stdin("typed\n")
        await process.close_stdin()
        assert await process.wait() == Exit(0)
        out = "".join([event.text async for event in process.output() if isinstance(event, Stdout)])
        assert out == "typed\nend\n"
        sleeping = await sb.commands.start("sleep 1000")
        assert (await sleeping.info()).running
        await sleeping.signal("TERM")
        assert (await sleeping.wait()).signal is not None
        await sleeping.kill()
        counting = await sb.commands.start("wc -c", stdin=True)
        await counting.write_stdin("x" * 200_000)
        await counting.close_stdin()
        await counting.wait()
        assert (await counting.read()).stdout == "200000\n"
        loud = await sb.commands.start("seq 200000")
        await loud.wait()
        events = [event async for event in loud.output()]
        assert isinstance(events[0], Gap)
        assert events[-1] == Exit(0)
        assert (await loud.read()).start == events[0].end


async def test_what_a_sandbox_does_ends_with_it() -> None:
    async with Sandbox.create(template="base") as sb:
        pty = await sb.pty.create()
        stream = sb.commands.stream("echo started; sleep 1000")
        async for event in stream:
            if isinstance(event, Stdout):
                break
        watch = sb.files.watch(".")
        async with stream, watch:
            await sb.kill()
            for endless in (pty, stream, watch):
                with pytest.raises(NotRunning):
                    async for _ in endless:
                        pass


async def test_files(tmp_path: Path) -> None:
    async with Sandbox.create(template="base") as sb:
        await sb.files.write("d/ä b", "text é", mode=0o600)
        assert await sb.files.read_text("d/ä b") == "text é"
        assert (await sb.files.stat("d/ä b")).mode == 0o600
        assert [file.name for file in await sb.files.list("d")] == ["ä b"]
        assert [file.name for file in await sb.files.glob("**/ä*")] == ["ä b"]
        await sb.files.move("d/ä b", "d/c")
        assert not await sb.files.exists("d/ä b")
        data = os.urandom(3 << 20)
        (tmp_path / "up").write_bytes(data)
        await sb.files.upload(tmp_path / "up", "large")
        assert await sb.files.read("large", offset=1000, length=10) == data[1000:1010]
        await sb.files.download("large", tmp_path / "down")
        assert (tmp_path / "down").read_bytes() == data
        (tmp_path / "tree" / "sub").mkdir(parents=True)
        (tmp_path / "tree" / "sub" / "f").write_text("x")
        await sb.files.mkdir("tree")
        await sb.files.upload(tmp_path / "tree", "tree")
        await sb.files.download("tree", tmp_path / "back")
        assert (tmp_path / "back" / "sub" / "f").read_text() == "x"
        async with sb.files.watch(".") as watch:
            await sb.files.write("touched", "x")
            async for change in watch:
                if change.path.endswith("touched"):
                    break
        with pytest.raises(FileError):
            await sb.files.remove("d")
        with pytest.raises(FileError, match="/etc/new: Permission denied"):
            await sb.files.write("/etc/new", "x")
        with pytest.raises(TooLarge):
            await sb.files.write("/tmp/too-large", bytes(20 << 20))
        await sb.commands.run("mkdir many; cd many; seq 1500 | xargs touch")
        assert len(await sb.files.list("many")) == 1500
        assert len(await sb.files.list("many", limit=10)) == 10
        await sb.commands.run("ln -s tree link")
        await sb.files.download("link", tmp_path / "linked")
        assert (tmp_path / "linked" / "sub" / "f").read_text() == "x"
        await sb.files.remove("d", recursive=True)
        with pytest.raises(NotFound):
            await sb.files.stat("d")


async def test_a_terminal() -> None:
    async with Sandbox.create(template="base") as sb, sb.pty.create(100, 30) as pty:
        await pty.resize(120, 40)
        await pty.write("stty size; exit\n")
        assert b"40 120" in b"".join([data async for data in pty])
        async with sb.pty.create(command="stty raw -echo; echo go; head -c 200000 | wc -c") as pasted:
            async for data in pasted:
                if b"go" in data:
                    break
            await pasted.write("x" * 200_000)
            assert b"200000" in b"".join([data async for data in pasted])


async def test_a_port() -> None:
    async with Sandbox.create(template="base") as sb, Client() as client:
        await sb.commands.start("python3 -m http.server 8000 --bind 127.0.0.1 || sleep 1000")
        path = f"/sandboxes/{sb.id}/ports/8000/"
        assert sb.ports.url(8000).endswith(path)
        while True:
            try:
                answer = await client.request("GET", path)
            except Exception:
                await asyncio.sleep(0.1)
            else:
                break
        assert b"Directory listing" in answer.data


def test_without_async() -> None:
    with sync.Sandbox.create(template="base") as sb:
        assert sb.commands.run("echo hello").check().stdout == "hello\n"
        with sb.pty.create() as pty:
            pty.write("exit\n")
            assert b"".join(pty)
