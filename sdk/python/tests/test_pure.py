"""What needs no gateway."""

from __future__ import annotations

import io
import tarfile
from datetime import datetime, timezone
from pathlib import Path

import pytest

from belljar import (
    AtCapacity,
    AuthError,
    Conflict,
    FileError,
    InvalidRequest,
    NotFound,
    NotRunning,
    ServerError,
    TooLarge,
    UnexpectedAnswer,
    _sse,
    _tar,
)
from belljar import _retry as retry
from belljar._options import DEFAULT_URL, read_options, segment
from belljar.errors import of_problem


def test_delays_grow_are_cut_at_random_and_have_an_end() -> None:
    assert [retry.delay(n, None, lambda: 1.0) for n in range(3)] == [0.25, 0.5, 1.0]
    assert [retry.delay(n, None, lambda: 0.0) for n in range(3)] == [0.125, 0.25, 0.5]
    assert retry.delay(10_000, None, lambda: 1.0) == retry.MAX_DELAY


def test_retry_after_is_a_least_time_up_to_a_bound() -> None:
    assert retry.delay(0, 5, lambda: 0.0) == 5
    assert (retry.delay(0, 5) or 0) >= 5
    assert retry.delay(0, retry.MAX_RETRY_AFTER, lambda: 0.0) == retry.MAX_RETRY_AFTER
    assert retry.delay(0, retry.MAX_RETRY_AFTER + 1) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 0 ", 0),
        ("Wed, 02 Jan 2030 03:04:35 GMT", 30),
        ("Wed, 02 Jan 2030 03:04:00 GMT", 0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        (None, None),
    ],
)
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert retry.parse_retry_after(value, now) == seconds


def test_events_are_the_same_wherever_they_are_cut() -> None:
    stream = ": hi\n\nevent: a\ndata: {é\ndata:1}\nid: 3\n\r\ndata: x\r\n\r\nevent: none\n\nevent: half\n".encode()
    whole = [("a", "{é\n1}"), ("message", "x")]
    for size in range(1, len(stream) + 1):
        decoder = _sse.Decoder()
        events = [
            (event.name, event.data)
            for start in range(0, len(stream), size)
            for event in decoder.feed(stream[start : start + size])
        ]
        assert events == whole


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: " + b"x" * 65536 + b"\n"])
def test_an_event_without_end_is_refused(piece: bytes) -> None:
    decoder = _sse.Decoder()
    with pytest.raises(UnexpectedAnswer):
        for _ in range(2 * _sse.MAX_EVENT // len(piece)):
            assert list(decoder.feed(piece)) == []


@pytest.mark.parametrize(
    ("status", "problem", "kind"),
    [
        (401, {"error": "key_missing"}, AuthError),
        (403, {"error": "permission_denied"}, FileError),
        (404, None, NotFound),
        (400, {"error": "not_found"}, NotFound),
        (503, {"error": "at_capacity"}, AtCapacity),
        (503, "text", ServerError),
        (409, {"error": "not_running"}, NotRunning),
        (409, {"error": "idempotency_conflict"}, Conflict),
        (507, {"error": "no_space"}, TooLarge),
        (418, [], InvalidRequest),
    ],
)
def test_problems_are_typed(status: int, problem: object, kind: type[Exception]) -> None:
    error = of_problem(status, problem)
    assert type(error) is kind
    assert error.status == status


def test_a_problem_says_when_to_come_again() -> None:
    assert of_problem(503, {"retryAfter": 3}).retry_after == 3
    assert of_problem(503, {"retryAfter": 3}, 4).retry_after == 4
    assert of_problem(503, {"retryAfter": "soon"}).retry_after is None


def test_options_are_arguments_then_environment_then_defaults() -> None:
    assert read_options(None, None, 1, 0, {}).url == DEFAULT_URL
    environ = {"BELLJAR_URL": "https://a.example/", "BELLJAR_API_KEY": "secret"}
    options = read_options(None, None, 1, 0, environ)
    assert (options.url, options.websocket_url) == ("https://a.example", "wss://a.example")
    assert options.headers == {"Authorization": "Bearer secret"}
    assert "secret" not in repr(options)
    assert read_options("http://b", "other", 1, 0, environ).api_key == "other"
    for url in ("ftp://a", "a.example", "http://"):
        with pytest.raises(ValueError, match="url"):
            read_options(url, None, 1, 0, {})


def test_an_id_is_one_part_of_a_path() -> None:
    assert segment("a/../b?c#d") == "a%2F..%2Fb%3Fc%23d"
    for text in ("", ".", ".."):
        with pytest.raises(ValueError):
            segment(text)


def archive(*entries: tarfile.TarInfo) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(bytes(entry.size)))
    out.seek(0)
    return out


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b", "a/.."])
def test_names_that_lead_out_of_an_archive_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnexpectedAnswer, match="leads out"):
        _tar.unpack(archive(tarfile.TarInfo(name)), tmp_path / "in", None)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_of_an_archive_only_files_and_directories_are_made(kind: bytes, tmp_path: Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, str(tmp_path)
    below = tarfile.TarInfo("link/file")
    below.size = 3
    assert _tar.unpack(archive(link, below), tmp_path / "in", None) == 1
    assert (tmp_path / "in" / "link" / "file").read_bytes() == bytes(3)
    assert not (tmp_path / "file").exists()


def test_half_an_archive_and_none_at_all(tmp_path: Path) -> None:
    for data in (b"no archive" * 100, archive(tarfile.TarInfo("a")).read()[:300]):
        with pytest.raises(UnexpectedAnswer):
            _tar.unpack(io.BytesIO(data), tmp_path, None)
