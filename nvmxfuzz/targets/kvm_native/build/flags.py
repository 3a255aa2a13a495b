# SPDX-License-Identifier: GPL-2.0-only
"""The command that compiles a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nvmxfuzz.targets.kvm_native.build.recipe import Recipe
from nvmxfuzz.targets.kvm_native.build.units import Unit, matches

COMPILERS: Final = MappingProxyType(
    {"plain": "gcc", "debug": "gcc", "coverage": "clang", "gcov": "gcc"}
)
"""The compiler of each variant."""

KEEPS_SOURCES: Final = frozenset(("debug", "gcov"))
"""Variants whose sources are looked at later, so that paths in them must lead there."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """How the files of one variant are compiled."""

    variant: str
    recipe: Recipe
    shim: Path
    tree: Path
    config: Path
    work: Path
    own_headers: str

    @property
    def program(self) -> str:
        """The compiler."""
        return COMPILERS[self.variant]

    def kernel_words(self, unit: Unit) -> list[str]:
        """Return the command for a file of the kernel's side, to be run in `work`."""
        flags = self.recipe.flags
        return [
            self.program,
            *flags["kernel"],
            *flags[self.program],
            *flags[f"{self.variant}-all"],
            *(flags[f"{self.variant}-covered"] if is_covered(unit.place, self.recipe) else ()),
            *self.path_words(),
            *("-nostdinc", "-isystem", self.own_headers),
            *(f"-I{self._place(place)}" for place in self.recipe.includes),
            *self._forced(),
            *self._defines(unit.place),
            *("-c", self._name_of(unit), "-o", str(self.object_of(unit))),
        ]

    def runtime_words(self, unit: Unit) -> list[str]:
        """Return the command for a file of the shim's runtime."""
        return [
            self.program,
            *self.recipe.flags["runtime"],
            *self.recipe.flags[f"{self.variant}-all"],
            *self.path_words(),
            f"-I{self.shim}",
            *("-c", str(unit.path), "-o", str(self.object_of(unit))),
        ]

    def object_of(self, unit: Unit) -> Path:
        """Return the file that a unit is compiled to."""
        return self.work / unit.object_name

    def path_words(self) -> list[str]:
        """Return what makes the names of files in an object those within the kernel tree."""
        option = "macro" if self.variant in KEEPS_SOURCES else "file"
        places = {self.tree: "", self.config: "", self.work: "", self.shim: "shim/"}
        return [f"-f{option}-prefix-map={path}/={name}" for path, name in places.items()]

    def _name_of(self, unit: Unit) -> str:
        """Return a file as the compiler, which runs in `work`, shall name it in its messages."""
        return unit.place if unit.path.is_relative_to(self.work) else str(unit.path)

    def _place(self, place: str) -> str:
        """Return the path that one of the names in build.toml stands for."""
        return place.format(tree=self.tree, config=self.config, shim=self.shim, work=self.work)

    def _forced(self) -> list[str]:
        """Return the options for the headers that come first; those that a kernel lacks do not."""
        paths = [self._place(place) for place in self.recipe.forced]
        return [word for path in paths if Path(path).is_file() for word in ("-include", path)]

    def _defines(self, place: str) -> list[str]:
        return [
            f"-D{text}"
            for pattern, texts in self.recipe.defines.items()
            if matches(place, [pattern])
            for text in texts
        ]


def is_covered(place: str, recipe: Recipe) -> bool:
    """Whether the variants for coverage count what a file executes."""
    return matches(place, recipe.covered) and not matches(place, recipe.uncovered)
