"""`make conformance`: the API keeps to its own description.

    conformance.py BELLJAR AGENT SCHEMATHESIS

Starts the gateway BELLJAR, with gVisor, and lets schemathesis make requests of what `/api/openapi.json`
says, valid and invalid, and check every answer against it. A server error fails it, and so does an answer
that the description does not have.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gateway import Gateway

# Requests for each operation and phase: two minutes on two idle cores. `EXAMPLES=1000` is for a night.
EXAMPLES = int(os.environ.get("EXAMPLES", "20"))
DEADLINE_S = 600 * max(1, EXAMPLES // 20)

# A JSON body with a field more is as good as one without: clients of five dialects send what only their own
# server knows. And a description cannot say which images and files there are: what it allows may be refused.
TOLERANT = "negative_data_rejection,positive_data_acceptance"

# Sandboxes and templates; what operators ask; and what is done inside a sandbox, which is done inside one that nothing ends
# meanwhile. Changes of files are told without an end: that has tests of its own.
PARTS = {
    "sandboxes": [
        r"--include-path-regex=^/(templates|sandboxes(/\{id\}(/actions|/timeout)?)?$)",
        f"--exclude-checks={TOLERANT}",
    ],
    "operators": [r"--include-path-regex=^/operator/", f"--exclude-checks={TOLERANT}"],
    "inside": [
        r"--include-path-regex=^/sandboxes/\{id\}/",
        r"--exclude-path-regex=/(actions|timeout|files/watch)$",
        # A process that has been ended is still shown, with its exit.
        f"--exclude-checks={TOLERANT},use_after_free",
    ],
}

# Random names are those of nothing, so half of the time they are names of something.
CONFIGURATION = """
hooks = "{hooks}"
warnings = false
suppress-health-check = ["all"]

[dictionaries]
paths = {{ values = ["here", "here/file", "/tmp/new", ".", "/etc/hostname", "/proc/self/status", "/root"] }}
numbers = {{ values = [1, 2, 3] }}

[[operations]]
include-path-regex = '^/sandboxes/[{{]id[}}]/(?!actions|timeout)'

[operations.parameters]
"path.id" = "{sandbox}"
"query.path" = {{ dictionary = "paths", probability = 0.5 }}
"path.process" = {{ dictionary = "numbers", probability = 0.5 }}
"path.pty" = {{ dictionary = "numbers", probability = 0.5 }}
"""


def furnished(gateway: Gateway) -> str:
    """A sandbox with a file, a process that has ended and a terminal; and no other."""
    for left in json.loads(gateway.ask("GET", "/sandboxes?limit=100")[1]):
        gateway.ask("DELETE", f"/sandboxes/{left['id']}")
    sandbox = gateway.sandbox(timeout=DEADLINE_S)
    for path, body in [
        ("files?path=here/file", b"text"),
        ("commands", {"command": "echo out; echo err >&2", "mode": "background"}),
        ("pty", {"cols": 80, "rows": 24}),
    ]:
        method = "PUT" if isinstance(body, bytes) else "POST"
        status, answer = gateway.ask(method, f"/sandboxes/{sandbox}/{path}", body)
        assert status in (201, 202, 204), (path, status, answer)
    return sandbox


def main(binary: str, agent: str, schemathesis: str):
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        gateway = Gateway(
            binary,
            agent,
            directory,
            # What is made of random orders must fit on the machine, and the line must not be in its way.
            API__SANDBOXES="5",
            API__SANDBOXES_PER_HOUR="100000",
            TEMPLATES__BASE__MEMORY="128MiB",
            TEMPLATES__BASE__POOL="0",
        )
        until = time.monotonic() + DEADLINE_S
        try:
            for part, arguments in PARTS.items():
                print(f"== {part}", flush=True)
                configuration = CONFIGURATION.format(
                    sandbox=furnished(gateway), hooks=Path(__file__).with_name("archives.py")
                )
                (Path(directory) / "schemathesis.toml").write_text(configuration)
                done = subprocess.run(
                    [
                        os.path.abspath(schemathesis),
                        "run",
                        f"{gateway.url}/api/openapi.json",
                        *arguments,
                        "--checks=all",
                        "--phases=examples,coverage,fuzzing,stateful",
                        f"--max-examples={EXAMPLES}",
                        "--request-timeout=60",
                        "--continue-on-failure",
                        "--no-color",
                    ],
                    cwd=directory,
                    timeout=max(1, until - time.monotonic()),
                    check=False,
                )
                if done.returncode:
                    failed.append(part)
        finally:
            gateway.stop()
        if failed:
            print(gateway.said())
    sys.exit(f"not as described: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
