#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that docs/store.md is what the comments of the schema generate; with --write, write it."""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from ci.pages import keep
from nvmxfuzz.campaign.store.beside import COLUMNS
from nvmxfuzz.campaign.store.opening import APPLICATION_ID, VERSION

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "store.md"
SCHEMA = ROOT / "nvmxfuzz" / "campaign" / "store" / "schema.sql"

SERIES = "\n".join(
    textwrap.wrap(
        ", ".join(f"`{name}`" for name in COLUMNS),
        100,
        initial_indent="  ",
        subsequent_indent="  ",
    )
)

HEAD = f"""# The store

<!-- generated: .venv/bin/python ci/checks/store_page.py --write -->

`nvmxfuzz fuzz` keeps what it does in one SQLite file, `nvmxfuzz.db` in the checkout or the one that
`--store` names. The tables below are made of the comments in
`nvmxfuzz/campaign/store/schema.sql`. The application id is {APPLICATION_ID:#x}, the version of the
schema {VERSION}.

Anybody may read a store while a campaign writes it, with `nvmxfuzz status` or `sqlite3`. Who writes
more than what came of one finding holds a record lock on the file `-lock` beside it, which the
kernel releases when the process ends, however it ends. A campaign that is running keeps two files
beside its store up to date, each of them replaced as a whole:

- `STORE.stats.json`, the same as `nvmxfuzz status --json`: the keys are those of the columns below;
  `state` is that of the campaign, or `killed`. A key goes away, or means something else, only when
  `format` is raised;
- `STORE.plot.csv`, the time series of the campaign, at most 2000 lines:
{SERIES}.

`nvmxfuzz status --prometheus` prints the figures as metrics: write them to a file each minute, and
the textfile collector of the node exporter has them.
"""

WIDTH = 100
COLUMN = re.compile(r"    ([a-z_0-9]+) (TEXT|INTEGER|REAL|BLOB)( NOT NULL)?\b(.*)")
CHOICES = re.compile(r"'([^']+)'")


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    head, *statements = re.split(
        r"\n\n(?=(?:--[^\n]*\n)*CREATE TABLE)", SCHEMA.read_text(encoding="utf-8")
    )
    yield from HEAD.splitlines()
    yield from wrapped(head.splitlines()[1:])
    for statement in statements:
        yield from table(statement.splitlines())


def table(lines: list[str]) -> Iterator[str]:
    """Yield the section about a table."""
    begin = next(number for number, line in enumerate(lines) if line.startswith("CREATE TABLE"))
    end = next(number for number, line in enumerate(lines) if line.startswith(")"))
    yield ""
    yield f"## {lines[begin].split()[2]}"
    yield from wrapped(lines[:begin])
    yield ""
    yield "| column | type | |"
    yield "| --- | --- | --- |"
    keys: list[str] = []
    comment: list[str] = []
    for line in declarations(lines[begin + 1 : end]):
        if line.startswith("    --"):
            comment.append(line)
        elif found := COLUMN.match(line):
            yield row(found, " ".join(prose(comment)))
            comment = []
        else:
            keys.append(line.strip().rstrip(","))
    for key in keys:
        yield ""
        yield f"{key.capitalize()}."


def declarations(lines: list[str]) -> Iterator[str]:
    """Yield the comments, and each declaration in one line, however it is broken."""
    whole = ""
    for line in lines:
        if not whole and line.startswith("    --"):
            yield line
            continue
        whole = f"{whole} {line.strip()}" if whole else line
        if whole.count("(") == whole.count(")"):
            yield whole
            whole = ""


def row(column: "re.Match[str]", meaning: str) -> str:
    """Return the line about a column."""
    name, kind, required, rest = column.groups()
    words: list[str] = []
    if "PRIMARY KEY" in rest:
        words.append("primary key")
    elif not required:
        words.append("or NULL")
    if found := re.search(r"REFERENCES (\w+)", rest):
        words.append(f"a `{found[1]}`")
    choices = CHOICES.findall(rest.partition("CHECK")[2])
    if choices:
        words.append("one of " + ", ".join(f"`{choice}`" for choice in choices))
    return f"| `{name}` | {', '.join((kind, *words))} | {meaning} |"


def prose(lines: list[str]) -> Iterator[str]:
    """Yield the paragraphs of comment lines."""
    texts = [line.strip().removeprefix("--").strip() for line in lines]
    for paragraph in "\n".join(texts).split("\n\n"):
        if joined := " ".join(paragraph.split()):
            yield joined


def wrapped(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a paragraph of text for each of a comment."""
    for paragraph in prose(lines):
        yield ""
        yield from textwrap.wrap(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def main() -> int:
    """Compare or write the page; return the exit status."""
    return keep({PAGE: "\n".join(page()) + "\n"}, "store_page.py")


if __name__ == "__main__":
    sys.exit(main())
