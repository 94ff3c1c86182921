"""`make conformance`: the API keeps to its own description.

    conformance.py BELLJAR AGENT SCHEMATHESIS

Starts the gateway BELLJAR, with gVisor and one key, and lets schemathesis make requests of what
`/api/openapi.json` says, valid and invalid, and check every answer against it. A server error fails it,
and so does an answer that the description does not have.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from gateway import Gateway

# A run of a few minutes on two cores. `EXAMPLES=1000` is for a night.
EXAMPLES = 25
DEADLINE_S = 900

# Answers that do not end by themselves: they have tests of their own.
ENDLESS = ["/watch$", "/ws$"]


def main(binary: str, agent: str, schemathesis: str):
    with tempfile.TemporaryDirectory() as directory:
        gateway = Gateway(
            binary,
            agent,
            directory,
            # What is made of random orders must fit on the machine, and the line must not be in its way.
            API__SANDBOXES="5",
            API__SANDBOXES_PER_HOUR="100000",
        )
        try:
            done = subprocess.run(
                [
                    schemathesis,
                    "run",
                    f"{gateway.url}/api/openapi.json",
                    "--checks=all",
                    # A JSON body with a field more is as good as one without: clients of five dialects send
                    # what only their own server knows.
                    "--exclude-checks=negative_data_rejection,positive_data_acceptance",
                    "--phases=examples,coverage,fuzzing,stateful",
                    f"--max-examples={EXAMPLES}",
                    "--request-timeout=60",
                    "--suppress-health-check=all",
                    "--continue-on-failure",
                    "--no-color",
                    *(f"--exclude-path-regex={path}" for path in ENDLESS),
                ],
                cwd=directory,
                timeout=DEADLINE_S,
                check=False,
            )
        finally:
            gateway.stop()
        if done.returncode:
            print(gateway.said())
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
