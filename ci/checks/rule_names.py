#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check the rules: names of the form area.subject.aspect, sentences, and bodies that stay small."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator

from nvmxfuzz.cpu.rule import Rule
from nvmxfuzz.cpu.vm_entry import CHAPTER

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*){1,3}")
AREAS = {
    "basic",
    "execution",
    "exit",
    "entry",
    "host",
    "space",
    "guest",
    "pdpte",
    "msr-load",
    "smm",
}
ALLOWED = (
    ast.Return,
    ast.Expr,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.Invert,
    ast.USub,
    ast.BinOp,
    ast.operator,
    ast.Compare,
    ast.cmpop,
    ast.IfExp,
    ast.Call,
    ast.Attribute,
    ast.Name,
    ast.Constant,
    ast.Tuple,
    ast.Subscript,
    ast.expr_context,
)
"""What a rule's body is made of: a solver may want to read it one day."""


def body_complaints(rule: Rule) -> Iterator[str]:
    """Yield what in a rule's body is outside the small subset of Python."""
    source = textwrap.dedent(inspect.getsource(rule.predicate))
    function = next(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
    )
    if len(function.body) != 2 or not isinstance(function.body[1], ast.Return):
        yield "its body is not a docstring and one return"
    for statement in function.body:
        for node in ast.walk(statement):
            if not isinstance(node, ALLOWED):
                yield f"its body has a {type(node).__name__}"


def complaints(rule: Rule) -> Iterator[str]:
    """Yield what is wrong with one rule."""
    if not NAME.fullmatch(rule.name) or rule.name.split(".")[0] not in AREAS:
        yield "its name is not area.subject.aspect with a known area"
    if not rule.sentence.endswith(".") or "{" in rule.sentence:
        yield f"its docstring is no sentence: {rule.sentence}"
    yield from body_complaints(rule)


def main() -> int:
    """Print every complaint; return the exit status."""
    status = 0
    for rule in CHAPTER.rules:
        for complaint in complaints(rule):
            print(f"rule {rule.name}: {complaint}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
