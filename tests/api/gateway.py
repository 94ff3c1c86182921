"""A gateway with real sandboxes, for tests that come from outside."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

# Nothing that is asked of a gateway takes longer; a sandbox starts in half a second.
DEADLINE_S = 60


class Gateway:
    """A gateway on a free port, and what is asked of it."""

    def __init__(self, binary: str, agent: str, directory: str, **settings: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BELLJAR_")}
        environment |= {
            "BELLJAR_LISTEN": f"127.0.0.1:{port}",
            "BELLJAR_AGENT": os.path.abspath(agent),
            "BELLJAR_RUN_DIR": directory,
            "BELLJAR_DOCKER__NAMESPACE": f"api-{port}",
            # What the machine's own user may do is not for these tests to use up.
            "BELLJAR_API__KEYS_FILE": str(Path(directory) / "keys.toml"),
        } | {f"BELLJAR_{name}": value for name, value in settings.items()}
        self.log = open(Path(directory) / "gateway.log", "w+")
        self.process = subprocess.Popen(
            [binary, "serve"], env=environment, stdout=self.log, stderr=subprocess.STDOUT
        )
        until = time.monotonic() + DEADLINE_S
        while self.ask("GET", "/health")[0] != 200:
            if time.monotonic() > until or self.process.poll() is not None:
                self.stop()
                raise SystemExit("the gateway did not come up:\n" + self.said())
            time.sleep(0.1)

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-8000:]

    def stop(self):
        # SIGTERM would leave the sandboxes to a next gateway.
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def ask(self, method: str, path: str, body=None, headers=None) -> tuple[int, bytes]:
        """A request of our own: its status, 0 if there was no answer, and its answer."""
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def sandbox(self, **order) -> str:
        status, answer = self.ask("POST", "/sandboxes", {"templateID": "base"} | order)
        assert status == 201, (status, answer)
        return json.loads(answer)["sandboxID"]
