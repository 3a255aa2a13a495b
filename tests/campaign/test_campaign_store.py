# SPDX-License-Identifier: GPL-2.0-only
"""The store: what is written comes back, and what is no store is refused in a sentence."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import Store, open_store
from nvmxfuzz.campaign.store.opening import VERSION
from nvmxfuzz.campaign.store.values import Behaviour
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding

ONE = Finding("some.oracle", ("a", "b"), ("cpu", "kvm"), "site", "it is so")
OTHER = Finding("some.oracle", ("c",), ("cpu", "kvm"), "site", "it is otherwise")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def campaign(store: Store) -> int:
    return store.begin_campaign("seed = 7\n", 7, 1_700_000_000)


def test_a_finding_comes_back_as_it_went_in(store: Store) -> None:
    number = campaign(store)
    assert store.add_finding(number, "vm_entry", ONE, b"\x01\x00", "note = 1\n")
    (stored,) = store.findings()
    assert stored.finding == ONE
    assert (stored.harness, stored.data, stored.case_text) == (
        "vm_entry",
        b"\x01\x00",
        "note = 1\n",
    )
    assert (stored.reproduced, stored.minimised_text, stored.count) == (None, None, 1)
    assert stored.text == "note = 1\n"


def test_triage_is_kept_with_the_finding(store: Store) -> None:
    store.add_finding(campaign(store), "vm_entry", ONE, b"", "big\n")
    store.add_triage("vm_entry", ONE.identity, reproduced=True, minimised_text="small\n")
    assert store.finding(ONE.identity).text == "small\n"
    assert store.finding(ONE.identity).reproduced is True


def test_the_same_finding_is_stored_once_and_counted(store: Store) -> None:
    first, second = campaign(store), campaign(store)
    assert store.add_finding(first, "vm_entry", ONE, b"1", "")
    assert not store.add_finding(second, "vm_entry", ONE, b"2", "")
    store.count_sightings(first, "vm_entry", {ONE.identity: 40})
    store.count_sightings(second, "vm_entry", {ONE.identity: 2})
    (stored,) = store.findings()
    assert (stored.data, stored.count) == (b"1", 42)


def test_the_same_identity_in_another_harness_is_another_finding(store: Store) -> None:
    number = campaign(store)
    assert store.add_finding(number, "vm_entry", ONE, b"", "")
    assert store.add_finding(number, "capability_config", ONE, b"", "")


def test_a_finding_is_named_by_the_start_of_its_identity(store: Store) -> None:
    number = campaign(store)
    for finding in (ONE, OTHER):
        store.add_finding(number, "vm_entry", finding, b"", "")
    assert store.finding(OTHER.identity[:-3]).finding == OTHER
    with pytest.raises(InputError, match="may be one of"):
        store.finding("some.oracle")
    with pytest.raises(InputError, match="has no finding 'elsewhere'"):
        store.finding("elsewhere")


def test_verdicts_stay_with_the_campaign_that_saw_them_first(store: Store) -> None:
    first, second = campaign(store), campaign(store)
    held, na, broken = (Behaviour("rule", verdict) for verdict in ("held", "n/a", "broken"))
    store.note_behaviours("vm_entry", "", [held, na], campaign=first)
    store.note_behaviours("vm_entry", "", [held, broken], campaign=second)
    assert store.verdicts_seen() == {("rule", "held"), ("rule", "n/a"), ("rule", "broken")}
    assert {each.behaviour: each.campaign for each in store.behaviours()} == {
        held: first,
        na: first,
        broken: second,
    }


def test_a_store_can_be_read_while_it_is_written(path: Path, store: Store) -> None:
    number = campaign(store)
    with open_store(path, create=False) as reader:
        store.add_finding(number, "vm_entry", ONE, b"", "")
        assert len(reader.findings()) == 1
        with pytest.raises(InputError, match="could not be written"):
            campaign(reader)


def test_a_closed_store_opens_again(path: Path) -> None:
    with open_store(path) as store:
        store.add_finding(campaign(store), "vm_entry", ONE, b"", "")
    with open_store(path) as store:
        assert len(store.findings()) == 1


def test_a_store_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    open_store(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(InputError, match="written by a newer nvmxfuzz"):
            open_store(path, create=create)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no store at all\n", b"SQLite format 3\x00" + bytes(500)])
def test_another_file_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a store"):
        open_store(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE bird (name TEXT)")
    database.close()
    with pytest.raises(InputError, match="not a store"):
        open_store(path)


def test_an_empty_file_becomes_a_store_but_cannot_be_read(path: Path) -> None:
    path.touch()
    with pytest.raises(InputError, match="is empty"):
        open_store(path, create=False)
    open_store(path).close()
    open_store(path, create=False).close()


def test_places_where_no_store_can_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        open_store(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        open_store(tmp_path / "nowhere" / "store.db")
    with pytest.raises(InputError, match="there is no store"):
        open_store(tmp_path / "store.db", create=False)
    with pytest.raises(InputError, match=r"cannot be (opened|used)"):
        open_store(Path("/proc/store.db"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_read_only_store_is_refused_for_writing_and_can_be_read(path: Path) -> None:
    open_store(path).close()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"store\.db cannot be"):
            open_store(path)
        open_store(path, create=False).close()
    finally:
        path.parent.chmod(0o700)


def test_a_full_disk_is_a_sentence_and_loses_nothing_older(store: Store) -> None:
    number = campaign(store)
    store.add_finding(number, "vm_entry", ONE, b"", "")
    store._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(InputError, match=r"could not be written to \(database or disk is full\)"):
        store.add_finding(number, "vm_entry", OTHER, bytes(100_000), "")
    assert [each.finding for each in store.findings()] == [ONE]


def test_two_writers_at_once_meet_a_sentence(path: Path, store: Store) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._connection.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(InputError, match="locked"):
        campaign(store)
    other.close()


WRITER = """
import sys
from pathlib import Path
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.oracles.finding import Finding

store = open_store(Path(sys.argv[1]))
campaign = store.begin_campaign("", 1, 1)
for number in range(10**9):
    finding = Finding("o", (str(number),), ("a", "b"), "", "")
    store.add_finding(campaign, "vm_entry", finding, bytes(5000), "text")
    print(finding.identity, flush=True)
"""


def test_what_was_stored_survives_a_kill(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    kept = [writer.stdout.readline().decode().strip() for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    kept += [line.decode().strip() for line in writer.stdout if line.endswith(b"\n")]
    writer.wait()
    writer.stdout.close()
    with open_store(path) as store:
        stored = store.findings()
    assert set(kept) <= {each.identity for each in stored}
    assert all((len(each.data), each.case_text, each.count) == (5000, "text", 1) for each in stored)


@pytest.mark.parametrize(
    ("column", "value"), [("rules", "{"), ("rules", "[1]"), ("targets", "[]"), ("targets", "7")]
)
def test_a_damaged_row_is_a_sentence(store: Store, column: str, value: str) -> None:
    store.add_finding(campaign(store), "vm_entry", ONE, b"", "")
    store._connection.execute(f"UPDATE finding SET {column} = ?", (value,))
    with pytest.raises(InputError, match="is damaged"):
        store.findings()
