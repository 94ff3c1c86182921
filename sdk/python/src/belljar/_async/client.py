"""Requests: who asks, how often, how long; and errors as exceptions."""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from .. import _aio as platform
from .._options import Options, read_options, segment
from .._retry import RETRY_STATUSES, delay, parse_retry_after
from ..errors import BelljarError, ConnectionFailed, RequestTimeout, TooLarge, UnexpectedAnswer, of_problem
from ..models import Template

API = "/api/v1"
# The longest body of an error that is read, bytes.
MAX_PROBLEM = 64 * 1024
# The most pages of a list that are followed. The gateway has fewer sandboxes than this by far.
MAX_PAGES = 1000

Body = bytes | AsyncIterator[bytes] | None
Query = Mapping[str, str | int | float | bool | None]


class Client:
    """A connection pool to one gateway; thread-safe or task-safe, whichever side it is of.

    `url` falls back to BELLJAR_URL, then http://127.0.0.1:3001; `api_key` to BELLJAR_API_KEY. `timeout` is how
    long a request may take until its answer begins, in seconds, besides what a command itself may take.
    `retries` is how often a request that may be repeated is repeated.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.options: Options = read_options(url, api_key, timeout, retries)
        self.templates = Templates(self)
        self._http = httpx.AsyncClient(
            base_url=self.options.url,
            headers=self.options.headers,
            timeout=httpx.Timeout(timeout),
            # As many at once as a caller likes: the gateway has its own bounds.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"Client({self.options.url!r})"

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections. What runs in sandboxes in the foreground ends with them."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        content: Body = None,
        headers: Mapping[str, str] | None = None,
        patience: float = 0.0,
        repeatable: bool | None = None,
        undo: Callable[[Any], platform.Eventual[object]] | None = None,
    ) -> Answer:
        """One request and its whole answer. `patience`: seconds beside `timeout` that it may take. `repeatable`:
        whether doing it twice is doing it once (by default: all but POST). `undo` takes back what it did,
        if the caller is cancelled before the answer has come."""
        response = await self.open(
            method,
            path,
            query=query,
            body=body,
            content=content,
            headers=headers,
            patience=patience,
            repeatable=repeatable,
            undo=undo,
        )
        try:
            data = await _reading(response.aread)
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, data)

    async def open(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        content: Body = None,
        headers: Mapping[str, str] | None = None,
        patience: float | None = 0.0,
        repeatable: bool | None = None,
        undo: Callable[[Any], platform.Eventual[object]] | None = None,
    ) -> httpx.Response:
        """As `request`, with the answer's body still to be read. `patience`: None is without end."""
        timeout = httpx.Timeout(
            self.options.timeout, read=None if patience is None else self.options.timeout + patience
        )
        if repeatable is None:
            repeatable = method != "POST"
        if content is not None and not isinstance(content, bytes):
            # What has been read from an iterator cannot be sent again.
            repeatable = False

        async def send() -> httpx.Response:
            request = self._http.build_request(
                method,
                API + path,
                params=_query(query),
                json=body,
                content=content,
                headers=dict(headers or {}),
                timeout=timeout,
            )
            response = await self._http.send(request, stream=True)
            if undo is not None:
                # Only a whole answer says what there is to take back.
                await response.aread()
            return response

        async def take_back(response: httpx.Response) -> None:
            if response.is_success and undo is not None:
                await undo(Answer(response.status_code, response.headers, response.content).json())

        attempt = 0
        while True:
            wait: float | None = None
            try:
                response = await (send() if undo is None else platform.finish(send, take_back))
            except httpx.TimeoutException as error:
                # Not repeated: the caller has waited as long as it wanted to.
                raise RequestTimeout(f"The gateway did not answer within {self.options.timeout} s.") from error
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if repeatable and attempt < self.options.retries:
                    wait = delay(attempt, None)
                if wait is None:
                    raise ConnectionFailed(f"The gateway could not be reached: {error}") from error
            else:
                if response.is_success:
                    return response
                problem = await _problem(response)
                if repeatable and response.status_code in RETRY_STATUSES and attempt < self.options.retries:
                    wait = delay(attempt, problem.retry_after)
                if wait is None:
                    raise problem
            attempt += 1
            await platform.sleep(wait)

    async def pages(self, path: str, query: Query, limit: int | None) -> list[Any]:
        """A list over all its pages, or its first `limit` entries."""
        entries: list[Any] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            ask = dict(query)
            if limit is not None:
                ask["limit"] = limit - len(entries)
            if cursor is not None:
                ask["cursor"] = cursor
            answer = await self.request("GET", path, query=ask)
            entries += answer.array()
            before, cursor = cursor, answer.next_cursor()
            if cursor is None or cursor == before or (limit is not None and len(entries) >= limit):
                break
        return entries[:limit]


class Answer:
    """A whole answer."""

    def __init__(self, status: int, headers: httpx.Headers, data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data

    def json(self) -> Any:
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise UnexpectedAnswer("The gateway's answer is not JSON.", status=self.status) from error

    def array(self) -> list[Any]:
        value = self.json()
        if not isinstance(value, list):
            raise UnexpectedAnswer("The gateway's answer is not a list.", status=self.status)
        return value

    def next_cursor(self) -> str | None:
        """The cursor of the next page. Only that is taken from the link: a key is never sent to an address
        that an answer names."""
        links = httpx.Response(self.status, headers=self.headers).links
        url = links.get("next", {}).get("url", "")
        found = parse_qs(urlsplit(url).query).get("cursor", [])
        return found[0] if found else None


class Templates:
    """`client.templates`: what sandboxes can be started from."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self) -> builtins.list[Template]:
        answer = await self._client.request("GET", "/templates")
        return [Template.parse(value) for value in answer.array()]

    async def get(self, name: str) -> Template:
        answer = await self._client.request("GET", f"/templates/{segment(name)}")
        return Template.parse(answer.json())

    async def build(self, name: str, dockerfile: str, *, timeout: float = 600.0) -> Template:
        """Builds a template from the text of a Dockerfile. `timeout` in seconds."""
        answer = await self._client.request(
            "POST", "/templates", body={"name": name, "dockerfile": dockerfile}, patience=timeout
        )
        return Template.parse(answer.json())

    async def delete(self, name: str) -> None:
        await self._client.request("DELETE", f"/templates/{segment(name)}")


async def body_of(response: httpx.Response, max_bytes: int | None = None) -> AsyncIterator[bytes]:
    """The pieces of a body, with our errors; closes the response at the end, whichever it is."""
    taken = 0
    try:
        async for chunk in response.aiter_bytes():
            taken += len(chunk)
            if max_bytes is not None and taken > max_bytes:
                raise TooLarge(f"The answer is longer than {max_bytes} bytes.", code="too_large")
            yield chunk
    except httpx.TimeoutException as error:
        raise RequestTimeout("The gateway went silent in the middle of an answer.") from error
    except httpx.TransportError as error:
        raise ConnectionFailed(f"The connection broke in the middle of an answer: {error}") from error
    finally:
        await response.aclose()


async def _reading(read: Callable[[], platform.Eventual[bytes]]) -> bytes:
    try:
        return await read()
    except httpx.TimeoutException as error:
        raise RequestTimeout("The gateway went silent in the middle of an answer.") from error
    except httpx.TransportError as error:
        raise ConnectionFailed(f"The connection broke in the middle of an answer: {error}") from error


async def _problem(response: httpx.Response) -> BelljarError:
    data = b""
    try:
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > MAX_PROBLEM:
                break
        problem = json.loads(data)
    except (ValueError, httpx.TransportError):
        # A proxy's page, or a body that broke off: the status says enough.
        problem = None
    finally:
        await response.aclose()
    return of_problem(response.status_code, problem, parse_retry_after(response.headers.get("Retry-After")))


def _query(query: Query | None) -> dict[str, str]:
    words = {True: "true", False: "false"}
    return {
        name: words[value] if isinstance(value, bool) else str(value)
        for name, value in (query or {}).items()
        if value is not None
    }
