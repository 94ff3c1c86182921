"""The three ways to run a command, streamed, waited for and in the background; and files."""

import asyncio

from belljar import Exit, Sandbox, Stderr, Stdout


async def main() -> None:
    async with Sandbox.create(template="base") as sb:
        # As it comes, standard error too, and any number at once.
        async for event in sb.commands.stream("echo 'Hello World'; echo 'oh' >&2"):
            match event:
                case Stdout(text=text) | Stderr(text=text):
                    print(text, end="")
                case Exit(exit_code=code):
                    print(f"ended with {code}")  # "ended with 0"

        # One combined result.
        print((await sb.commands.run("uname -a")).stdout)

        # In the background, looked at later.
        process = await sb.commands.start("for n in 1 2 3; do echo $n; done")
        print(await process.wait())
        print((await process.read()).stdout)  # "1\n2\n3\n"

        await sb.files.write("path/to/file", "content")
        print(await sb.files.read_text("path/to/file"))  # "content"
        print(await sb.files.exists("path/to/file"))  # "True"


asyncio.run(main())
