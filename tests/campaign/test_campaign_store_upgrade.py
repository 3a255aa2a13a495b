# SPDX-License-Identifier: GPL-2.0-only
"""A store of an earlier version: upgraded as a whole or not at all, and read as it is."""

import sqlite3
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import open_store, opening
from nvmxfuzz.campaign.store.opening import APPLICATION_ID, VERSION
from nvmxfuzz.campaign.store.values import Behaviour, StoredWorker
from nvmxfuzz.errors import InputError

VERSION_1 = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE campaign (
    id INTEGER PRIMARY KEY,
    harness TEXT NOT NULL,
    engine TEXT NOT NULL,
    seed INTEGER NOT NULL,
    started INTEGER NOT NULL,
    seconds REAL NOT NULL DEFAULT 0,
    executions INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL DEFAULT 'running'
        CHECK (state IN ('running', 'time', 'runs', 'interrupted'))
) STRICT;
CREATE TABLE finding (
    id INTEGER PRIMARY KEY,
    harness TEXT NOT NULL,
    identity TEXT NOT NULL,
    oracle TEXT NOT NULL,
    rules TEXT NOT NULL,
    targets TEXT NOT NULL,
    site TEXT NOT NULL,
    message TEXT NOT NULL,
    data BLOB NOT NULL,
    case_text TEXT NOT NULL,
    minimised_text TEXT,
    reproduced INTEGER CHECK (reproduced IN (0, 1)),
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    UNIQUE (harness, identity)
) STRICT;
CREATE TABLE sighting (
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    finding INTEGER NOT NULL REFERENCES finding (id),
    count INTEGER NOT NULL,
    PRIMARY KEY (campaign, finding)
) STRICT, WITHOUT ROWID;
CREATE TABLE verdict (
    harness TEXT NOT NULL,
    rule TEXT NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('n/a', 'held', 'broken', 'unknown')),
    campaign INTEGER NOT NULL REFERENCES campaign (id),
    PRIMARY KEY (harness, rule, verdict)
) STRICT, WITHOUT ROWID;
INSERT INTO campaign VALUES (1, 'vm_entry', 'random', 7, 1700000000, 2.5, 1000, 'time');
INSERT INTO campaign VALUES (4, 'session', 'atheris', 9, 1700000100, 60.0, 50, 'running');
INSERT INTO finding VALUES (3, 'vm_entry', 'o-1', 'o', '["a"]', '["cpu", "kvm"]', 's', 'it is so',
                            x'0100', 'note = 1', 'small', 1, 1);
INSERT INTO finding VALUES (5, 'session', 'o-2', 'o', '[]', '["cpu", "kvm"]', '', 'so',
                            x'', '', NULL, 0, 4);
INSERT INTO sighting VALUES (1, 3, 40), (4, 3, 2), (4, 5, 1);
INSERT INTO verdict VALUES ('vm_entry', 'rule', 'held', 1), ('session', 'site', 'broken', 4);
PRAGMA user_version = 1;
"""
"""What version 1 left behind: its schema, and two campaigns."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    database = sqlite3.connect(path)
    database.executescript(VERSION_1)
    database.close()
    return path


def schema(path: Path) -> tuple[list[tuple[str, str]], int]:
    database = sqlite3.connect(path)
    rows = database.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    return rows, version


@pytest.mark.parametrize("create", [True, False])
def test_nothing_that_version_1_knew_is_lost(path: Path, create: bool) -> None:
    with open_store(path, create=create) as store:
        first, last = store.campaigns()
        assert (first.number, first.plan, first.seed, first.started) == (1, "", 7, 1_700_000_000)
        assert (first.seconds, first.executions, first.state) == (2.5, 1000, "time")
        assert (last.number, last.state, last.updated) == (4, "running", 1_700_000_160)
        assert store.workers(1) == (
            StoredWorker(0, 0, "vm_entry", "", "random", 7, 1000, 2.5, "ended", starts=1),
        )
        one, other = store.findings()
        assert (one.identity[:2], one.finding.rules, one.data) == ("o-", ("a",), b"\1\0")
        assert (one.text, one.reproduced, one.count) == ("small", True, 42)
        assert (one.flaky, one.reruns, one.status) == (False, None, None)
        assert (other.flaky, other.minimised_text, other.count) == (True, None, 1)
        assert store.sightings(4) == {("vm_entry", "o-1"): 2, ("session", "o-2"): 1}
        assert [(each.harness, each.behaviour, each.campaign) for each in store.behaviours()] == [
            ("session", Behaviour("site", "broken"), 4),
            ("vm_entry", Behaviour("rule", "held"), 1),
        ]


def test_an_upgraded_store_is_as_a_new_one(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    open_store(new).close()
    open_store(path).close()
    assert schema(path) == schema(new)
    assert schema(path)[1] == VERSION


def test_who_only_reads_changes_nothing(path: Path) -> None:
    before = path.read_bytes()
    with open_store(path, create=False) as store:
        assert len(store.findings()) == 2
        with pytest.raises(InputError, match="could not be written"):
            store.begin_campaign("", 1, 1)
    assert path.read_bytes() == before
    assert schema(path)[1] == 1


def test_an_upgrade_that_fails_leaves_the_old_store(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = schema(path)
    original = opening._sql
    monkeypatch.setattr(
        opening,
        "_sql",
        lambda name: original(name) + ("INSERT INTO nowhere VALUES (1);" if "from" in name else ""),
    )
    for create in (True, False):
        with pytest.raises(InputError, match="no such table: nowhere"):
            open_store(path, create=create)
    assert schema(path) == before
    monkeypatch.undo()
    with open_store(path) as store:
        assert len(store.findings()) == 2


def test_an_old_store_without_its_tables_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "odd.db"
    database = sqlite3.connect(path)
    database.executescript(
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; CREATE TABLE a (b);"
    )
    database.close()
    for create in (True, False):
        with pytest.raises(InputError, match="no such table"):
            open_store(path, create=create)
