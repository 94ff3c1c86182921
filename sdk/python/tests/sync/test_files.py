# Made by tools/make_sync.py from tests/aio/test_files.py: change that.
from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake import FakeGateway, Fault

from belljar.sync import FileChange, FileError, FileKind, NotFound, Sandbox, TooLarge, UnexpectedAnswer


def test_files(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        sb.files.write("/tmp/ä b.py", "print('é')", mode=0o755)
        [seen] = gateway.requests("PUT")
        assert seen.query == {"path": "/tmp/ä b.py", "mode": "755", "mkdirs": "true"}
        assert sb.files.read_text("/tmp/ä b.py") == "print('é')"
        assert sb.files.read("/tmp/ä b.py", offset=1, length=4) == b"rint"
        pieces = [chunk for chunk in sb.files.stream("/tmp/ä b.py")]
        assert b"".join(pieces) == "print('é')".encode()
        info = sb.files.stat("/tmp/ä b.py")
        assert (info.kind, info.size, info.mode, info.is_dir) == (FileKind.FILE, 11, 0o644, False)
        assert (sb.files.stat("/tmp")).is_dir
        assert [file.name for file in sb.files.list("/tmp")] == ["ä b.py"]
        assert [file.name for file in sb.files.glob("*.py", "/tmp")] == ["ä b.py"]
        sb.files.move("/tmp/ä b.py", "/tmp/c.py")
        assert sb.files.exists("/tmp/c.py")
        assert not sb.files.exists("/tmp/ä b.py")
        sb.files.mkdir("/tmp/d")
        sb.files.write("/tmp/d/e", b"\x00\xff")
        gateway.most_entries = 1
        assert len(sb.files.list("/tmp", limit=1)) == 1
        with pytest.raises(TooLarge):
            sb.files.list("/tmp")
        with pytest.raises(FileError) as caught:
            sb.files.remove("/tmp/d")
        assert caught.value.code == "not_empty"
        sb.files.remove("/tmp/d", recursive=True)
        assert not sb.files.exists("/tmp/d/e")


def test_a_file_that_is_missing_is_not_a_sandbox_that_is(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        with pytest.raises(NotFound):
            sb.files.read("/tmp/none")
        sb.kill()
        with pytest.raises(NotFound, match="sandbox"):
            sb.files.exists("/tmp/none")


def test_a_full_disk(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        with pytest.raises(TooLarge, match="full") as caught:
            sb.files.write("/tmp/big", bytes(2 << 20))
        assert caught.value.code == "no_space"


def test_a_write_is_repeated_an_upload_is_not(gateway: FakeGateway, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")
    with Sandbox.create() as sb:
        gateway.faults += [Fault(503), Fault(drop="after")]
        sb.files.write("/tmp/f", b"data")
        assert len(gateway.requests("PUT")) == 3
        gateway.faults += [Fault(503)]
        with pytest.raises(Exception, match="Not now"):
            sb.files.upload(tmp_path / "f", "/tmp/f")
        assert len(gateway.requests("PUT")) == 4


def test_a_file_up_and_down(gateway: FakeGateway, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "up").write_bytes(data)
    with Sandbox.create() as sb:
        sb.files.upload(tmp_path / "up", "/tmp/f")
        assert gateway.requests("PUT")[-1].headers["Content-Length"] == "300000"
        sb.files.download("/tmp/f", tmp_path / "down")
        assert (tmp_path / "down").read_bytes() == data
        with pytest.raises(TooLarge):
            sb.files.download("/tmp/f", tmp_path / "down", max_bytes=1000)
        with pytest.raises(NotFound):
            sb.files.download("/tmp/none", tmp_path / "none")
    # The earlier one is whole, and nothing lies beside it.
    assert (tmp_path / "down").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["down", "up"]


def test_a_directory_up_and_down(gateway: FakeGateway, tmp_path: Path) -> None:
    up = tmp_path / "up"
    (up / "sub" / ("n" * 150)).mkdir(parents=True)
    (up / "a").write_bytes(b"a" * 1000)
    (up / "sub" / ("n" * 150) / "ü").write_bytes(bytes(512))
    (up / "link").symlink_to("a")
    with Sandbox.create() as sb:
        sb.files.mkdir("/tmp/d")
        sb.files.upload(up, "/tmp/d")
        assert sb.files.read("/tmp/d/a") == b"a" * 1000
        assert sb.files.read("/tmp/d/link") == b"a"
        sb.files.download("/tmp/d", tmp_path / "down")
        pieces = [chunk for chunk in sb.files.pack("/tmp/d")]
        sb.files.unpack(b"".join(pieces), "/tmp/e")
        assert sb.files.read("/tmp/e/a") == b"a" * 1000
    assert (tmp_path / "down" / "a").read_bytes() == b"a" * 1000
    assert (tmp_path / "down" / "sub" / ("n" * 150) / "ü").read_bytes() == bytes(512)


def test_an_archive_does_not_lead_out_of_its_directory(gateway: FakeGateway, tmp_path: Path) -> None:
    with Sandbox.create() as sb:
        sb.files.mkdir("/tmp/hostile")
        with pytest.raises(UnexpectedAnswer, match="outside"):
            sb.files.download("/tmp/hostile", tmp_path / "down")
        sb.files.mkdir("/tmp/large")
        sb.files.write("/tmp/large/zeros", bytes(100_000))
        with pytest.raises(TooLarge):
            sb.files.download("/tmp/large", tmp_path / "large", max_bytes=60_000)
    assert os.listdir(tmp_path / "down") == []
    assert not (tmp_path / "outside").exists()


def test_watch(gateway: FakeGateway) -> None:
    with Sandbox.create() as sb:
        changes = []
        with sb.files.watch("/tmp", recursive=True) as watch:
            for change in watch:
                changes.append(change)
                if len(changes) == 2:
                    break
        assert changes == [FileChange("created", "/tmp/a"), FileChange("renamed", "/tmp/b", "/tmp/a", True)]
        assert gateway.abandoned.wait(10)
