# SPDX-License-Identifier: GPL-2.0-only
"""Finding what was built: no compiler, no source and no other program is needed for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.cache import Cache, cache_folder
from nvmxfuzz.targets.kvm_native.build.manifest import Manifest, read_manifest
from nvmxfuzz.targets.kvm_native.build.recipe import shim_hash

LIBRARY = "libkvm.so"
SYMBOLS = "symbols"
OPTIONS: Final = MappingProxyType(
    {"plain": "", "debug": " --debug", "coverage": " --coverage", "gcov": " --gcov"}
)
"""What `nvmxfuzz build kvm` is given to build each variant."""


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """An object that can be loaded. `symbols` is what nm prints of it, sorted by address."""

    path: Path
    symbols: Path
    manifest: Manifest

    @property
    def kernel(self) -> str:
        """As in 6.12."""
        return self.manifest.kernel

    @property
    def version(self) -> str:
        """As in 6.12.117-1~deb12u1."""
        return self.manifest.version

    @property
    def variant(self) -> str:
        """One of plain, debug, coverage, gcov."""
        return self.manifest.variant


def standard_cache() -> Cache:
    """Return the cache that the environment names."""
    return Cache(cache_folder(os.environ))


def find_object(kernel: str, variant: str = "plain") -> BuiltObject:
    """Return the object of a kernel such as "6.12" that was asked for last.

    InputError if it is not built, or only by another version of nvmxfuzz.
    """
    found = look_up(standard_cache(), kernel, variant)
    if isinstance(found, str):
        raise InputError(found)
    return found


def usable(kernel: str, variant: str = "plain") -> str:
    """Return "" if a kernel is built, else the sentence that says what to do. It is cheap."""
    found = look_up(standard_cache(), kernel, variant)
    return found if isinstance(found, str) else ""


def look_up(cache: Cache, kernel: str, variant: str) -> BuiltObject | str:
    """Return the object, or the sentence that says why there is none."""
    link = cache.current(kernel, variant, shim_hash())
    found = object_in(link)
    if found is not None:
        return found
    command = f"nvmxfuzz build kvm --kernel {kernel}{OPTIONS.get(variant, '')}"
    what = f"KVM of Linux {kernel}" + (f" ({variant})" if variant != "plain" else "")
    others = cache.current(kernel, variant, "").name
    if any(link.parent.glob(f"{others}*")):
        return f"{what} was built by another version of nvmxfuzz: run {command} again"
    return f"{what} is not built: run {command}"


def object_in(folder: Path) -> BuiltObject | None:
    """Return the object in a folder, if one is complete there."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    folder = folder.resolve()
    built = BuiltObject(folder / LIBRARY, folder / SYMBOLS, manifest)
    return built if built.path.is_file() and built.symbols.is_file() else None


def all_objects(cache: Cache) -> list[BuiltObject]:
    """Return every object in a cache, also of other versions of nvmxfuzz, in order of name."""
    folders = sorted((cache.folder / "objects").glob("*"))
    return [built for folder in folders if (built := object_in(folder)) is not None]
