#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that docs/known-differences.md is what the entries generate; with --write, write it."""

import sys
from collections.abc import Iterator
from pathlib import Path

from nvmxfuzz.oracles.known import KNOWN, KnownDifference, KnownMistake

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "known-differences.md"

HEAD = """# Known differences

<!-- generated: .venv/bin/python ci/checks/known_page.py --write -->

Where Bochs (bochscpu-python 0.4.0) and the rules differ, and Bochs is wrong by the SDM or has less
than the SDM describes. Each entry covers exactly its condition: what it covers Bochs does
differently each time, and beside it Bochs does as the rules say. A difference that no entry covers
is a finding of the oracle `agreement.cpu-bochs`.

An entry is a few lines in `nvmxfuzz/oracles/known.py`, its condition a function in
`known_where.py`, and `corpus/known` has vectors that still show it. Tests fail when a vector no
longer does, when a neighbour of one differs otherwise, and when an entry could cover more without
being noticed.
"""


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield from HEAD.splitlines()
    yield ""
    yield f"{len(KNOWN)} entries."
    for entry in KNOWN:
        yield ""
        yield f"## {entry.name}"
        yield ""
        yield entry.reason
        yield ""
        yield f'SDM: "{entry.reference}".'
        yield from consequence(entry)
        vectors = sorted((ROOT / "corpus" / "known" / entry.name).glob("*.toml"))
        yield "Vectors: " + ", ".join(f"`{path.stem}`" for path in vectors) + "."


def consequence(entry: KnownDifference | KnownMistake) -> Iterator[str]:
    """Yield what the entry does to the rules."""
    if not isinstance(entry, KnownDifference):
        yield "Bochs does what the rules say of another state."
        return
    if entry.unchecked:
        yield "Not checked: " + ", ".join(f"`{rule}`" for rule in entry.unchecked) + "."
    if entry.failure:
        yield (
            f"Bochs ends entry with {entry.failure.outcome}."
            if not entry.view
            else ("Bochs ends entry at that MSR.")
        )


def main() -> int:
    """Compare or write the page; return the exit status."""
    text = "\n".join(page()) + "\n"
    if "--write" in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if not PAGE.is_file() or PAGE.read_text() != text:
        print(
            "docs/known-differences.md is not up to date: "
            "run .venv/bin/python ci/checks/known_page.py --write"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
