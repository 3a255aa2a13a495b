# SPDX-License-Identifier: GPL-2.0-only
"""Whoever is killed, and whenever: what was found is stored, and the campaign goes on."""

import runpy
from pathlib import Path

import pytest

from nvmxfuzz.campaign import journal
from nvmxfuzz.campaign.beginning import take_over
from nvmxfuzz.campaign.events import Found, Kept, to_line
from nvmxfuzz.campaign.inputs_folder import NAME
from nvmxfuzz.campaign.journal import Journal, read_journal
from nvmxfuzz.campaign.last_input import LAST_INPUT, LastInput
from nvmxfuzz.campaign.recovery import note_job
from nvmxfuzz.campaign.store import open_store
from nvmxfuzz.oracles.finding import Finding

BENCH = Path(__file__).parents[2] / "ci" / "benches" / "killing.py"
KILLS = 20
FINDING = Finding("some.oracle", (), ("cpu", "cpu"), "", "it is so")


def test_twenty_kills_at_random_lose_no_finding(tmp_path: Path) -> None:
    outcome = runpy.run_path(str(BENCH))["Killing"](tmp_path, KILLS, 1).run()
    assert outcome.workers + outcome.campaigns == KILLS
    assert outcome.campaigns > 2
    assert outcome.noted > 5
    assert outcome.lost == ()


def left(folder: Path) -> None:
    """Leave what a campaign leaves that was killed: told, being executed, and kept by libFuzzer."""
    worker = folder / "worker-3"
    (worker / NAME).mkdir(parents=True)
    note_job(worker, "vm_entry", None, "atheris")
    written = Journal(worker / journal.NAME)
    written.write(to_line(Found(3, FINDING, b"\1found")))
    written.write(to_line(Kept(3, b"\1kept")))
    written.write(to_line(Found(3, FINDING, b"cut off"))[:20])
    LastInput(worker / LAST_INPUT).write(7, b"\1last")
    (worker / NAME / "unit").write_bytes(b"\1unit")


def test_what_a_killed_campaign_leaves_goes_into_the_store_once(tmp_path: Path) -> None:
    left(tmp_path / "run")
    with open_store(tmp_path / "store.db") as store:
        campaign = store.begin_campaign("", 1, 0)
        assert take_over(tmp_path / "run", store, campaign) == (1, 3)
        assert take_over(tmp_path / "run", store, campaign) == (0, 0)
        (finding,) = store.findings()
        assert (finding.identity, finding.data) == (FINDING.identity, b"\1found")
        assert "it is so" in finding.case_text
        kept = {each.data for each in store.inputs("vm_entry")}
    assert kept == {b"\1kept", b"\1last", b"\1unit"}


@pytest.mark.parametrize("content", [b"", b"{}\n", b"\xff\n", b"[1]\n", b'{"event": "Found"}\n'])
def test_a_journal_that_is_damaged_ends_there(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(to_line(Kept(1, b"x")) + content + to_line(Kept(1, b"y")))
    assert next(read_journal(path)) == Kept(1, b"x")
    assert len(list(read_journal(path))) == (1 if content else 2)
