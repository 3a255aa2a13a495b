# SPDX-License-Identifier: GPL-2.0-only
"""What gcov counts of nested.c, and that the page which names what is missing is held to it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

from nvmxfuzz.targets.kvm_native.bench.gcov import Counts, counts_in, together

ROOT = Path(__file__).resolve().parents[3]


def _line(number: int, count: int, name: str | None, *branches: int) -> dict[str, Any]:
    named = {"function_name": name} if name else {}
    taken = [{"count": each} for each in branches]
    return {"line_number": number, "count": count, "branches": taken, **named}


def _counts(first: int) -> Counts:
    """Return counts of two functions: of `f` the first line ran so often, of `g` none did."""
    functions = [
        {"name": "f", "execution_count": first, "start_line": 1, "end_line": 4},
        {"name": "g", "execution_count": 0, "start_line": 6, "end_line": 8},
    ]
    lines = [
        _line(2, first, "f", first, 0),
        _line(3, 0, None),
        _line(7, 0, "g"),
        _line(20, 5, None),
    ]
    other = {"file": "x/vmx.c", "functions": [], "lines": []}
    found = {"file": "arch/x86/kvm/vmx/nested.c", "functions": functions, "lines": lines}
    return counts_in(json.dumps({"files": [other, found]}))


def test_lines_belong_to_functions() -> None:
    counts = _counts(3)
    assert counts.functions == {"f": 3, "g": 0}
    assert counts.lines == {("f", 2): 3, ("f", 3): 0, ("g", 7): 0}
    assert counts.branches == {(("f", 2), 0): 3, (("f", 2), 1): 0}
    assert counts.missing() == {"f": (3,), "g": (7,)}


def test_parts_are_added() -> None:
    both = together((_counts(0), _counts(2)))
    assert both.functions["f"] == 2
    assert both.missing() == {"f": (3,), "g": (7,)}


def test_the_page_is_held_to_what_is_missing() -> None:
    bench = runpy.run_path(str(ROOT / "ci" / "benches" / "nested_coverage.py"))
    page = "| `f` | 0 | 1 | why |\n| `g` | 1 | 1 | why |\n"
    assert not list(bench["unnamed"](_counts(1), bench["named"](page, "6.12")))
    (more,) = bench["unnamed"](_counts(1), bench["named"](page, "6.1"))
    assert more == "f lacks 1 lines, the page names 0: 3"
    fewer = list(bench["unnamed"](_counts(1), {"f": 1, "g": 1, "h": 1}))
    assert fewer == ["h lacks 0 lines, and the page names 1"]


def test_the_page_has_a_row_for_each_function_that_lacks_lines() -> None:
    bench = runpy.run_path(str(ROOT / "ci" / "benches" / "nested_coverage.py"))
    text = (ROOT / "docs" / "nested-coverage.md").read_text()
    for kernel in bench["KERNELS"]:
        assert sum(bench["named"](text, kernel).values()) > 0
