"""The Python program of OpenSandbox's document, for its published client as it is.

Only the address differs, which the client takes from OPENSANDBOX_API_URL.
"""

import asyncio

from opensandbox import Sandbox


async def main():
    async with await Sandbox.create(template="python") as sb:
        result = await sb.commands.run("python3 -c 'print(1+1)'")
        assert result.stdout == "2\n", result

        await sb.files.write("/tmp/hello.py", "print('hello')")
        result = await sb.commands.run("python3 /tmp/hello.py")
        assert result.stdout == "hello\n", result

        # Beyond the document: the rest of what its client can do.
        assert await sb.is_running()
        await sb.set_timeout(120)
        assert await sb.files.read("/tmp/hello.py") == "print('hello')"
        assert await sb.files.exists("/tmp/hello.py")
        assert not await sb.files.exists("/tmp/nobody")
        await sb.files.make_dir("/tmp/a/b")
        entries = {entry.name: entry for entry in await sb.files.list("/tmp")}
        assert entries["a"].is_dir and entries["hello.py"].size == 14, entries
        await sb.files.remove("/tmp/a")
        assert "a" not in {entry.name for entry in await sb.files.list("/tmp")}
        result = await sb.commands.run('echo "$WHO" && pwd', env={"WHO": "me"}, cwd="/tmp")
        assert result.stdout == "me\n/tmp\n", result
        result = await sb.commands.run("echo oops >&2; exit 3")
        assert (result.exit_code, result.stderr) == (3, "oops\n"), result
        assert (await sb.commands.run("sleep 30", timeout=1)).exit_code == 124

        seen = bytearray()
        answered = asyncio.Event()

        def output(data: bytes):
            seen.extend(data)
            if b"42" in seen:
                answered.set()

        terminal = await sb.pty.create(cols=100, rows=30, on_output=output)
        await terminal.send("echo $((6*7))\n")
        await asyncio.wait_for(answered.wait(), 30)
        await terminal.close()

        again = await Sandbox.connect(sb.sandbox_id)
        assert again.status == "running"
        await again.close()


asyncio.run(main())
