# SPDX-License-Identifier: GPL-2.0-only
"""The part of a kernel tree that is needed, about a tenth of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

FOLDERS = ("arch/x86", "include", "kernel", "lib", "scripts", "tools/include", "virt/kvm")
FILES = ("Kbuild", "Makefile")
KCONFIG = "Kconfig"
"""How the files begin that configuring reads all over the tree."""

ESSENTIAL = (
    "Makefile",
    "Kconfig",
    "arch/x86/kvm/x86.c",
    "arch/x86/kvm/vmx/vmx.c",
    "arch/x86/kvm/vmx/nested.c",
    "include/linux/kvm_host.h",
    "scripts/kconfig/Makefile",
    "virt/kvm/kvm_main.c",
)
"""Without these it is no kernel tree, or one from before Linux 5.0."""

_MADE_FOLDERS = frozenset(
    ("include/config", "include/generated", "arch/x86/include/generated", ".git")
)
_MADE_SUFFIXES = frozenset((".a", ".cmd", ".d", ".ko", ".mod", ".o", ".order", ".so", ".symvers"))


def is_wanted(place: str) -> bool:
    """Whether a file of a tree, by its path in it, is needed and no product of a build."""
    path = PurePosixPath(place)
    if path.suffix in _MADE_SUFFIXES or is_made(place):
        return False
    inside = any(place.startswith(f"{folder}/") for folder in FOLDERS)
    return inside or place in FILES or path.name.startswith(KCONFIG)


def is_made(place: str) -> bool:
    """Whether a folder, or that of a file, holds products of a build only."""
    return any(place == folder or place.startswith(f"{folder}/") for folder in _MADE_FOLDERS)


def tar_patterns() -> list[str]:
    """Return what tells GNU tar to extract the part, below whatever the top folder is called."""
    exact = [f"*/{name}" for name in (*FILES, *FOLDERS)]
    return [
        *("--anchored", "--wildcards", "--no-wildcards-match-slash", *exact),
        *("--wildcards-match-slash", f"*/{KCONFIG}*"),
    ]


def wanted_files(tree: Path) -> Iterator[str]:
    """Yield the places of the files of a tree that are needed, in order."""
    for folder, below, files in os.walk(tree):
        top = Path(folder).relative_to(tree).as_posix()
        prefix = "" if top == "." else f"{top}/"
        below[:] = sorted(name for name in below if not is_made(prefix + name))
        yield from (prefix + name for name in sorted(files) if is_wanted(prefix + name))


def what_lacks(tree: Path) -> str:
    """Return the first file without which it is no kernel tree, or ''."""
    return next((place for place in ESSENTIAL if not (tree / place).is_file()), "")
