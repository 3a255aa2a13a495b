# SPDX-License-Identifier: GPL-2.0-only
"""Reading the files that a user names: bounded, and every failure a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nvmxfuzz.errors import InputError

MAX_BYTES = 1 << 20


def read_file(path: Path) -> bytes:
    """Return the content of a regular file of at most 1 MiB."""
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a file in it")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise InputError(f"cannot read {path}: {reason}") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} is larger than 1 MiB: no case is that large")
    return data


def cases_below(path: Path) -> Iterator[Path]:
    """Yield a file itself, or every .toml and .json file below a folder, in order of names."""
    if not path.is_dir():
        yield path
        return
    found = sorted(p for p in path.rglob("*") if p.suffix in (".toml", ".json") and p.is_file())
    if not found:
        raise InputError(f"{path} holds no .toml or .json file: name a folder with cases")
    yield from found
