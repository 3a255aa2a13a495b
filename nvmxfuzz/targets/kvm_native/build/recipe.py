# SPDX-License-Identifier: GPL-2.0-only
"""The shim: its files, its hash, and its lists of what is compiled and how (`build.toml`)."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SHIM = Path(__file__).resolve().parents[1] / "shim"

_DECIDING = ("configure", "flags", "link", "recipe", "selection", "stubs", "units")
"""Modules of this package that decide what the object is."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """`build.toml`, whose comments explain it; places are relative to the kernel tree."""

    kernels: tuple[str, ...]
    sources: tuple[str, ...]
    exclude: tuple[str, ...]
    covered: tuple[str, ...]
    uncovered: tuple[str, ...]
    includes: tuple[str, ...]
    forced: tuple[str, ...]
    defines: Mapping[str, tuple[str, ...]]
    flags: Mapping[str, tuple[str, ...]]
    libc: tuple[str, ...]
    tool_prefixes: tuple[str, ...]
    functions: tuple[str, ...]


def load_recipe(shim: Path = SHIM) -> Recipe:
    """Read the lists of a shim."""
    document = tomllib.loads((shim / "build.toml").read_text())
    files, names = document["files"], document["names"]
    return Recipe(
        kernels=tuple(document["kernels"]),
        sources=tuple(files["sources"]),
        exclude=tuple(files["exclude"]),
        covered=tuple(files["covered"]),
        uncovered=tuple(files["uncovered"]),
        includes=tuple(document["headers"]["includes"]),
        forced=tuple(document["headers"]["forced"]),
        defines=_lists(document["defines"]),
        flags=_lists(document["flags"]),
        libc=tuple(names["libc"]),
        tool_prefixes=tuple(names["tool_prefixes"]),
        functions=tuple(names["functions"]),
    )


def _lists(table: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(values) for key, values in table.items()}


def shim_hash(shim: Path = SHIM) -> str:
    """Return a hash of everything of ours that decides what an object is."""
    here = Path(__file__).parent
    files = sorted(path for path in shim.rglob("*") if path.is_file())
    return hash_of([*files, *(here / f"{name}.py" for name in _DECIDING)], shim.parent)


def hash_of(files: Iterable[Path], base: Path) -> str:
    """Return a hash of the names, relative to `base`, and the contents of files, in order."""
    digest = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content} {path.relative_to(base).as_posix()}\n".encode())
    return digest.hexdigest()
