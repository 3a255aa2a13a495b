# SPDX-License-Identifier: GPL-2.0-only
"""What a small function returns, as text that can stand where the function would be called.

A call costs more than what most rules do in it. So the one expression that a rule or a condition
consists of is read from its source, and what it names is put in: numbers as they are, anything
else under a name that the reader of the text is to know. A function that is not a single
expression, makes names of its own, or has no source is called as it is.
"""

from __future__ import annotations

import ast
import builtins
import linecache
from collections.abc import Callable, Mapping
from functools import cache
from types import FunctionType, ModuleType
from typing import TypeAlias

NameOf: TypeAlias = Callable[[object], str]
"""Returns the name by which a text knows a value."""

_MAKE_NAMES = (ast.Lambda, ast.NamedExpr, ast.comprehension, ast.Await, ast.Yield, ast.YieldFrom)


def written_out(function: object, subject: str, name_of: NameOf) -> str | None:
    """Return what `function` returns for the argument `subject`; None if it has to be called."""
    if not isinstance(function, FunctionType):
        return None
    code = function.__code__
    found = _functions(code.co_filename).get(code.co_firstlineno)
    if found is None or found.name != function.__name__ or code.co_argcount != 1:
        return None
    body = [each for each in found.body if not _is_docstring(each)]
    if len(body) != 1 or not isinstance(body[0], ast.Return) or body[0].value is None:
        return None
    if any(isinstance(node, _MAKE_NAMES) for node in ast.walk(body[0])):
        return None
    # Parsed anew, because putting names in changes the tree.
    tree = ast.parse(ast.unparse(body[0].value), mode="eval")
    names = _names_of(function) | {code.co_varnames[0]: _Subject(subject)}
    return f"({ast.unparse(_Filler(names, name_of).visit(tree))})"


@cache
def _functions(file: str) -> Mapping[int, ast.FunctionDef]:
    """Return the functions in a source file by their first line, decorators among them."""
    tree = ast.parse("".join(linecache.getlines(file)))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {min([each.lineno, *(at.lineno for at in each.decorator_list)]): each for each in found}


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _names_of(function: FunctionType) -> dict[str, object]:
    """Return what the names in a function mean."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closed = {name: cell.cell_contents for name, cell in cells}
    return {**vars(builtins), **function.__globals__, **closed}


class _Subject(str):
    """The name of the argument, as opposed to a text."""

    __slots__ = ()


class _Filler(ast.NodeTransformer):
    """Puts in what names mean."""

    def __init__(self, names: Mapping[str, object], name_of: NameOf) -> None:
        self._names, self._name_of = names, name_of

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._known(self._names[node.id])

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        owner = node.value
        if isinstance(owner, ast.Name):
            known = self._names[owner.id]
            # A table of the vocabulary, such as VmExit, or a module.
            if isinstance(known, type | ModuleType):
                return self._known(getattr(known, node.attr))
        return ast.Attribute(self.visit(owner), node.attr, node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        filled = self.generic_visit(node)
        match node:
            case ast.Call(ast.Name(function), [owner, ast.Constant(str(attribute))]):
                if function == "getattr" and attribute.isidentifier():
                    return ast.Attribute(owner, attribute, ast.Load())
        return filled

    def _known(self, value: object) -> ast.expr:
        if isinstance(value, _Subject):
            return ast.Name(str(value), ast.Load())
        if value is None or isinstance(value, bool | str):
            return ast.Constant(value)
        if isinstance(value, int):
            # A plain one is faster than a `Bit`, and Python computes with it beforehand.
            return ast.Constant(int(value))
        if value is getattr:
            return ast.Name("getattr", ast.Load())
        return ast.Name(self._name_of(value), ast.Load())
