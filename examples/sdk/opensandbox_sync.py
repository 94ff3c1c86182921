"""The same as opensandbox.py, without `async`."""

from belljar.sync import Sandbox

with Sandbox.create(template="python") as sb:
    result = sb.commands.run("python3 -c 'print(1+1)'")
    print(result.stdout)  # "2\n"

    sb.files.write("/tmp/hello.py", "print('hello')")
    result = sb.commands.run("python3 /tmp/hello.py")
    print(result.stdout)  # "hello\n"
