"""`make autobahn`: the cases of the Autobahn test suite against the gateway's WebSocket stack.

    run.py ECHO

ECHO is the binary of examples/echo.rs. Every case of the suite is run by `kosoku`, most with the
gateway's own bounds. Those that send messages larger than the gateway takes are run with the bounds
lifted. A case that does not pass is named here with its reason; one that is not fails the run, and
so does a reason for which there is no such case.
"""

import asyncio
import fnmatch
import socket
import subprocess
import sys
from collections import Counter

from kosoku import FailureError, run_fuzzingclient

# Cases with messages of up to 16 MiB; the gateway takes 64 KiB.
LARGE = ["9.*"]
LARGE_BOUND = 16 << 20

# At a time. A case is one connection.
CONCURRENCY = 4

# The whole of a run takes half a minute.
DEADLINE_S = 300

# What a case may come to besides OK, and why.
REASONS = {
    ("6.4.[34]", "NON-STRICT"): "a text frame is looked at when it is whole, not byte by byte: it is "
    "at most 64 KiB, and refused either way",
    ("7.1.6", "INFORMATIONAL"): "a message of 256 KiB: over the bound of 64 KiB",
    ("7.13.[12]", "INFORMATIONAL"): "a close code that the standard says nothing of",
    ("1[23].*", "UNIMPLEMENTED"): "permessage-deflate is not offered: it costs memory for each "
    "connection, and a compressed keystroke tells its length",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def cases(echo: str, bounds: list[str], **which) -> dict:
    """Run cases against an echo server with these bounds; what each came to."""
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen([echo, address, *bounds], stdout=subprocess.PIPE)
    try:
        server.stdout.readline()  # It listens.
        return await run_fuzzingclient(address, concurrency=CONCURRENCY, **which)
    except FailureError as failure:
        return failure.results
    finally:
        server.kill()
        server.wait()


def explained(result) -> tuple[str, str] | None:
    """Which entry of REASONS this result is, if any."""
    for pattern, behavior in REASONS:
        if fnmatch.fnmatch(result.case_id, pattern) and result.behavior.value == behavior:
            return pattern, behavior
    return None


async def main(echo: str) -> int:
    results = [
        *await cases(echo, [], exclude_cases=LARGE),
        *await cases(echo, [str(LARGE_BOUND)], cases=LARGE),
    ]
    failed = 0
    seen = Counter()
    for result in results:
        told = "OK"
        if not (result.behavior.value == "OK" and result.behavior_close.value == "OK"):
            entry = explained(result)
            seen[entry] += 1
            failed += entry is None
            told = result.behavior.value if entry else f"FAILED: {result!r}"
        print(f"{result.case_id:10} {told}")
    print(f"\n{len(results)} cases: {len(results) - seen.total()} OK, {failed} failed")
    for entry, why in REASONS.items():
        pattern, behavior = entry
        print(f"  {seen[entry]:3} {behavior} ({pattern}): {why}")
    gone = [pattern for pattern, behavior in REASONS if not seen[pattern, behavior]]
    for pattern in gone:
        print(f"no case {pattern} needs its reason any more: remove it")
    return 1 if failed or gone else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(asyncio.wait_for(main(sys.argv[1]), DEADLINE_S)))
