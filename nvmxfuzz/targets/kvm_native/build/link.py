# SPDX-License-Identifier: GPL-2.0-only
"""From the compiled files to one shared object that lacks nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nvmxfuzz.targets.kvm_native.build.flags import Compiler
from nvmxfuzz.targets.kvm_native.build.shell import Shell
from nvmxfuzz.targets.kvm_native.build.stubs import (
    Unresolved,
    called_names,
    defined_names,
    stub_source,
    undefined_names,
    unresolved,
)

RENAMED = "k_"
"""How the kernel's own functions are called whose names the C library has."""

GCOV_SECTION = "nvmx_gcov"
"""gcov's counters, so that a snapshot can leave them out; between __start_ and __stop_ it."""

_GCOV_SCRIPT = f"SECTIONS {{ {GCOV_SECTION} : {{ *(.bss.__gcov* .data.__gcov*) }} }}\n"


@dataclass(frozen=True, slots=True)
class Linker:
    """Links the files of one variant in the folder `compiler.work`."""

    compiler: Compiler
    shell: Shell

    def link(self, kernel: Sequence[Path], runtime: Sequence[Path], target: Path) -> Unresolved:
        """Write the shared object `target`; return the names that have stubs in it."""
        work = self.compiler.work
        whole = self._whole(kernel)
        names = self._unresolved(whole, runtime)
        source = work / "stubs.S"
        source.write_text(stub_source(names))
        stubs = work / "stubs.o"
        words = [self.compiler.program, *self.compiler.path_words()]
        self.shell.run([*words, "-c", str(source), "-o", str(stubs)], "assembling the stubs")
        paths = [str(path) for path in (whole, *runtime, stubs)]
        flags = self.compiler.recipe.flags
        words = [self.compiler.program, *flags["link"], *flags[f"{self.compiler.variant}-link"]]
        self.shell.run([*words, "-o", str(target), *paths], "linking")
        return names

    def _whole(self, kernel: Sequence[Path]) -> Path:
        """Return the kernel's side in one file, in which no name is one of the C library."""
        work = self.compiler.work
        joined, renamed = work / "joined.o", work / "kernel.o"
        words = ["ld", "-r", "-o", str(joined)]
        if self.compiler.variant == "gcov":
            script = work / "gcov.lds"
            script.write_text(_GCOV_SCRIPT)
            words += ["-T", str(script)]
        self.shell.run([*words, *map(str, kernel)], "joining the files of the kernel")
        names = [f"--redefine-sym={name}={RENAMED}{name}" for name in self.compiler.recipe.libc]
        self.shell.run(["objcopy", *names, str(joined), str(renamed)], "renaming")
        return renamed

    def _unresolved(self, whole: Path, runtime: Sequence[Path]) -> Unresolved:
        missing = undefined_names(self._list("nm", "--undefined-only", whole))
        for path in runtime:
            missing -= defined_names(self._list("nm", "--defined-only", "--extern-only", path))
        called = called_names(self._list("readelf", "--relocs", "--wide", whole))
        return unresolved(missing, called, self.compiler.recipe)

    def _list(self, *words: str | Path) -> str:
        return self.shell.run([str(word) for word in words], f"listing by {words[0]}")
