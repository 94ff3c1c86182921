"""Writes the synchronous side, src/belljar/_sync and tests/sync, from the asynchronous one.

python tools/make_sync.py            writes it
python tools/make_sync.py --check    fails if it is not what would be written
"""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).resolve().parent.parent
PAIRS = {"src/belljar/_async": "src/belljar/_sync", "tests/aio": "tests/sync"}
# Names besides those that unasync knows by itself.
NAMES = {
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "_aio": "_blocking",
    "_async": "_sync",
    "aclose": "close",
    "aio": "sync",
    "aiter_bytes": "iter_bytes",
    "anext": "next",
    "aread": "read",
}
HEADER = "# Made by tools/make_sync.py from {}: change that.\n"


def generate(into: Path) -> list[Path]:
    """Writes all files, below `into`, and says which, relative to it."""
    made = []
    for source, target in PAIRS.items():
        rule = unasync.Rule(f"{ROOT / source}/", f"{into / target}/", additional_replacements=NAMES)
        files = sorted((ROOT / source).glob("*.py"))
        unasync.unasync_files([str(file) for file in files], [rule])
        for file in files:
            path = into / target / file.name
            text = path.read_text().replace("from belljar import", "from belljar.sync import")
            path.write_text(HEADER.format(f"{source}/{file.name}") + text)
            made.append(path.relative_to(into))
    # Lines are shorter without `await`, and imports in another order.
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml"), "--quiet"]
    paths = [str(into / path) for path in made]
    subprocess.run([*ruff, "check", "--select", "I", "--fix", *config, *paths], check=True)
    subprocess.run([*ruff, "format", *config, *paths], check=True)
    return made


def check() -> int:
    with tempfile.TemporaryDirectory() as directory:
        made = generate(Path(directory))
        wrong = [path for path in made if not _same(Path(directory) / path, ROOT / path)]
    there = {file.relative_to(ROOT) for target in PAIRS.values() for file in (ROOT / target).glob("*.py")}
    wrong += sorted(there - set(made))
    for path in wrong:
        print(f"{path} is not what tools/make_sync.py writes: run it, and commit the result")
    return 1 if wrong else 0


def _same(one: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(one, other, shallow=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    generate(ROOT)
