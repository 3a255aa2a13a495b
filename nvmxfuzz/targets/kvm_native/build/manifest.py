# SPDX-License-Identifier: GPL-2.0-only
"""What a built object says of itself, in JSON beside it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

FORMAT = 1
NAME = "manifest.json"

_KERNEL: Final = re.compile(r"[0-9]{1,3}\.[0-9]{1,5}")
_LISTS: Final = ("functions", "data", "files")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where an object comes from and what is in it; the same inputs give the same manifest.

    `version` is that of the source package, or the kernel's own and a hash; `known` says whether
    it is a kernel that the shim was made for; `functions` and `data` have only stubs; `files` are
    the kernel's that were compiled.
    """

    kernel: str
    version: str
    variant: str
    source: str
    known: bool
    shim: str
    compiler: str
    sha256: str
    functions: tuple[str, ...]
    data: tuple[str, ...]
    files: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return it as a program reads it."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, folder: Path) -> None:
        """Write it whole or not at all: it says that an object is complete."""
        fresh = folder / f"{NAME}.fresh"
        fresh.write_text(json.dumps(self.to_json(), indent=1) + "\n")
        fresh.replace(folder / NAME)


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in a folder, or None if there is none that this version understands."""
    try:
        document = json.loads((folder / NAME).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        return None
    if document.keys() != _KEYS or not _has_types(document):
        return None
    for name in _LISTS:
        document[name] = tuple(document[name])
    manifest = Manifest(**document)
    return manifest if _KERNEL.fullmatch(manifest.kernel) else None


def _has_types(document: dict[str, object]) -> bool:
    return all(
        isinstance(value, bool)
        if name == "known"
        else _is_list_of_text(value)
        if name in _LISTS
        else isinstance(value, str)
        for name, value in document.items()
    )


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_KEYS = {field.name for field in fields(Manifest)}
