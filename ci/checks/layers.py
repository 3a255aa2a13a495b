#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that each package imports only what stands to its left in the order of layers."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LAYERS = (
    {"errors"},
    {"arch"},
    {"machine"},
    {"cpu", "kvm", "inputs"},
    {"targets", "oracles"},
    {"campaign", "triage", "power"},
    {"reports"},
    {"cli"},
    {"fuzz"},
)
"""Left to right. Packages of one layer may import one another, but for the three witnesses."""

APART = {"cpu", "kvm", "inputs"}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, package) for every import of a part of nvmxfuzz in a file."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "nvmxfuzz" and len(parts) > 1 and parts[1] in RANK:
                yield node.lineno, parts[1]


def own_package(path: Path) -> str | None:
    """Return the package a file belongs to; None for the top of nvmxfuzz."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "fuzz":
        return "fuzz"
    return parts[1] if parts[1] in RANK else None


def main() -> int:
    """Print every import that goes against the layers; return the exit status."""
    status = 0
    for path in sorted([*ROOT.glob("nvmxfuzz/**/*.py"), *ROOT.glob("fuzz/*.py")]):
        own = own_package(path)
        for line, package in imports(path):
            rightwards = own is None or RANK[package] > RANK[own]
            apart = package != own and {package, own} <= APART
            if rightwards or apart:
                print(f"{path.relative_to(ROOT)}:{line}: {own} may not import {package}")
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
