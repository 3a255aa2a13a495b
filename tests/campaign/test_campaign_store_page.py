# SPDX-License-Identifier: GPL-2.0-only
"""docs/store.md: every table and column of the schema is on it, and an old page is noticed."""

import re
import runpy
import sqlite3
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import open_store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "store.md"
CHECK = ROOT / "ci" / "checks" / "store_page.py"


def test_the_page_has_every_column_of_a_store(tmp_path: Path) -> None:
    open_store(tmp_path / "store.db").close()
    database = sqlite3.connect(tmp_path / "store.db")
    columns = database.execute(
        "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c"
        " WHERE t.type = 'table'"
    ).fetchall()
    database.close()
    sections = {part.split("\n")[0]: part for part in PAGE.read_text().split("\n## ")[1:]}
    told = {
        (table, column)
        for table, text in sections.items()
        for column in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    }
    assert told == set(columns)


def test_a_page_that_is_out_of_date_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["store_page.py"])
    check = runpy.run_path(str(CHECK))
    assert check["main"]() == 0
    old = tmp_path / "schema.sql"
    text = check["SCHEMA"].read_text().replace("-- SHA-256 of the data.", "-- Something else.")
    old.write_text(text)
    check["main"].__globals__["SCHEMA"] = old
    assert check["main"]() == 1
    assert "docs/store.md is not up to date" in capsys.readouterr().out
