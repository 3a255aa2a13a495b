# SPDX-License-Identifier: GPL-2.0-only
"""Stubs for the names that KVM needs and nobody defines.

A function names itself to the shim, which ends the case with that name. A datum is a page of
zeroes, listed in a table with its name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from nvmxfuzz.targets.kvm_native.build.recipe import Recipe

DATA_SIZE = 4096

_CALL = "R_X86_64_PLT32"


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The names, sorted."""

    functions: tuple[str, ...]
    data: tuple[str, ...]


def undefined_names(listing: str) -> set[str]:
    """Return the names in the output of `nm --undefined-only`, less the weak ones.

    A weak name that nobody defines is 0, which is what its users ask for.
    """
    rows = [line.split() for line in listing.splitlines()]
    return {row[-1] for row in rows if len(row) == 2 and row[0] == "U"}


def defined_names(listing: str) -> set[str]:
    """Return the names in the output of `nm --defined-only`."""
    rows = [line.split() for line in listing.splitlines()]
    return {row[-1] for row in rows if len(row) == 3}


def called_names(relocations: str) -> set[str]:
    """Return the names that something calls, from the output of `readelf --relocs --wide`."""
    rows = [line.split() for line in relocations.splitlines()]
    return {row[4] for row in rows if len(row) > 4 and row[2] == _CALL}


def unresolved(missing: Iterable[str], called: Collection[str], recipe: Recipe) -> Unresolved:
    """Sort the names that are missing; those of the compiler's and linker's own are none.

    What is called is a function. A name of which only the address is taken may be either, and is
    taken for a datum unless the recipe says that it is a function.
    """
    names = sorted(name for name in missing if not name.startswith(recipe.tool_prefixes))
    functions = [name for name in names if name in called or name in recipe.functions]
    return Unresolved(tuple(functions), tuple(name for name in names if name not in functions))


def stub_source(names: Unresolved) -> str:
    """Return the stubs in assembly."""
    return "\n".join(_lines(names)) + "\n"


def _lines(names: Unresolved) -> Iterator[str]:
    yield ".text"
    for name in names.functions:
        yield from _begin(name, "function")
        # The caller may not have aligned the stack: it calls C of another world.
        yield f"\tlea .Lname_{name}(%rip), %rdi"
        yield "\tand $-16, %rsp"
        yield "\tcall shim_unresolved"
        yield "\tud2"
    yield '.section .rodata.str1.1, "aMS", @progbits, 1'
    for name in (*names.functions, *names.data):
        yield f'.Lname_{name}:\n\t.string "{name}"'
    yield ".bss\n\t.balign 4096"
    for name in names.data:
        yield from _begin(name, "object")
        yield f"\t.skip {DATA_SIZE}"
    yield '.section .data.rel.ro, "aw"\n\t.balign 8'
    yield from _begin("shim_data_stubs", "object")
    for name in names.data:
        yield f"\t.quad .Lname_{name}, {name}"
    yield from _begin("shim_n_data_stubs", "object")
    yield f"\t.long {len(names.data)}"
    yield '.section .note.GNU-stack, "", @progbits'


def _begin(name: str, kind: str) -> Iterator[str]:
    yield f"\t.globl {name}\n\t.hidden {name}\n\t.type {name}, @{kind}\n{name}:"
