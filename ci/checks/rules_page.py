#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that docs/rules.md is what the rules generate; with --write, write it."""

import sys
from collections.abc import Iterator
from pathlib import Path

from ci.pages import keep
from nvmxfuzz.arch import sections
from nvmxfuzz.cpu.vm_entry import CHAPTER

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rules.md"

ELSEWHERE = dict(
    zip(
        sections.SECTIONS,
        (5, 39, 8, 18, 21, 15, 6, 27, 66, 4, 6, 25, 3, 9, ""),
        strict=True,
    )
)
"""How many checks the most complete implementation elsewhere has, by section."""


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield "# The rules of VM entry"
    yield ""
    yield "<!-- generated: .venv/bin/python ci/checks/rules_page.py --write -->"
    yield ""
    yield f"{len(CHAPTER.rules)} rules, under the SDM's section titles. A rule marked * can be n/a."
    yield ""
    yield "| section | rules | most in any other public implementation, measured |"
    yield "| --- | ---: | ---: |"
    for title, rules in CHAPTER.sections.items():
        yield f"| {title} | {len(rules)} | {ELSEWHERE[title]} |"
    for title, rules in CHAPTER.sections.items():
        yield ""
        yield f"## {title} ({len(rules)})"
        yield ""
        for rule in rules:
            mark = "*" if rule.has_condition else ""
            yield f"- `{rule.name}`{mark}: {rule.sentence}"


def main() -> int:
    """Compare or write the page; return the exit status."""
    return keep({PAGE: "\n".join(page()) + "\n"}, "rules_page.py")


if __name__ == "__main__":
    sys.exit(main())
