# SPDX-License-Identifier: GPL-2.0-only
"""The corpus in a store, its time series, its lock, and content that somebody else made."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from nvmxfuzz.campaign.store import Store, open_store, opening
from nvmxfuzz.campaign.store.campaigns import MOST_SAMPLES
from nvmxfuzz.campaign.store.lock import is_locked, lock_of
from nvmxfuzz.campaign.store.values import Behaviour, Provenance, Sample, StoredWorker
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.finding import Finding

HELD = Behaviour("rule", "held")
BROKEN = Behaviour("rule", "broken")
SEED = Provenance("seed", "seed ☃.toml")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


def test_an_input_comes_back_with_where_it_came_from(store: Store) -> None:
    campaign = store.begin_campaign("", 1, 1)
    made = Provenance("engine", "", sha256(b"a").hexdigest(), campaign, 3, 1.5)
    assert store.keep_input("vm_entry", "", b"a", SEED)
    assert store.keep_input("vm_entry", "", b"b", made, [HELD])
    one, other = store.inputs("vm_entry")
    assert (one.data, one.provenance) == (b"a", SEED)
    assert (other.data, other.provenance) == (b"b", made)
    (seen,) = store.behaviours("vm_entry", "")
    assert (seen.behaviour, seen.input, seen.campaign) == (HELD, other.number, campaign)


def test_a_repeated_call_changes_nothing(store: Store) -> None:
    for new in (True, False):
        assert store.keep_input("vm_entry", "", b"a", SEED, [HELD]) is new
    assert len(list(store.inputs("vm_entry"))) == 1


def test_the_same_bytes_on_another_target_are_another_input(store: Store) -> None:
    store.keep_input("vm_entry", "", b"a", SEED)
    assert store.keep_input("vm_entry", "kvm-6.12", b"a", SEED)
    assert store.count_inputs() == {("vm_entry", ""): 1, ("vm_entry", "kvm-6.12"): 1}


def test_who_shows_a_behaviour_first_stays_with_it(store: Store) -> None:
    store.note_behaviours("vm_entry", "", [HELD], seconds=1.0)
    store.keep_input("vm_entry", "", b"a", SEED, [HELD, BROKEN])
    store.keep_input("vm_entry", "", b"b", SEED, [HELD, BROKEN])
    (first, _) = store.inputs("vm_entry")
    assert {(each.behaviour, each.input, each.seconds) for each in store.behaviours()} == {
        (HELD, first.number, 1.0),
        (BROKEN, first.number, None),
    }


def test_an_input_that_is_dropped_leaves_what_it_showed(store: Store) -> None:
    store.keep_input("vm_entry", "", b"a", SEED, [HELD])
    child = Provenance("engine", parent=sha256(b"a").hexdigest())
    store.keep_input("vm_entry", "", b"b", child)
    (parent, _) = store.inputs("vm_entry")
    store.drop_inputs([parent.number])
    (left,) = store.inputs("vm_entry")
    assert (left.data, left.provenance.parent) == (b"b", "")
    assert [each.input for each in store.behaviours()] == [None]


def test_a_deadly_input_is_handed_out_no_more(store: Store) -> None:
    store.keep_input("vm_entry", "", b"a", SEED)
    store.forget_input("vm_entry", "", b"a")
    assert list(store.inputs("vm_entry")) == []
    assert not store.keep_input("vm_entry", "", b"a", SEED)


def test_a_corpus_is_read_in_pieces_in_its_order(store: Store) -> None:
    with store.together():
        for number in range(600):
            store.keep_input("vm_entry", "", b"%d" % number, SEED)
    assert [each.data for each in store.inputs("vm_entry")] == [b"%d" % n for n in range(600)]


def test_what_is_written_together_is_kept_together(store: Store) -> None:
    def interrupted() -> None:
        with store.together():
            store.keep_input("vm_entry", "", b"a", SEED)
            raise ValueError("of ours")

    with pytest.raises(ValueError, match="of ours"):
        interrupted()
    assert list(store.inputs("vm_entry")) == []


def test_a_worker_and_its_figures_come_back(store: Store) -> None:
    campaign = store.begin_campaign("", 1, 1)
    worker = StoredWorker(0, 1, "vm_entry", "kvm-6.12", "atheris", 5, 7, 1.5, "died", 2, 1, 10, 9)
    store.keep_worker(campaign, StoredWorker(0, 1, "vm_entry", "kvm-6.12", "atheris", 4))
    store.keep_worker(campaign, worker)
    assert store.workers(campaign) == (worker,)


def test_a_series_is_thinned_out_evenly(store: Store) -> None:
    campaign = store.begin_campaign("", 1, 1)
    total = 3 * MOST_SAMPLES
    with store.together():
        for number in range(1, total + 1):
            store.add_sample(campaign, None, Sample(float(number), number, 0, 0, 0))
        store.add_sample(campaign, 0, Sample(1.0, 1, 0, 0, 0))
    found = [sample.seconds for sample in store.samples(campaign)]
    assert len(found) <= MOST_SAMPLES
    assert found[-1] == total
    gaps = [after - before for before, after in pairwise(found)]
    assert found[0] < 20
    assert max(gaps) <= 4 * total / MOST_SAMPLES
    assert len(store.samples(campaign, 0)) == 1


def test_a_campaign_is_resumed_and_the_last_one_found(store: Store) -> None:
    with pytest.raises(InputError, match="has no campaign: nvmxfuzz fuzz begins one"):
        store.campaign()
    first = store.begin_campaign('note = "a plan ☃"\n', 5, 100)
    store.update_campaign(first, 10, 2.0, "time", now=102)
    store.resume_campaign(first, 200)
    found = store.campaign()
    assert (found.plan, found.state, found.resumptions) == ('note = "a plan ☃"\n', "running", 1)
    assert (found.executions, found.seconds, found.updated) == (10, 2.0, 200)
    with pytest.raises(InputError, match="has no campaign 9"):
        store.campaign(9)


HOLDER = """
import os, sys, time
from pathlib import Path
from nvmxfuzz.campaign.store import open_store

store = open_store(Path(sys.argv[1]))
store.claim()
if not os.fork():
    time.sleep(60)  # a child as targets.isolated has, which outlives a kill
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_campaign_is_free(path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline()
        lock_of(path).chmod(0o444)  # as of somebody else
        link = path.with_name("link")
        link.symlink_to(path.name)
        for name in (path, link):
            assert is_locked(name)
            with open_store(name) as store, pytest.raises(InputError, match="in use by another"):
                store.claim()
        with open_store(path, create=False) as reader:
            assert reader.campaigns() == ()
        holder.kill()
        holder.wait()
        assert not is_locked(path)
        lock_of(path).chmod(0o644)
        with open_store(path) as store:
            store.claim()
            store.claim()
    finally:
        try:
            # Its child, which is still there.
            os.killpg(holder.pid, signal.SIGKILL)
        finally:
            holder.stdout.close()


def test_a_store_that_was_never_locked_is_not(path: Path) -> None:
    assert not is_locked(path)
    open_store(path).close()
    assert not is_locked(path)


@pytest.mark.parametrize(
    "thing",
    [
        "CREATE VIEW other AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON campaign BEGIN DELETE FROM finding; END",
        "CREATE VIRTUAL TABLE other USING fts5(text)",
    ],
)
def test_what_would_run_by_itself_is_refused(path: Path, thing: str) -> None:
    open_store(path).close()
    database = sqlite3.connect(path)
    database.execute(thing)
    database.commit()
    database.close()
    for create in (True, False):
        with pytest.raises(InputError, match="views, triggers or virtual tables"):
            open_store(path, create=create)


def test_a_value_that_is_far_too_long_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LONGEST_VALUE", 10_000)
    with open_store(path) as store:
        store.keep_input("vm_entry", "", bytes(1000), SEED)
    database = sqlite3.connect(path)
    database.execute("UPDATE input SET data = zeroblob(100000)")
    database.commit()
    database.close()
    with (
        open_store(path, create=False) as store,
        pytest.raises(InputError, match="string or blob too big"),
    ):
        list(store.inputs("vm_entry"))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("campaign", "seconds = 9e999"),
        ("campaign", "plan = CAST(x'ff' AS TEXT)"),
        ("worker", "engine = CAST(x'c328' AS TEXT)"),
    ],
)
def test_odd_values_are_a_sentence(store: Store, table: str, change: str) -> None:
    campaign = store.begin_campaign("", 1, 1)
    store.keep_worker(campaign, StoredWorker(0, 0, "vm_entry", "", "random", 1))
    store._connection.execute(f"UPDATE {table} SET {change}")
    with pytest.raises(InputError, match=r"is damaged|could not be read"):
        (store.workers if table == "worker" else store.campaign)(campaign)


FILLER = """
import resource, sys
from pathlib import Path
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.campaign.store.values import Provenance
from nvmxfuzz.errors import InputError

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
store = open_store(Path(sys.argv[1]))
kept = 0
try:
    while True:
        store.keep_input("vm_entry", "", kept.to_bytes(4, "big") * 5000, Provenance("engine"))
        kept += 1
except InputError as error:
    print(kept, error)
"""


def test_a_full_disk_is_a_sentence_and_keeps_what_was_written(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(path)], capture_output=True, text=True, check=True
    )
    kept, _, sentence = done.stdout.partition(" ")
    assert "could not be written to" in sentence
    assert int(kept) > 5
    with open_store(path) as store:
        found = list(store.inputs("vm_entry"))
    assert [each.data[:4] for each in found] == [n.to_bytes(4, "big") for n in range(int(kept))]


def test_findings_carry_what_triage_learns(store: Store) -> None:
    campaign = store.begin_campaign("", 1, 1)
    finding = Finding("o", ("a",), ("cpu", "kvm"), "", "so")
    store.add_finding(campaign, "vm_entry", finding, b"", "text", target="kvm-6.1", seconds=3.0)
    assert store.finding("o-").flaky is None
    store.add_reruns("vm_entry", finding.identity, 5, 4)
    store.set_first_bad("vm_entry", finding.identity, "6.1")
    store.set_status("vm_entry", finding.identity, "gone")
    stored = store.finding("o-")
    assert (stored.reruns, stored.same, stored.flaky) == (5, 4, True)
    assert (stored.first_bad, stored.status, stored.seconds) == ("6.1", "gone", 3.0)
    assert stored.target == "kvm-6.1"
    assert (store.count_flaky(), store.last_finding(campaign)) == (1, 3.0)
    store.add_reruns("vm_entry", finding.identity, 5, 5)
    assert store.count_flaky() == 0
