# SPDX-License-Identifier: GPL-2.0-only
"""The folder that a campaign works in: beside its store, so that what a kill leaves is found again.

In it are the corpus, and for each worker what it is executing and a journal of what it has found.
Only who has claimed the store uses it: what is in there when a campaign begins was left by one that
was killed, and is read first (`campaign.recovery`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from nvmxfuzz.errors import InputError

_SUFFIX: Final = "-run"


def run_folder(store: Path) -> Path:
    """Return the folder of the campaign on a store, made if need be; InputError if it cannot be."""
    folder = store.with_name(store.name + _SUFFIX)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} for a campaign's own files cannot be made ({error.strerror}): "
            "make room for it, or name another store with --store"
        ) from error
    return folder


def remove(folder: Path) -> None:
    """Remove the folder, as far as that is possible: all of it is in the store."""
    shutil.rmtree(folder, ignore_errors=True)
