# SPDX-License-Identifier: GPL-2.0-only
"""A kernel configured for our purpose, out of tree: its generated headers are what is wanted."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from nvmxfuzz.targets.kvm_native.build.recipe import SHIM
from nvmxfuzz.targets.kvm_native.build.shell import Shell

FRAGMENT = SHIM / "kernel.config"

_COMPLETE = "complete"
# `prepare` would go on to build objtool, which nothing here needs.
_TARGETS = ("tinyconfig", "olddefconfig", "prepare0")


def provide_config(tree: Path, compiler: str, jobs: int, shell: Shell) -> Path:
    """Return the configured build folder of a tree; it is made if it is not there.

    `compiler` is the version of gcc, on which a configuration depends.
    """
    fragment = FRAGMENT.read_bytes()
    digest = hashlib.sha256(fragment + compiler.encode()).hexdigest()[:12]
    folder = tree.parent / f"config-{digest}"
    if (folder / _COMPLETE).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shell.progress.stage("configuring", len(_TARGETS))
    for target in _TARGETS:
        words = ["make", "-s", f"-j{jobs}", "-C", str(tree), f"O={folder}", target]
        shell.run(words, f"make {target}")
        if target == "tinyconfig":
            with (folder / ".config").open("ab") as config:
                config.write(fragment)
        shell.progress.advance()
    (folder / _COMPLETE).touch()
    return folder
