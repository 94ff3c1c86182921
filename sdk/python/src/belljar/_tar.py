"""Tar archives of directories, in pieces: neither way holds a whole file in memory."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from .errors import TooLarge, UnexpectedAnswer

CHUNK = 64 * 1024
_BLOCK = 512


def pack(root: Path) -> Iterator[bytes]:
    """What is below `root`, as a tar stream. Symbolic links stay links; sockets and devices are left out."""
    for path in _walk(root):
        entry = tarfile.TarInfo(path.relative_to(root).as_posix())
        status = path.lstat()
        entry.mode = status.st_mode & 0o777
        entry.mtime = int(status.st_mtime)
        if path.is_symlink():
            entry.type = tarfile.SYMTYPE
            entry.linkname = os.readlink(path)
            yield entry.tobuf(tarfile.PAX_FORMAT)
        elif path.is_dir():
            entry.type = tarfile.DIRTYPE
            yield entry.tobuf(tarfile.PAX_FORMAT)
        elif path.is_file():
            yield from _file(path, entry)
    yield bytes(2 * _BLOCK)


def _walk(root: Path) -> Iterator[Path]:
    for directory, directories, files in os.walk(root):
        directories.sort()
        here = Path(directory)
        yield from (here / name for name in directories)
        yield from (here / name for name in sorted(files))


def _file(path: Path, entry: tarfile.TarInfo) -> Iterator[bytes]:
    with path.open("rb") as file:
        left = entry.size = os.fstat(file.fileno()).st_size
        yield entry.tobuf(tarfile.PAX_FORMAT)
        while left:
            # No more than was promised, though the file may grow; less is an error.
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise OSError(f"{path} became shorter while it was read")
            left -= len(chunk)
            yield chunk
        yield bytes(-entry.size % _BLOCK)


def unpack(archive: IO[bytes], target: Path, max_bytes: int | None) -> int:
    """Unpacks into `target`, which is made if missing, and says how many entries there were.

    What a sandbox sends is not trusted. Only directories and regular files are made: without links
    nothing in the archive can lead out of `target`, and names that would are refused.
    """
    target.mkdir(parents=True, exist_ok=True)
    count = size = 0
    try:
        with tarfile.open(fileobj=archive, mode="r|") as tar:
            for entry in tar:
                path = _inside(target, entry.name)
                size += entry.size
                if max_bytes is not None and size > max_bytes:
                    raise TooLarge(f"The archive holds more than {max_bytes} bytes.", code="too_large")
                if entry.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif entry.isreg():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _extract(tar, entry, path)
                else:
                    continue
                count += 1
    except tarfile.TarError as error:
        raise UnexpectedAnswer(f"The gateway sent an archive that cannot be read: {error}.") from error
    return count


def _inside(target: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\0" in name or (os.name == "nt" and "\\" in name):
        raise UnexpectedAnswer(f"The archive has an entry that leads out of its directory: {name[:200]!r}.")
    return target.joinpath(*parts)


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(entry)
    assert source is not None, "a regular file has content"
    with path.open("wb") as file:
        while chunk := source.read(CHUNK):
            file.write(chunk)
    path.chmod(0o600 | (entry.mode & 0o777))
