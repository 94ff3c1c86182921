"""A gateway that plays the contract in memory, its failures too. It runs in threads of its own, so that asynchronous
and synchronous tests are the same."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import select
import struct
import tarfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "bj_test_key"
# How long a fake program waits for its client to go, seconds: longer than any test.
FOREVER = 30.0


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Fault:
    """What happens to the next request instead of its answer."""

    status: int = 503
    body: bytes = b'{"error":"unavailable","message":"Not now."}'
    headers: dict[str, str] = field(default_factory=dict)
    # Breaks the connection: `before` it is handled, or `after` it was, without an answer.
    drop: str | None = None


@dataclass
class FakeSandbox:
    info: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {"/tmp", "/home/user"})
    processes: dict[int, dict[str, Any]] = field(default_factory=dict)
    ptys: dict[str, dict[str, Any]] = field(default_factory=dict)


class FakeGateway:
    def __init__(self) -> None:
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.by_key: dict[str, str] = {}
        self.seen: list[Seen] = []
        self.faults: deque[Fault] = deque()
        self.lock = threading.RLock()
        # A program's client went away before the program had ended.
        self.abandoned = threading.Event()
        # A request that is told to wait has arrived, and may go on.
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        self.hold_creates = False
        self.page_size = 2
        self.most_entries = 10_000
        self.fail_upgrades: Fault | None = None
        # After how many events the next streams break.
        self.break_after: deque[int] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def requests(self, method: str, end: str = "") -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and seen.path.endswith(end)]


class Refused(Exception):
    def __init__(self, status: int, error: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"status": status, "error": error, "title": error, "detail": message, "message": message, **more}


def _handler(gateway: FakeGateway) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        fake = gateway

    return Handler


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGateway
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_all()

    do_POST = do_PUT = do_DELETE = do_GET

    def handle_all(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.read_body()
        if body is None:
            self.close_connection = True
            return
        fake = self.fake
        seen = Seen(self.command, unquote(parts.path), query, self.headers, body)
        with fake.lock:
            fake.seen.append(seen)
            fault = fake.faults.popleft() if fake.faults else None
            if fake.fail_upgrades is not None and self.headers.get("Upgrade"):
                fault = fake.fail_upgrades
        if fault is not None and fault.drop == "before":
            self.drop()
            return
        if fault is not None and fault.drop is None:
            headers = {"Content-Type": "application/problem+json"} | fault.headers
            self.answer(fault.status, fault.body, headers)
            return
        if fault is not None:
            self.answer = lambda *_, **__: self.drop()  # type: ignore[method-assign]
        try:
            self.route(seen)
        except Refused as refused:
            self.answer(refused.status, json.dumps(refused.body).encode(), {"Content-Type": "application/problem+json"})
        except (BrokenPipeError, ConnectionResetError):
            fake.abandoned.set()
            self.close_connection = True
        finally:
            self.__dict__.pop("answer", None)

    def read_body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while True:
            line = self.rfile.readline()
            if not line:
                return None
            size = int(line, 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return body

    # --- answers

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

    def events(self, events: Iterator[tuple[str, dict[str, Any]]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        left = self.fake.break_after.popleft() if self.fake.break_after else -1
        self.chunk(b": hello\n\n")
        for name, data in events:
            if left == 0:
                self.drop()
                return
            left -= 1
            event = f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()
            # In two pieces, wherever that cuts it.
            self.chunk(event[: len(event) // 2])
            self.chunk(event[len(event) // 2 :])
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

    def wait_for_leaving(self) -> None:
        """Until the client has closed the connection."""
        ready, _, _ = select.select([self.connection], [], [], FOREVER)
        if ready and self.connection.recv(1) == b"":
            self.fake.abandoned.set()
        self.close_connection = True

    # --- routes

    def route(self, seen: Seen) -> None:
        key = self.headers.get("X-API-Key") or (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        key = key or seen.query.get("api_key", "")
        if not key:
            raise Refused(401, "key_missing", "This needs a key.")
        if key != KEY:
            raise Refused(403, "key_refused", "This key is not known.")
        path = seen.path.removeprefix("/api/v1").strip("/").split("/")
        match (seen.method, path):
            case ("POST", ["sandboxes"]):
                self.create(seen)
            case ("GET", ["sandboxes"]):
                self.list_sandboxes(seen)
            case (_, ["templates", *rest]):
                self.templates(seen, rest)
            case (_, ["sandboxes", id, *rest]):
                if id not in self.fake.sandboxes:
                    raise Refused(404, "sandbox_not_found", "There is no such sandbox.")
                self.sandbox(seen, id, self.fake.sandboxes[id], rest)
            case _:
                raise Refused(404, "no_route", "There is nothing at this address.")

    def create(self, seen: Seen) -> None:
        order = seen.json
        fake = self.fake
        if order.get("template") == "nothing":
            raise Refused(400, "no_such_template", 'template: there is no "nothing".')
        idempotency = self.headers["Idempotency-Key"]
        with fake.lock:
            id = fake.by_key.setdefault(idempotency, uuid.uuid4().hex)
            info = {
                "id": id,
                "sandboxID": id,
                "template": order.get("template", "base"),
                "image": order.get("image"),
                "status": "running",
                "createdAt": "2030-01-02T03:04:05.123456789Z",
                "expiresAt": "2030-01-02T03:09:05Z",
                "metadata": order.get("metadata", {}),
                "cpus": order.get("cpus", 0.5),
                "memoryMB": order.get("memoryMB", 128),
                "cwd": order.get("cwd", "/home/user"),
                "timeout": order.get("timeout", 300),
            }
            fake.sandboxes.setdefault(id, FakeSandbox(info))
        if fake.hold_creates:
            fake.arrived.set()
            fake.go_on.wait(FOREVER)
        self.json(201, info)

    def list_sandboxes(self, seen: Seen) -> None:
        query = seen.query
        wanted = {name.removeprefix("metadata."): value for name, value in query.items() if name[:9] == "metadata."}
        all_of_them = [
            sandbox.info
            for sandbox in self.fake.sandboxes.values()
            if wanted.items() <= sandbox.info["metadata"].items()
            and query.get("template", sandbox.info["template"]) == sandbox.info["template"]
        ]
        start = int(query.get("cursor", 0))
        end = start + min(self.fake.page_size, int(query.get("limit", 1000)))
        headers = {}
        if end < len(all_of_them):
            headers["Link"] = f'<http://elsewhere.invalid/api/v1/sandboxes?cursor={end}>; rel="next"'
        self.json(200, all_of_them[start:end], headers)

    def templates(self, seen: Seen, rest: list[str]) -> None:
        template = {"name": "base", "image": "belljar-sandbox:latest"}
        match (seen.method, rest):
            case ("GET", []):
                self.json(200, [template])
            case ("GET", ["base"]):
                self.json(200, template)
            case ("POST", []):
                self.json(201, {"name": seen.json["name"], "image": "built", "status": "ready"})
            case ("DELETE", [_]):
                self.answer(204)
            case _:
                raise Refused(404, "no_such_template", "There is no such template.")

    def sandbox(self, seen: Seen, id: str, sandbox: FakeSandbox, rest: list[str]) -> None:
        match (seen.method, rest):
            case ("GET", []):
                self.json(200, sandbox.info)
            case ("DELETE", []):
                with self.fake.lock:
                    self.fake.sandboxes.pop(id, None)
                self.answer(204)
            case ("POST", ["timeout"]):
                sandbox.info["timeout"] = seen.json["timeout"]
                self.answer(204)
            case ("POST", ["actions"]):
                sandbox.info["status"] = {"stop": "stopped", "restart": "running"}[seen.json["action"]]
                self.json(200, sandbox.info)
            case ("GET", ["stats"]):
                self.json(200, {"cpuMs": 12, "memoryBytes": 1 << 20, "processes": 3, "uptimeMs": 5000})
            case ("POST", ["code"]):
                order = seen.json
                self.json(200, _result(stdout=f"{order['language']}: {order['code']}\n"))
            case ("POST", ["commands"]):
                self.run_command(seen.json, sandbox)
            case (_, ["processes", *more]):
                self.process(seen, sandbox, more)
            case (_, ["files", *more]):
                self.files(seen, sandbox, "/".join(more))
            case (_, ["pty", *more]):
                self.pty(seen, sandbox, id, more)
            case ("GET", ["ports", "8000", *_]):
                self.answer(200, b"from inside")
            case _:
                raise Refused(404, "no_route", "There is nothing at this address.")

    def run_command(self, order: dict[str, Any], sandbox: FakeSandbox) -> None:
        events, exit = _play(order)
        if order["mode"] == "background":
            number = len(sandbox.processes) + 1
            output = [(name, data) for name, data in events if data is not None]
            sandbox.processes[number] = {"output": output, "exit": exit, "stdin": b"", "order": order, "signals": []}
            self.json(202, {"process": number})
        elif order["mode"] == "stream":
            self.events(self.stream(events, exit))
        elif order["command"] == "sleep":
            self.fake.arrived.set()
            self.wait_for_leaving()
        else:
            said = {name: b"".join(data or b"" for one, data in events if one == name) for name in ("stdout", "stderr")}
            self.json(200, _result(**{name: data.decode("utf-8", "replace") for name, data in said.items()}, **exit))

    def stream(self, events: list[Any], exit: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "start", {"process": 1}
        for name, data in events:
            if data is None:
                self.fake.arrived.set()
                self.wait_for_leaving()
                return
            yield name, _encoded(data)
        yield "something-new", {"to": "be passed over"}
        yield "exit", _result(**exit)

    def process(self, seen: Seen, sandbox: FakeSandbox, rest: list[str]) -> None:
        if not rest:
            self.json(200, [_process(number, process) for number, process in sandbox.processes.items()])
            return
        process = sandbox.processes.get(int(rest[0]))
        if process is None:
            raise Refused(404, "no_process", "There is no such process.")
        match (seen.method, rest[1:]):
            case ("GET", []):
                self.json(200, _process(int(rest[0]), process))
            case ("DELETE", []):
                process["exit"] = {"exitCode": 137, "signal": "SIGKILL"}
                process["killed"] = True
                self.answer(204)
            case ("POST", ["signal"]):
                process["signals"].append(seen.json["signal"])
                self.answer(204)
            case ("POST", ["stdin"]):
                if not process["order"].get("stdin"):
                    raise Refused(409, "no_stdin", "This process reads nothing.")
                process["stdin"] += seen.body
                process["eof"] = seen.query.get("eof") == "true"
                self.answer(204)
            case ("GET", ["output"]):
                events = self.output(process, int(seen.query["from"]))
                if seen.query["follow"] == "true":
                    self.events(events)
                else:
                    text = "".join(data["data"] for name, data in events if name == "stdout")
                    info = _process(int(rest[0]), process)
                    start = max(4, int(seen.query["from"]))
                    self.json(200, info | {"stdout": text, "stderr": "", "from": start, "offset": info["outputEnd"]})
            case _:
                raise Refused(404, "no_route", "There is nothing at this address.")

    def output(self, process: dict[str, Any], start: int) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "start", {"process": 1}
        # The first 4 bytes have left the ring already.
        if start < 4:
            yield "gap", {"from": start, "to": 4}
            start = 4
        at = 0
        for name, data in process["output"]:
            if at + len(data) > start:
                yield name, _encoded(data[max(0, start - at) :]) | {"offset": at + len(data)}
            at += len(data)
        yield "exit", _exit(process)

    def files(self, seen: Seen, sandbox: FakeSandbox, route: str) -> None:
        path = seen.query.get("path", "")
        files = sandbox.files
        match (seen.method, route):
            case ("GET", ""):
                data = _known(sandbox, path)
                if path in sandbox.directories:
                    raise Refused(400, "is_a_directory", f"{path} is a directory.")
                start = int(seen.query.get("offset", 0))
                self.answer(200, data[start : start + int(seen.query.get("length", len(data)))])
            case ("PUT", ""):
                if len(seen.body) > 1 << 20:
                    raise Refused(507, "no_space", "The disk is full.")
                if path in sandbox.directories:
                    raise Refused(409, "is_a_directory", f"{path} is a directory.")
                files[path] = seen.body
                self.answer(204)
            case ("DELETE", ""):
                _known(sandbox, path)
                if path in sandbox.directories:
                    below = [name for name in files if name.startswith(path + "/")]
                    if below and seen.query.get("recursive") != "true":
                        raise Refused(409, "not_empty", f"{path} is not empty.")
                    for name in below:
                        del files[name]
                    sandbox.directories.discard(path)
                files.pop(path, None)
                self.answer(204)
            case ("GET", "stat"):
                _known(sandbox, path)
                self.json(200, _info(sandbox, path))
            case ("GET", "list"):
                below = sorted(name for name in files if name.startswith(path.rstrip("/") + "/"))
                most = min(int(seen.query["limit"]), self.fake.most_entries)
                truncated = "true" if len(below) > most else "false"
                self.json(200, [_info(sandbox, name) for name in below[:most]], {"X-Truncated": truncated})
            case ("GET", "glob"):
                suffix = seen.query["pattern"].rsplit("*", 1)[1]
                self.json(200, [_info(sandbox, name) for name in sorted(files) if name.endswith(suffix)])
            case ("GET", "watch"):
                self.events(self.changes(path))
            case ("POST", "mkdir"):
                sandbox.directories.add(path)
                self.answer(204)
            case ("POST", "move"):
                files[seen.json["to"]] = files.pop(seen.json["from"])
                self.answer(204)
            case ("GET", "archive"):
                self.answer(200, _tar(files, path, seen.query))
            case ("PUT", "archive"):
                with tarfile.open(fileobj=io.BytesIO(seen.body)) as tar:
                    for entry in tar:
                        if entry.isdir():
                            sandbox.directories.add(f"{path}/{entry.name}")
                            continue
                        source = tar.extractfile(entry) if entry.isreg() else None
                        files[f"{path}/{entry.name}"] = source.read() if source else entry.linkname.encode()
                self.answer(204)
            case _:
                raise Refused(404, "no_route", "There is nothing at this address.")

    def changes(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "ready", {}
        yield "created", {"path": f"{path}/a", "isDir": False}
        yield "renamed", {"from": f"{path}/a", "path": f"{path}/b", "isDir": True}
        self.wait_for_leaving()

    def pty(self, seen: Seen, sandbox: FakeSandbox, id: str, rest: list[str]) -> None:
        match (seen.method, rest):
            case ("POST", []):
                pty = uuid.uuid4().hex
                sandbox.ptys[pty] = {"size": (seen.json["cols"], seen.json["rows"]), "order": seen.json}
                self.json(201, {"sessionID": pty, "id": pty, "sandboxID": id})
            case ("POST", [pty, "resize"]):
                sandbox.ptys[pty]["size"] = (seen.json["cols"], seen.json["rows"])
                self.answer(204)
            case ("DELETE", [pty]):
                if sandbox.ptys.pop(pty, None) is None:
                    raise Refused(404, "no_such_pty", "There is no such terminal.")
                self.answer(204)
            case ("GET", [pty]):
                if pty not in sandbox.ptys:
                    raise Refused(404, "no_such_pty", "There is no such terminal.")
                self.websocket()
            case _:
                raise Refused(404, "no_route", "There is nothing at this address.")

    def websocket(self) -> None:
        """Echoes what is typed, until `exit` is, or `break`."""
        magic = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(magic.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        self.frame(2, b"$ ")
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                self.fake.abandoned.set()
                return
            opcode, size = head[0] & 15, head[1] & 127
            if size == 126:
                (size,) = struct.unpack(">H", self.rfile.read(2))
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(size)))
            if opcode == 8 or data == b"exit\n":
                self.frame(8, data[:2] if opcode == 8 else struct.pack(">H", 1000))
                return
            if data == b"stop\n":
                self.frame(8, struct.pack(">H", 1001) + b"sandbox_ended")
                return
            if data == b"break\n":
                self.drop()
                return
            if opcode in (1, 2):
                self.frame(2, data)

    def frame(self, opcode: int, data: bytes) -> None:
        assert len(data) < 126
        self.wfile.write(bytes([0x80 | opcode, len(data)]) + data)


def _play(order: dict[str, Any]) -> tuple[list[tuple[str, bytes | None]], dict[str, Any]]:
    """What a program says, None where it waits for ever, and how it ends."""
    command = order["command"]
    line = command if isinstance(command, str) else " ".join(command)
    if line.startswith("echo "):
        return [("stdout", line[5:].encode() + b"\n")], {"exitCode": 0}
    plays: dict[str, Callable[[], tuple[list[tuple[str, bytes | None]], dict[str, Any]]]] = {
        "cat": lambda: ([("stdout", str(order.get("stdin", "")).encode())], {"exitCode": 0}),
        "env": lambda: ([("stdout", json.dumps([order.get("env"), order.get("cwd")]).encode())], {"exitCode": 0}),
        "both": lambda: ([("stdout", b"out"), ("stderr", b"err")], {"exitCode": 3}),
        "split": lambda: ([("stdout", b"caf\xc3"), ("stderr", b"!"), ("stdout", b"\xa9\xff\xe2")], {"exitCode": 0}),
        "sleep": lambda: ([("stdout", b"..."), ("stdout", None)], {"exitCode": 0}),
        "slow": lambda: ([], {"exitCode": 124, "timedOut": True}),
    }
    if line not in plays:
        return [("stderr", b"not found\n")], {"exitCode": 127}
    return plays[line]()


def _result(**fields: Any) -> dict[str, Any]:
    result = {"exitCode": 0, "signal": None, "stdout": "", "stderr": "", "timedOut": False, "truncated": False}
    return result | fields


def _encoded(data: bytes) -> dict[str, Any]:
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"dataBase64": base64.b64encode(data).decode()}


def _process(number: int, process: dict[str, Any]) -> dict[str, Any]:
    end = sum(len(data) for _, data in process["output"])
    command = process["order"]["command"]
    return {
        "process": number,
        "pid": 100 + number,
        "command": command,
        "background": True,
        "outputStart": 4,
        "outputEnd": end,
        "running": not process.get("killed"),
        **(_exit(process) if process.get("killed") else {}),
    }


def _exit(process: dict[str, Any]) -> dict[str, Any]:
    exit: dict[str, Any] = process["exit"]
    return {"signal": None, "timedOut": False} | exit


def _known(sandbox: FakeSandbox, path: str) -> bytes:
    if path not in sandbox.files and path not in sandbox.directories:
        raise Refused(404, "not_found", f"There is no {path}.")
    return sandbox.files.get(path, b"")


def _info(sandbox: FakeSandbox, path: str) -> dict[str, Any]:
    directory = path in sandbox.directories
    return {
        "name": path.rsplit("/", 1)[1],
        "path": path,
        "kind": "directory" if directory else "file",
        "isDir": directory,
        "size": len(sandbox.files.get(path, b"")),
        "mode": "0644",
        "modifiedMs": 1893553445000,
    }


def _tar(files: dict[str, bytes], path: str, query: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            if name.startswith(path + "/"):
                entry = tarfile.TarInfo(name.removeprefix(path + "/"))
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        if path == "/tmp/hostile":
            link = tarfile.TarInfo("link")
            link.type, link.linkname = tarfile.SYMTYPE, "/"
            tar.addfile(link)
            entry = tarfile.TarInfo("../outside")
            tar.addfile(entry, io.BytesIO())
    return out.getvalue()
