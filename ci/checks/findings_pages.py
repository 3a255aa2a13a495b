#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that each page on a finding has all its parts; --write writes those that are generated."""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from ci.pages import ROOT, keep
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.inputs.load import load_vector
from nvmxfuzz.triage.export.as_c import to_c

PAGES = ROOT / "docs" / "findings"
CORPUS = ROOT / "corpus" / "regressions"
INDEX = PAGES / "README.md"
MARK = "<!-- generated from findings.toml: .venv/bin/python ci/checks/findings_pages.py --write -->"

PARTS = ("What.", "Kernels.", "Shown by", "Consequence.", "Upstream.")
WHY = ("Why it is wrong.", "Why it is surprising.")
TABLES = ("migration",)
"""Pages that are a table of what happens, and have no such parts."""
KEYS = {"case", "next", "first", "sure"}
WITHOUT_VECTOR = {"shown", "without"}

Entry = Mapping[str, str]


def missing(name: str, text: str) -> Iterator[str]:
    """Yield the parts that a page lacks which somebody has to write."""
    if name not in TABLES:
        yield from (part for part in PARTS if f"**{part}**" not in text)
        if not any(f"**{why}**" in text for why in WHY):
            yield WHY[0]
    if f"({name}.md)" not in INDEX.read_text():
        yield "a line in README.md"


def wrong_keys(name: str, entry: Entry, vectors: list[Path]) -> Iterator[str]:
    """Yield what findings.toml has too much or too little of a page."""
    wanted = KEYS if vectors else KEYS | WITHOUT_VECTOR
    yield from (f"{key} in findings.toml [{name}]" for key in sorted(wanted ^ entry.keys()))


def end(entry: Entry, vectors: list[Path]) -> Iterator[str]:
    """Yield the lines that the end of a page is made of."""
    yield MARK
    yield ""
    yield f"**Minimal case.** {entry['case']}"
    yield ""
    yield f"**What a processor does next.** {entry['next']}"
    yield ""
    yield f"**First bad kernel.** {entry['first']}."
    yield ""
    if vectors:
        yield f"**Vectors.** {', '.join(f'`{told(each)}`' for each in vectors)}."
        yield ""
        yield "**Reproducer.**"
        yield ""
        yield f"    nvmxfuzz replay {told(vectors[0].parent)}"
        for form in forms(vectors):
            yield f"    nvmxfuzz export {told(vectors[-1])} --as {form}"
    else:
        yield f"**Vectors.** None: {entry['without']}."
        yield ""
        yield "**Reproducer.**"
        yield ""
        yield f"    {entry['shown']}"
    yield ""
    yield f"**How sure.** {entry['sure']}"


def told(path: Path) -> str:
    """Return a path as one gives it in the checkout."""
    return str(path.relative_to(ROOT))


def forms(vectors: list[Path]) -> tuple[str, ...]:
    """Return the forms that stand alone in which the last vector can be exported."""
    case = load_vector(vectors[-1].read_bytes(), vectors[-1].name).case
    if not isinstance(case, EntryCase):
        return ("pytest",)
    try:
        to_c(case, "selftest", "finding")
    except InputError:
        return ("pytest",)
    return "selftest", "kvm-unit-test"


def main() -> int:
    """Compare or write the ends of the pages; return the exit status."""
    entries: Mapping[str, Entry] = tomllib.loads((PAGES / "findings.toml").read_text())
    pages = {path.stem: path for path in sorted(PAGES.glob("*.md")) if path != INDEX}
    linked = set(re.findall(r"\]\(([a-z0-9-]+)\.md\)", INDEX.read_text()))
    lacking = [f"{name}: a page" for name in sorted((entries.keys() | linked) - pages.keys())]
    texts: dict[Path, str] = {}
    for name, path in pages.items():
        head = path.read_text().partition(MARK)[0].rstrip("\n")
        vectors = sorted((CORPUS / name).glob("*.toml"), key=lambda each: (len(each.stem), each))
        entry = entries.get(name, {})
        wrong = [*missing(name, head), *wrong_keys(name, entry, vectors)]
        lacking += [f"{name}: {each}" for each in wrong]
        if not wrong:
            texts[path] = "\n".join((head, "", *end(entry, vectors))) + "\n"
    for each in lacking:
        print(f"docs/findings: not as it should be: {each}")
    return keep(texts, "findings_pages.py") or int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main())
