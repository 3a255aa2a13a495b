# SPDX-License-Identifier: GPL-2.0-only
"""Removing from the cache what only other versions of nvmxfuzz have a use for.

What stays is every object of this version, the trees that those were built from, and their logs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.cache import VARIABLE, Cache, file_name
from nvmxfuzz.targets.kvm_native.build.lock import locked
from nvmxfuzz.targets.kvm_native.build.objects import all_objects
from nvmxfuzz.targets.kvm_native.build.progress import Progress
from nvmxfuzz.targets.kvm_native.build.recipe import shim_hash


@dataclass(frozen=True, slots=True)
class Pruned:
    """The names of what was removed, in order, and how many bytes that were."""

    objects: tuple[str, ...]
    trees: tuple[str, ...]
    logs: tuple[str, ...]
    bytes: int


def prune_cache(cache: Cache, progress: Progress) -> Pruned:
    """Remove what this version does not use; InputError if something cannot be removed."""
    if not cache.folder.is_dir():
        return Pruned((), (), (), 0)
    cache.prepare()
    with locked(cache.lock, progress):
        try:
            return _prune(cache)
        except OSError as error:
            raise InputError(
                f"the cache {cache.folder} cannot be pruned ({error.strerror}): see to that, or "
                f"name another folder in {VARIABLE}"
            ) from error


def _prune(cache: Cache) -> Pruned:
    shim = shim_hash()
    kept = {built.path.parent.name for built in all_objects(cache) if built.manifest.shim == shim}
    # An object is called SOURCE-VARIANT-DIGEST, a log SOURCE-VARIANT.log.
    builds = {name.rpartition("-")[0] for name in kept}
    sources = {name.rpartition("-")[0] for name in builds}
    objects = [path for path in _content(cache, "objects") if path.name not in kept]
    trees = [path for path in _content(cache, "trees") if not _is_of(path, sources)]
    logs = [path for path in _content(cache, "logs") if path.stem not in builds]
    links = [path for path in _content(cache, "current") if path.readlink().name not in kept]
    size = sum(map(_size, (*objects, *trees, *logs)))
    # The links first: at no time does one lead to half an object.
    for path in (*links, *objects, *trees, *logs):
        _remove(path)
    return Pruned(_names(objects), _names(trees), _names(logs), size)


def _content(cache: Cache, part: str) -> Iterator[Path]:
    return iter(sorted((cache.folder / part).iterdir()))


def _is_of(tree: Path, sources: set[str]) -> bool:
    """Whether a tree is what one of the sources was when an object was built from it.

    A source is called NAME-IDENTITY. The place of a tarball is that too, that of a tree has the
    name, and something else behind it.
    """
    stamp = tree / "identity"
    if not stamp.is_file():
        return False
    identity = file_name(stamp.read_text())
    ours = (source for source in sources if source.endswith(f"-{identity}"))
    return any(tree.name.startswith(source.removesuffix(identity)) for source in ours)


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(path)
        for name in names
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _names(paths: list[Path]) -> tuple[str, ...]:
    return tuple(path.name for path in paths)
