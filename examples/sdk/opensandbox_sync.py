"""The same as opensandbox.py, without `async`."""

import os

from belljar.sync import Sandbox

TEMPLATE = os.environ.get("TEMPLATE", "base")

with Sandbox.create(template=TEMPLATE) as sb:
    result = sb.commands.run("python3 -c 'print(1+1)'")
    print(result.stdout)  # "2\n"

    sb.files.write("/tmp/hello.py", "print('hello')")
    result = sb.commands.run("python3 /tmp/hello.py")
    print(result.stdout)  # "hello\n"
