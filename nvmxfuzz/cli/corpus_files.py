# SPDX-License-Identifier: GPL-2.0-only
"""A corpus as readable files: one TOML case each, named by what is in it."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from nvmxfuzz.errors import InputError

_DIGITS = 16


def folder_of(root: Path, harness: str) -> Path:
    """Return where the cases of a harness are: `root` itself if it is called like the harness."""
    name = Path(harness).stem
    return root if root.absolute().name == name else root / name


def write_case(folder: Path, text: str) -> bool:
    """Write a case; return whether it was not there yet. InputError if it cannot be written.

    It is there as a whole or not at all.
    """
    content = text.encode()
    path = folder / f"{sha256(content).hexdigest()[:_DIGITS]}.toml"
    try:
        if path.exists():
            if path.read_bytes() != content:
                raise InputError(
                    f"{path} has been edited since it was written: give it another name, and call "
                    "again"
                )
            return False
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        try:
            draft.write_bytes(content)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): make room there, or name another folder"
        ) from error
    return True
