#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check the budgets of length, of files and functions, and that each file has the license line.

A file over its budget says so itself: a line `# size: REASON` in its first 30 lines.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE_LINES = 500
FUNCTION_LINES = 60
LICENSE = "SPDX-License-Identifier: GPL-2.0-only"
PYTHON = ("nvmxfuzz/**/*.py", "fuzz/**/*.py", "tests/**/*.py", "ci/**/*.py")
OTHER = ("ci/run", "ci/steps/*", ".ci/run", "nvmxfuzz/**/*.toml", "nvmxfuzz/**/*.sql")


def files(patterns: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files that match, in order."""
    for pattern in patterns:
        yield from sorted(path for path in ROOT.glob(pattern) if path.is_file())


def complaints(path: Path) -> Iterator[str]:
    """Yield what breaks a budget in a Python file."""
    text = path.read_text()
    lines = text.splitlines()
    excused = any(line.startswith("# size: ") for line in lines[:30])
    if len(lines) > FILE_LINES and not excused:
        yield f"{len(lines)} lines, more than {FILE_LINES}"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {length} lines"


def main() -> int:
    """Print every broken budget; return the exit status."""
    status = 0
    for path in files(PYTHON + OTHER):
        name = path.relative_to(ROOT)
        found = list(complaints(path)) if path.suffix == ".py" else []
        if not any(LICENSE in line for line in path.read_text().splitlines()[:3]):
            found.append("no SPDX license line")
        for complaint in found:
            print(f"{name}: {complaint}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
