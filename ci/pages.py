# SPDX-License-Identifier: GPL-2.0-only
"""Pages that are generated: what the checks that keep them have in common."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def keep(pages: Mapping[Path, str], check: str) -> int:
    """Compare pages with what they are to be, or write them with --write; return the status.

    `check` is the file in ci/checks that knows how to write them.
    """
    if "--write" in sys.argv[1:]:
        for page, text in pages.items():
            page.write_text(text)
        return 0
    old = [page for page, text in pages.items() if not page.is_file() or page.read_text() != text]
    for page in old:
        name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
        print(f"{name} is not up to date: run .venv/bin/python ci/checks/{check} --write")
    return int(bool(old))
