"""`make dialects`: every call of the five documents that Belljar stands for, made against it.

    replay.py BELLJAR AGENT VENVS

Starts the gateway BELLJAR, with gVisor, then
1. runs every `curl` of the documents in documents/ as it stands there, the base URL and the ids aside;
2. makes a request for every row of their tables of endpoints;
3. runs the programs of the two documents whose clients are published, with those clients, each from its
   own virtual environment below VENVS.
Says what came of each, and fails if one did not get the answer that its document shows.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway import DEADLINE_S, Gateway

HERE = Path(__file__).parent
DOCUMENTS = HERE / "documents"

# Where the documents say that their service is.
BASES = re.compile(r"http://localhost:8000|http://localhost:8080|https://sandbox\.toolkata\.dev")

# A command of the documents' shell blocks, with its continued lines and what its quotes hold.
CURL = re.compile(r"^curl(?:[^\n\\'\"]|\\\n|\\.|'[^']*'|\"(?:[^\"\\]|\\.)*\")*", re.M)


def calls(document: str) -> list[str]:
    """The `curl`s of a document that are addressed to its service."""
    text = (DOCUMENTS / document).read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [call for block in blocks for call in CURL.findall(block) if BASES.search(call)]


def run(call: str, gateway: Gateway, sandbox: str, directory: str) -> tuple[int, bytes]:
    """Run a call as it stands, the base URL and the id aside: its status and its answer."""
    call = BASES.sub(gateway.url, call).replace("{id}", sandbox).replace("{sandbox_id}", sandbox)
    written = re.search(r" -o (\S+)", call)
    script = f"{call} -sS -w '\\n%{{http_code}}'"
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, capture_output=True, timeout=DEADLINE_S, check=False
    )
    answer, _, status = done.stdout.rpartition(b"\n")
    if written:
        answer = (Path(directory) / written[1]).read_bytes()
    return int(status or 0), answer


def has(**fields):
    """Whether an answer is an object with these fields; a function is asked about its field."""

    def check(answer: bytes) -> bool:
        found = json.loads(answer)
        return all(
            name in found and (wanted(found[name]) if callable(wanted) else found[name] == wanted)
            for name, wanted in fields.items()
        )

    return check


def array(answer: bytes) -> bool:
    return isinstance(json.loads(answer), list)


def names(*wanted: str):
    return lambda answer: set(wanted) <= {entry["name"] for entry in json.loads(answer)}


def is_(wanted: bytes):
    return lambda answer: answer == wanted


any_text = lambda value: isinstance(value, str) and value != ""  # noqa: E731
SANDBOX = has(sandboxID=any_text, id=any_text, sandbox_id=any_text, status="running")
DONE = has(exitCode=0, exit_code=0)
NOTHING = is_(b"")

# What the documents' calls come to, in the order in which they stand there: status, and a look at the
# answer.
HEALTH = (200, has(status="ok", containers=lambda n: isinstance(n, int), uptime=any_text))
CALLS = {
    "toolkata-sandbox-api.md": [HEALTH, HEALTH],
    "opensandbox.md": [
        (201, SANDBOX),
        (200, has(exitCode=0, stdout="hello world\n", stderr="")),
        (204, NOTHING),
        (200, is_(b"Hello from OpenSandbox!")),
        (204, NOTHING),
    ],
    "k2-sandbox-api.md": [
        (201, SANDBOX),
        (200, lambda a: DONE(a) and json.loads(a)["stdout"] == "Hello from sandbox!\n"),
        (200, lambda a: DONE(a) and ".." in json.loads(a)["stdout"]),
        (200, lambda a: b"from-k2.txt" in a),
    ],
    "liteboxd.md": [
        (201, SANDBOX),
        (200, has(exit_code=0, stdout="hello\n", stderr="")),
        (200, has(path="/workspace/main.py")),
        (200, is_(b"the output\n")),
    ],
    "kubebox.md": [],
}

# The rows of the documents' tables of endpoints: what is asked, and what it comes to. `:id` is the
# sandbox's, `:pty` a terminal's.
JSON = "json"
ROWS = {
    "opensandbox.md": [
        ("POST", "/sandboxes", {"templateID": "base", "timeout": 300}, 201, SANDBOX),
        ("GET", "/sandboxes", None, 200, array),
        ("GET", "/sandboxes/:id", None, 200, SANDBOX),
        ("POST", "/sandboxes/:id/timeout", {"timeout": 600}, 204, NOTHING),
        ("POST", "/sandboxes/:id/commands", {"cmd": "echo", "args": ["a b"]}, 200, has(stdout="a b\n")),
        ("POST", "/sandboxes/:id/files/mkdir?path=/tmp/row", None, 204, NOTHING),
        ("PUT", "/sandboxes/:id/files?path=/tmp/row/file", b"text", 204, NOTHING),
        ("GET", "/sandboxes/:id/files?path=/tmp/row/file", None, 200, is_(b"text")),
        ("GET", "/sandboxes/:id/files/list?path=/tmp/row", None, 200, names("file")),
        ("DELETE", "/sandboxes/:id/files?path=/tmp/row", None, 204, NOTHING),
        ("POST", "/sandboxes/:id/pty", {"cols": 80, "rows": 24}, 201, has(sessionID=any_text)),
        ("DELETE", "/sandboxes/:id/pty/:pty", None, 204, NOTHING),
        ("GET", "/templates", None, 200, array),
        ("GET", "/templates/base", None, 200, has(name="base", templateID=any_text, status="ready")),
        (
            "POST",
            "/templates",
            {"name": "row", "dockerfile": "FROM belljar-sandbox:latest\nENV ROW=1\n"},
            201,
            has(name="row", templateID=any_text, status="ready"),
        ),
        ("DELETE", "/templates/row", None, 204, NOTHING),
        ("DELETE", "/sandboxes/:id", None, 204, NOTHING),
    ],
    "k2-sandbox-api.md": [
        ("GET", "/", None, 200, lambda a: b"elljar" in a),
        ("POST", "/sandboxes", {"template": "base"}, 201, SANDBOX),
        ("GET", "/sandboxes", None, 200, array),
        ("GET", "/sandboxes/:id", None, 200, SANDBOX),
        ("POST", "/sandboxes/:id/actions", {"action": "set_timeout", "timeout": 120}, 200, SANDBOX),
        ("POST", "/sandboxes/:id/code", {"code": "console.log(1+1)", "language": "node"}, 200, has(stdout="2\n")),
        ("POST", "/sandboxes/:id/command", {"command": "exit 5"}, 200, has(exit_code=5)),
        (
            "POST",
            "/sandboxes/:id/filesystem",
            {"action": "write", "path": "/tmp/row", "content": "text"},
            200,
            lambda a: True,
        ),
        ("POST", "/sandboxes/:id/filesystem", {"action": "read", "path": "/tmp/row"}, 200, has(content="text")),
        ("POST", "/sandboxes/:id/filesystem", {"action": "list", "path": "/tmp"}, 200, lambda a: b"row" in a),
        ("POST", "/sandboxes/:id/filesystem", {"action": "delete", "path": "/tmp/row"}, 200, lambda a: True),
        ("POST", "/sandboxes/:id/actions", {"action": "stop"}, 200, has(status="stopped")),
        ("POST", "/sandboxes/:id/actions", {"action": "restart"}, 200, SANDBOX),
        ("POST", "/sandboxes/:id/actions", {"action": "kill"}, 200, lambda a: True),
        ("POST", "/sandboxes", {"template": "base"}, 201, SANDBOX),
        ("DELETE", "/sandboxes/:id", None, 204, NOTHING),
    ],
    "liteboxd.md": [
        ("POST", "/api/v1/sandboxes", {"image": "belljar-sandbox:latest", "cpu": "250m", "memory": "128Mi"}, 201, SANDBOX),
        ("GET", "/api/v1/sandboxes", None, 200, array),
        ("GET", "/api/v1/sandboxes/:id", None, 200, SANDBOX),
        ("POST", "/api/v1/sandboxes/:id/exec", {"command": ["sh", "-c", "exit 6"]}, 200, has(exit_code=6)),
        ("DELETE", "/api/v1/sandboxes/:id", None, 204, NOTHING),
    ],
}


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def line(self, ok: bool, what: str, came: str = ""):
        self.passed, self.failed = self.passed + ok, self.failed + (not ok)
        print(f"  {'ok    ' if ok else 'FAILED'} {what}" + ("" if ok else f"\n         {came}"), flush=True)

    def answer(self, what: str, wanted, came: tuple[int, bytes]):
        status, look = wanted
        try:
            ok = came[0] == status and look(came[1])
        except (ValueError, KeyError, TypeError):
            ok = False
        self.line(bool(ok), what, f"{came[0]} {came[1][:300]!r}")


def curls(gateway: Gateway, report: Report, directory: str):
    (Path(directory) / "main.py").write_text("print('main')\n")
    for document, wanted in CALLS.items():
        found = calls(document)
        print(f"{document}: {len(found)} calls")
        if len(found) != len(wanted):
            report.line(False, f"{len(wanted)} calls are known", "look at CALLS")
            continue
        sandbox = ""
        for call, expected in zip(found, wanted, strict=True):
            if "filesystem" in call:
                gateway.ask("POST", f"/sandboxes/{sandbox}/commands", {"cmd": "touch /home/user/from-k2.txt"})
            if "output.txt" in call:
                line = "echo the output >/workspace/output.txt"
                gateway.ask("POST", f"/sandboxes/{sandbox}/commands", {"cmd": line})
            came = run(call, gateway, sandbox, directory)
            if came[0] == 201:
                sandbox = json.loads(came[1])["id"]
            report.answer(" ".join(shlex.split(call)[:4])[:90], expected, came)
        if sandbox:
            gateway.ask("DELETE", f"/sandboxes/{sandbox}")


def rows(gateway: Gateway, report: Report):
    for document, table in ROWS.items():
        print(f"{document}: {len(table)} endpoints")
        sandbox = pty = ""
        for method, path, body, status, look in table:
            came = gateway.ask(method, path.replace(":id", sandbox).replace(":pty", pty), body)
            if came[0] == 201:
                answer = json.loads(came[1])
                pty, sandbox = answer.get("sessionID", pty), answer.get("sandboxID", sandbox)
            report.answer(f"{method} {path}", (status, look), came)


def programs(gateway: Gateway, report: Report, venvs: str):
    print("published clients")
    for name, arguments in [("opensandbox", []), ("kubebox", [gateway.url])]:
        environment = os.environ | {"OPENSANDBOX_API_URL": gateway.url}
        python = Path(venvs) / name / "bin" / "python"
        done = subprocess.run(
            [python, HERE / f"{name}_program.py", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=4 * DEADLINE_S,
            check=False,
        )
        report.line(done.returncode == 0, f"{name}_program.py", done.stderr[-2000:])


def main(binary: str, agent: str, venvs: str):
    report = Report()
    with tempfile.TemporaryDirectory() as directory:
        gateway = Gateway(binary, agent, directory, API__BUILDS="true")
        try:
            curls(gateway, report, directory)
            rows(gateway, report)
            programs(gateway, report, venvs)
            left = json.loads(gateway.ask("GET", "/sandboxes")[1] or b"[]")
        finally:
            gateway.stop()
        if report.failed:
            print(gateway.said())
    print(f"{report.passed} of {report.passed + report.failed} pass; {len(left)} sandboxes were left at the end")
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
