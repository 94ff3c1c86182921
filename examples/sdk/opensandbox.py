"""A sandbox, a command, a file: the first program of most documents about sandboxes."""

import asyncio

from belljar import Sandbox


async def main() -> None:
    async with await Sandbox.create(template="python") as sb:
        result = await sb.commands.run("python3 -c 'print(1+1)'")
        print(result.stdout)  # "2\n"

        await sb.files.write("/tmp/hello.py", "print('hello')")
        result = await sb.commands.run("python3 /tmp/hello.py")
        print(result.stdout)  # "hello\n"


asyncio.run(main())
