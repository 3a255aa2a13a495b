# SPDX-License-Identifier: GPL-2.0-only
"""Reading the files that a user names: bounded, and every failure a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case, CaseKind, EntryCase
from nvmxfuzz.inputs.load import load_case

MAX_BYTES = 1 << 20


_WHAT: Mapping[CaseKind, str] = {
    "vm_entry": "a VM entry",
    "capability_config": "a capability config",
    "capability_restore": "a restore of capability MSRs",
    "migration": "a migration",
    "session": "a session",
}


def what(case: Case) -> str:
    """Return what a case is, in words."""
    return _WHAT[case.harness]


def read_file(path: Path) -> bytes:
    """Return the content of a file, or of a pipe to its end, of at most 1 MiB."""
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


def entry_case(path: Path) -> EntryCase:
    """Return the VM entry in a file."""
    case = load_case(read_file(path), str(path))
    if not isinstance(case, EntryCase):
        command = "config" if case.harness == "capability_config" else "show, or replay"
        raise InputError(f"{path} is {what(case)}, no VM entry: use nvmxfuzz {command}")
    return case


def cases_below(path: Path) -> Iterator[Path]:
    """Yield a file itself, or every .toml and .json file below a folder, in order of names."""
    if not os.path.isdir(path):
        yield path
        return
    found = sorted(
        Path(folder, name)
        for folder, _, names in os.walk(path, onerror=_unreadable)
        for name in names
        if name.endswith((".toml", ".json")) and os.path.isfile(os.path.join(folder, name))
    )
    if not found:
        raise InputError(f"{path} holds no .toml or .json file: name a folder with cases")
    yield from found


def _unreadable(error: OSError) -> NoReturn:
    raise InputError(
        f"the folder {error.filename} cannot be read ({error.strerror}): make it readable, or name "
        "other folders"
    ) from error
