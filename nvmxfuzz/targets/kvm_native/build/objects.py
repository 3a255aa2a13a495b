# SPDX-License-Identifier: GPL-2.0-only
"""Finding what was built: no compiler, no source and no other program is needed for it."""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.cache import Cache, cache_folder
from nvmxfuzz.targets.kvm_native.build.manifest import Manifest, read_manifest
from nvmxfuzz.targets.kvm_native.build.recipe import load_recipe, shim_hash
from nvmxfuzz.targets.kvm_native.build.source import packaged

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
    """Return "" if a kernel is built, else the sentence that says what to do.

    It is cheap: whether the object is damaged is looked at where it is loaded.
    """
    try:
        found = look_up(standard_cache(), kernel, variant)
    except InputError as error:
        return str(error)
    return found if isinstance(found, str) else ""


def look_up(cache: Cache, kernel: str, variant: str) -> BuiltObject | str:
    """Return the object, or the sentence that says why there is none."""
    shim = shim_hash()
    link = cache.current(kernel, variant, shim)
    found = object_in(link)
    if found is not None and (found.kernel, found.variant) == (kernel, variant):
        return found
    what, command = _named(kernel, variant), _command(kernel, variant)
    others = cache.current(kernel, variant, "").name
    if any(link.parent.glob(f"{others}*")):
        return (
            f"{what} is incomplete or was built by another version of nvmxfuzz: run {command} again"
        )
    return f"{what} is not built: run {command}"


def sound_content(built: BuiltObject) -> bytes:
    """Return what is in the object; InputError if that is not what was built."""
    try:
        content = built.path.read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != built.manifest.sha256:
        command = _command(built.kernel, built.variant, built.manifest.source)
        raise InputError(f"{_named(built.kernel, built.variant)} is damaged: run {command}")
    return content


def demand_sound(kernel: str, variant: str = "plain") -> None:
    """InputError if a kernel is not built, or damaged."""
    sound_content(find_object(kernel, variant))


def is_sound(built: BuiltObject) -> bool:
    """Whether the object is what was built."""
    try:
        sound_content(built)
    except InputError:
        return False
    return True


def _named(kernel: str, variant: str) -> str:
    return f"KVM of Linux {kernel}" + (f" ({variant})" if variant != "plain" else "")


def _command(kernel: str, variant: str, source: str = "TREE") -> str:
    """Return the command that builds it, which for most kernels is from a tree of the user's."""
    has_package = kernel in load_recipe().kernels or kernel in packaged()
    origin = f"--kernel {kernel}" if has_package else f"--source {shlex.quote(source)}"
    return f"nvmxfuzz build kvm {origin}{OPTIONS.get(variant, '')}"


def object_in(folder: Path) -> BuiltObject | None:
    """Return the object in a folder, if one is complete there."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    folder = folder.resolve()
    built = BuiltObject(folder / LIBRARY, folder / SYMBOLS, manifest)
    return built if built.path.is_file() and built.symbols.is_file() else None


def built_kernels() -> list[str]:
    """Return the kernels that are built for this version of nvmxfuzz, oldest first."""
    shim = shim_hash()
    try:
        objects = all_objects(standard_cache())
    except InputError:
        return []
    ours = (built for built in objects if built.manifest.shim == shim)
    return sorted({built.kernel for built in ours if built.variant == "plain"}, key=numbers_of)


def numbers_of(kernel: str) -> list[int]:
    """Return what kernels are sorted by: 6.2 is before 6.12."""
    return [int(number) for number in kernel.split(".")]


def all_objects(cache: Cache) -> list[BuiltObject]:
    """Return every object in a cache, also of other versions of nvmxfuzz, in order of name."""
    folders = sorted((cache.folder / "objects").glob("*"))
    return [built for folder in folders if (built := object_in(folder)) is not None]
