# SPDX-License-Identifier: GPL-2.0-only
"""What is compiled: KVM with the shim laid over it, common code, and the shim's runtime."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from nvmxfuzz.targets.kvm_native.build.recipe import Recipe

KVM = "arch/x86/kvm"


@dataclass(frozen=True, slots=True)
class Unit:
    """A file to be compiled. `place` is its path within the kernel tree, or within the shim."""

    path: Path
    place: str

    @property
    def object_name(self) -> str:
        """The name of its object file."""
        return self.place.removesuffix(".c").replace("/", "-") + ".o"


def lay_over(tree: Path, shim: Path, work: Path) -> None:
    """Make `work`/arch/x86/kvm: links to the kernel's files, but for those that are ours."""
    for base, put in ((tree / KVM, os.symlink), (shim / "kvm", shutil.copyfile)):
        for path in sorted(path for path in base.rglob("*") if path.is_file()):
            target = work / KVM / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            put(path, target)


def kernel_units(tree: Path, work: Path, recipe: Recipe) -> list[Unit]:
    """Return the files of the kernel's side; those that a kernel lacks are passed over."""
    units: dict[str, Unit] = {}
    for pattern in recipe.sources:
        base = work if matches(pattern, [f"{KVM}/*"]) else tree
        for path in sorted(base.glob(pattern)):
            place = path.relative_to(base).as_posix()
            if not matches(place, recipe.exclude):
                units[place] = Unit(path, place)
    return list(units.values())


def runtime_units(shim: Path) -> list[Unit]:
    """Return the files of the shim that stand on the C library."""
    return [runtime_unit(path) for path in sorted(shim.glob("runtime/*.c"))]


def runtime_unit(path: Path) -> Unit:
    """Return a file that stands on the C library."""
    return Unit(path, f"runtime/{path.name}")


def matches(place: str, patterns: Iterable[str]) -> bool:
    """Whether a place matches one of the patterns, in which * stands for slashes too."""
    return any(fnmatchcase(place, pattern) for pattern in patterns)
