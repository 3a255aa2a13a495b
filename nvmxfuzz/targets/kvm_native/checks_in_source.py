# SPDX-License-Identifier: GPL-2.0-only
"""Where nested.c makes its consistency checks, the CC() sites, found in the source itself.

A site is told by its function and by 8 hexadecimal digits of the SHA-256 of its condition, as
`nvmxfuzz.oracles.kvm.witness.place` tells a check that failed: the text is the kernel's. Which
check of the model one is stands in `nvmxfuzz.kvm.traced_checks`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject, standard_cache

_NESTED: Final = "arch/x86/kvm/vmx/nested.c"
_DIGITS: Final = 8
_COMMENT: Final = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_FUNCTION: Final = re.compile(r"^[a-z_][^\n;={}]*?\b(\w+)\([^;{}]*\)\s*^\{", re.MULTILINE)
_CHECK: Final = re.compile(r"\bCC\(")
_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Site:
    """One check: the function it stands in, its condition as the compiler makes text of it."""

    function: str
    condition: str
    line: int

    @property
    def place(self) -> str:
        """The name of the site, without the kernel's text."""
        return place_of(self.function, self.condition)


def place_of(function: str, condition: str) -> str:
    """Return the name of a check that stands in a function."""
    return f"{function} {hashlib.sha256(condition.encode()).hexdigest()[:_DIGITS]}"


def nested_source(built: BuiltObject) -> str:
    """Return nested.c of the kernel that an object was built from; InputError if it is gone."""
    key = built.path.parent.name.rpartition(f"-{built.variant}-")[0]
    path = Path(standard_cache().tree(key), "source", _NESTED)
    try:
        return path.read_text(errors="replace")
    except OSError:
        raise InputError(
            f"the source of Linux {built.kernel} is not in the cache any more: run nvmxfuzz build "
            f"kvm --kernel {built.kernel} --force"
        ) from None


def functions_of(source: str) -> frozenset[str]:
    """Return the names of the functions that a source defines."""
    return frozenset(found[1] for found in _FUNCTION.finditer(_COMMENT.sub(_blank, source)))


def sites_of(source: str) -> tuple[Site, ...]:
    """Return the sites in a source, in order."""
    plain = _COMMENT.sub(_blank, source)
    functions = [(found.start(), found[1]) for found in _FUNCTION.finditer(plain)]
    return tuple(_sites(plain, functions))


def _sites(plain: str, functions: list[tuple[int, str]]) -> Iterator[Site]:
    for found in _CHECK.finditer(plain):
        name = next((name for at, name in reversed(functions) if at < found.start()), "")
        condition = _SPACE.sub(" ", _argument(plain, found.end())).strip()
        yield Site(name, condition, plain.count("\n", 0, found.start()) + 1)


def _argument(plain: str, start: int) -> str:
    """Return what stands between a parenthesis that is open at `start` and the one closing it."""
    depth = 1
    for at in range(start, len(plain)):
        depth += {"(": 1, ")": -1}.get(plain[at], 0)
        if depth == 0:
            return plain[start:at]
    return plain[start:]


def _blank(comment: re.Match[str]) -> str:
    """Return what stands for a comment: a space, and its lines."""
    return " " + "\n" * comment[0].count("\n")
