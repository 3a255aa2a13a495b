# SPDX-License-Identifier: GPL-2.0-only
"""A change of one piece of a module of ours: the module is compiled from a tree that has it.

So faults of the model are planted, and ideas of an engine switched off. It must be done before the
module is imported, and lasts as long as the process.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Final

from nvmxfuzz.errors import InputError

_BODIES: Final = ("body", "orelse", "finalbody")


@dataclass(frozen=True, slots=True)
class Change:
    """In a function, one piece of Python becomes another: expressions, or statements.

    `before` stands there `nth + 1` times at least. `function` is as in `Class.method`, or "" for
    the whole module.
    """

    module: str
    function: str
    before: str
    becomes: str
    nth: int = 0


def make(change: Change) -> None:
    """Have the module imported with the change; InputError if it is imported already."""
    if change.module in sys.modules:
        raise InputError(f"a change comes too late: {change.module} is imported already")
    sys.meta_path.insert(0, _Finder(change))


def changed(source: str, change: Change) -> ast.Module:
    """Return the tree of a module with the change; InputError if it has no place there."""
    tree = ast.parse(source)
    scope = _scope(tree, change.function)
    if scope is None:
        raise InputError(f"a change has no place: {change.module} has no {change.function}()")
    found = _put(scope, change)
    if found <= change.nth:
        raise InputError(
            f"a change has no place: {change.before!r} stands {found} time(s) in "
            f"{change.module} {change.function}"
        )
    return ast.fix_missing_locations(tree)


class _Finder(MetaPathFinder):
    """Finds one module as others do, and then has it compiled with a change."""

    def __init__(self, change: Change) -> None:
        self._change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to import the module with the change; None for all others."""
        if fullname != self._change.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        changes = [
            finder._change
            for finder in sys.meta_path
            if isinstance(finder, _Finder) and finder._change.module == fullname
        ]
        spec.loader = _Loader(fullname, spec.origin, changes)
        return spec


class _Loader(SourceFileLoader):
    """Compiles the source of a module with changes, whatever was compiled of it before."""

    def __init__(self, fullname: str, path: str, changes: Sequence[Change]) -> None:
        super().__init__(fullname, path)
        self._changes = changes

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 # it loads one module
        """Return the code of the module."""
        source = self.get_data(self.path).decode()
        for change in self._changes:
            source = ast.unparse(changed(source, change))
        return compile(source, self.path, "exec")


def _scope(tree: ast.Module, function: str) -> ast.AST | None:
    """Return the function or class of a dotted name, or the module for ""."""
    scope: ast.AST = tree
    for part in filter(None, function.split(".")):
        inner = (
            node
            for node in ast.walk(scope)
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        )
        found = next(inner, None)
        if found is None:
            return None
        scope = found
    return scope


def _put(scope: ast.AST, change: Change) -> int:
    """Put what the change says in its place; return how often what it replaces stands there."""
    before, becomes = ast.parse(change.before).body, ast.parse(change.becomes).body
    old = before[0] if len(before) == 1 else None
    if isinstance(old, ast.Expr) and isinstance(becomes[0], ast.Expr):
        expressions = _Expressions(ast.dump(old.value), becomes[0].value, change.nth)
        expressions.visit(scope)
        return expressions.found
    return _put_statements(scope, [ast.dump(each) for each in before], becomes, change.nth)


class _Expressions(ast.NodeTransformer):
    """Replaces the nth expression that is equal to one."""

    def __init__(self, old: str, new: ast.expr, nth: int) -> None:
        self._old, self._new, self._nth = old, new, nth
        self.found = 0

    def visit(self, node: ast.AST) -> ast.AST:
        """Return what stands for a node."""
        if isinstance(node, ast.expr) and ast.dump(node) == self._old:
            self.found += 1
            if self.found == self._nth + 1:
                return self._new
        return super().generic_visit(node)


def _put_statements(scope: ast.AST, old: list[str], new: list[ast.stmt], nth: int) -> int:
    found = 0
    for node in list(ast.walk(scope)):
        for name in _BODIES:
            body = getattr(node, name, None)
            if not isinstance(body, list):
                continue
            # What was put in place is not looked at: it may have what it replaces in it.
            told = [ast.dump(each) for each in body]
            for at in range(len(told) - len(old) + 1):
                if told[at : at + len(old)] == old:
                    found += 1
                    if found == nth + 1:
                        body[at : at + len(old)] = new
    return found
