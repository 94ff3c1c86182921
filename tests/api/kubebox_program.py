"""The program of Kubebox's document, for its published client as it is, from its "Connect client" on.

What comes before it makes a pod and a service by Kubernetes' own API, and tells the client its address,
which is given here: `kubebox_program.py URL`.
"""

import asyncio
import sys

from kubebox import CommandMode, SandboxClient

SESSION = "test-session"


async def main(url: str):
    client = SandboxClient(private_key="YOUR_PRIVATE_KEY", url=url)
    await client.connect()

    await client.initialize_session(SESSION, "workspace")
    result = await client.run_command(SESSION, "echo 'Hello World'", mode=CommandMode.STREAM)
    streamed = [output async for output in result]
    assert streamed[0].output.strip() == "Hello World", streamed
    assert streamed[-1].exit_code == 0, streamed

    # The document's file operations. Its client cannot hear a "yes" from `file_exists`: it takes an item
    # of a coroutine. A "no" it can.
    await client.write_file(SESSION, "path/to/file", "content", make_dirs=True)
    assert await client.get_file(SESSION, "path/to/file") == "content"
    assert not await client.file_exists(SESSION, "path/to/nothing")

    # The modes that the document names, and the rest of what its client can do.
    result = await client.run_command(SESSION, "cat path/to/file; exit 4", mode=CommandMode.WAIT)
    assert (result.stdout, result.exit_code, result.finished) == ("content", 4, True), result
    result = await client.run_command(SESSION, "pwd", mode=CommandMode.WAIT, path="path")
    assert result.stdout.strip().endswith("/path"), result

    started = await client.run_command(SESSION, "sleep 60", mode=CommandMode.BACKGROUND)
    status = await asyncio.wait_for(client.check_status(SESSION, started.process_id), 30)
    assert status.running is True, status
    killed = await client.kill_command(SESSION, started.process_id)
    assert killed.status != "not found", killed
    status = await asyncio.wait_for(client.check_status(SESSION, started.process_id), 30)
    assert status.running is False, status

    # What its document says it cannot do yet: standard error, and several at a time.
    both = await asyncio.gather(*(collect(client, f"echo out{n}; echo err{n} >&2") for n in range(3)))
    for n, (out, err) in enumerate(both):
        assert (out.strip(), err.strip()) == (f"out{n}", f"err{n}"), both

    await client.make_dirs(SESSION, "deep/er")
    paths = await client.get_all_file_paths(SESSION)
    assert any(path.endswith("path/to/file") for path in paths), paths
    await client.delete_file(SESSION, "path/to/file")
    assert not await client.file_exists(SESSION, "path/to/file")
    await client.sio.disconnect()


async def collect(client: SandboxClient, command: str) -> tuple[str, str]:
    result = await client.run_command(SESSION, command, mode=CommandMode.STREAM)
    said = {"stdout": "", "stderr": ""}
    async for output in result:
        if hasattr(output, "type"):
            said[output.type] += output.output
    return said["stdout"], said["stderr"]


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 120))
