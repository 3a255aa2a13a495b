# SPDX-License-Identifier: GPL-2.0-only
"""Reads the macros and enumerators of a kernel's headers, where a kernel's headers are at hand."""

from __future__ import annotations

import ast
import operator
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HEADERS = (
    "asm/msr-index.h",
    "asm/trapnr.h",
    "asm/vmx.h",
    "asm/vmxfeatures.h",
    "uapi/asm/debugreg.h",
    "uapi/asm/processor-flags.h",
    "uapi/asm/vmx.h",
)
FETCHED = Path(__file__).parents[2] / "build" / "vocabulary"
NAMED_FOLDER = "NVMXFUZZ_KERNEL_HEADERS"
NO_HEADERS = (
    "NO KERNEL HEADERS: the vocabulary was NOT compared with any kernel; "
    f"run 'ci/run vocabulary', or name a kernel tree in {NAMED_FOLDER}"
)

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_ENUM = re.compile(r"\benum\s+(\w+)\s*\{(.*?)\}", re.DOTALL)
_SUFFIX = re.compile(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b")
_PASTED = re.compile(r"\b(VMCS|VMFUNC)_CONTROL_BIT\((\w+)\)")
_PASTED_AS = {
    "VMCS": r"BIT(VMX_FEATURE_{0} & 0x1f)",
    "VMFUNC": r"BIT((VMX_FEATURE_{0} & 0x1f) - 28)",
}
_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}
_FUNCTIONS: Mapping[str, Callable[..., int]] = {
    "BIT": lambda n: 1 << n,
    "BIT_ULL": lambda n: 1 << n,
    "_BITUL": lambda n: 1 << n,
    "_BITULL": lambda n: 1 << n,
    "_AC": lambda value: value,
}


@dataclass
class KernelMacros:
    """The object-like macros and the enumerators of one kernel, by name."""

    version: str
    bodies: dict[str, str] = field(default_factory=dict, repr=False)
    enumerators: dict[str, str] = field(default_factory=dict, repr=False)
    """Which enumeration an enumerator belongs to."""

    def read(self, text: str) -> None:
        """Add what one header defines; the first definition counts (64-bit before 32-bit)."""
        text = _COMMENT.sub(" ", text).replace("\\\n", " ")
        for name, body in _MACRO.findall(text):
            self.bodies.setdefault(name, body)
        for enum, body in _ENUM.findall(text):
            for item in body.split(","):
                name, equals, value = (part.strip() for part in item.partition("="))
                if equals:
                    self.bodies.setdefault(name, value)
                    self.enumerators[name] = enum

    def value(self, name: str) -> int | None:
        """Return the value of a macro or enumerator, or None if it is no integer."""
        try:
            return self._evaluate(self.bodies[name])
        except (KeyError, SyntaxError):
            return None

    def _evaluate(self, body: str) -> int:
        body = _SUFFIX.sub(r"\1", body)
        body = _PASTED.sub(lambda found: _PASTED_AS[found[1]].format(found[2]), body)
        return self._walk(ast.parse(body.strip(), mode="eval").body)

    def _walk(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(value)):
                return value
            case ast.Name(id=name):
                return self._evaluate(self.bodies[name])
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~self._walk(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._walk(left), self._walk(right))
            case ast.Call(func=ast.Name(id=name), args=[argument, *_]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](self._walk(argument))
        raise SyntaxError(f"no integer expression: {ast.unparse(node)}")


def _trees() -> dict[str, Path]:
    named = os.environ.get(NAMED_FOLDER)
    if named:
        return {Path(named).name: Path(named)}
    found = sorted(FETCHED.iterdir()) if FETCHED.is_dir() else []
    return {folder.name: folder for folder in found if not folder.name.startswith("tmp.")}


def _macros(version: str, tree: Path) -> KernelMacros:
    macros = KernelMacros(version)
    for header in HEADERS:
        macros.read((tree / "arch/x86/include" / header).read_text("utf-8"))
    return macros


@pytest.fixture(scope="session")
def kernels() -> list[KernelMacros]:
    """Return every kernel whose headers are at hand; skip where there is none."""
    trees = _trees()
    if not trees:
        pytest.skip(NO_HEADERS)
    return [_macros(version, tree) for version, tree in trees.items()]
