# SPDX-License-Identifier: GPL-2.0-only
"""What a person sees of a campaign."""

import io
from dataclasses import replace

import pytest

from nvmxfuzz.campaign.events import Ended, Notice, Progress, Seen
from nvmxfuzz.campaign.tally import Tally
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.reports import console
from nvmxfuzz.reports.console import Console, Terminal
from nvmxfuzz.reports.summary import JobSummary, Summary

FINDING = Finding("some.oracle", ("a",), ("cpu", "cpu"), "", "it is [so]")
SEEN = Seen(na=0b1, held=0b111, broken=0b11)
JOB = JobSummary("vm_entry by random", "rules", 8, SEEN, 3000)
SUMMARY = Summary(
    jobs=(JOB,),
    harness="vm_entry",
    engine="random",
    seed=7,
    reason="time",
    seconds=2.0,
    executions=3000,
    deaths=0,
    findings=(),
    new=0,
    store="nvmxfuzz.db",
    replay=(".venv/bin/nvmxfuzz", "replay", "nvmxfuzz.db"),
    repro=(".venv/bin/nvmxfuzz", "repro", "--store", "nvmxfuzz.db"),
)


def shown(*, terminal: bool) -> str:
    """Return what a campaign with a finding and a notice writes."""
    stream = io.StringIO()
    view = Console(Terminal(file=stream, force_terminal=terminal, width=100), [JOB])
    tally = Tally()
    for event in (Progress(0, 1234, SEEN, ()), Notice(0, "mind the gap")):
        tally.take(event)
        view.take(event, tally)
    view.finding(FINDING, is_new=True, note="seen again")
    view.close()
    return stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_status_findings_and_notices_are_shown(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(console, "PLAIN_EVERY", 0)
    monkeypatch.setattr(console, "_REFRESH_SECONDS", 0)
    text = shown(terminal=terminal)
    assert "1,234" in text
    assert "1 n/a, 3 held, 2 broken" in text
    assert "mind the gap" in text
    assert f"finding {FINDING.identity}: it is [so] (seen again)" in text
    assert ("\x1b" in text) == terminal


def test_where_no_terminal_is_the_status_is_not_written_all_the_time() -> None:
    text = shown(terminal=False)
    assert "1,234 runs" not in text
    assert len(text.splitlines()) == 2


def test_the_summary_tells_numbers_store_and_replay() -> None:
    text = SUMMARY.to_text()
    assert "vm_entry by random, seed 7: done after 2.0 s" in text
    assert "3,000 (1,500 a second)" in text
    assert "1 n/a, 3 held, 2 broken, of 8" in text
    (how,) = [line for line in text.splitlines() if "--finding" in line]
    assert how.endswith("run again by: .venv/bin/nvmxfuzz replay nvmxfuzz.db --finding ID")
    assert "restarted" not in text


def test_the_summary_names_findings_but_not_hundreds() -> None:
    names = tuple(f"some.oracle-{number:012}" for number in range(100))
    text = replace(SUMMARY, findings=names, new=3, deaths=2, reason="interrupted").to_text()
    assert "100 (3 new)" in text
    lines = [line.strip() for line in text.splitlines()]
    commands = [line for line in lines if line.startswith(".venv/bin/nvmxfuzz replay nvmxfuzz.db")]
    assert commands == [
        *(f".venv/bin/nvmxfuzz replay nvmxfuzz.db --finding {name}" for name in names[:10]),
        ".venv/bin/nvmxfuzz replay nvmxfuzz.db",
    ]
    assert "and 90 more" in text
    assert "more" not in replace(SUMMARY, findings=names[:10]).to_text()
    assert "restarted 2 times" in text
    assert "interrupted after" in text


def test_a_command_with_blanks_is_quoted() -> None:
    text = replace(SUMMARY, replay=("x", "replay", "my store")).to_text()
    assert "x replay 'my store' --finding ID" in text


def test_the_summary_as_json_counts() -> None:
    line = SUMMARY.to_json()
    assert line["rules"] == {"all": 8, "n/a": 1, "held": 3, "broken": 2, "unknown": 0}
    assert line["executions_per_second"] == 1500
    assert replace(SUMMARY, seconds=0).to_json()["executions_per_second"] == 0
    assert "vm_entries" not in line


def test_the_summary_tells_how_a_finding_is_told_to_others() -> None:
    text = replace(SUMMARY, findings=("a-1", "b-2"), without_input=("a-1",)).to_text()
    assert text.splitlines()[-1].strip() == ".venv/bin/nvmxfuzz repro --store nvmxfuzz.db b-2"
    assert "repro" not in replace(SUMMARY, findings=("a-1",), without_input=("a-1",)).to_text()


@pytest.mark.parametrize(("reason", "named"), [("time", True), ("interrupted", False)])
def test_a_job_that_had_no_time_is_named(reason: str, named: bool) -> None:
    idle = replace(JOB, label="session by atheris", executions=0)
    text = replace(SUMMARY, jobs=(JOB, idle), reason=reason).to_text()
    assert ("no time for   session by atheris: give the campaign more" in text) == named
    assert "no time for" not in SUMMARY.to_text()


def test_vm_entries_are_told_apart_from_executions(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = replace(SUMMARY, entries=50_000, entered_seconds=2.0)
    assert "VM entries    50,000 (25,000 a second)" in summary.to_text()
    line = summary.to_json()
    assert (line["executions"], line["vm_entries"], line["vm_entries_per_second"]) == (
        *(3000, 50_000),
        25_000,
    )
    monkeypatch.setattr(console, "PLAIN_EVERY", 0)
    stream, tally = io.StringIO(), Tally()
    view = Console(Terminal(file=stream, width=200), [JOB])
    for entries in (40_000, 41_000):
        tally.take(Progress(0, 1234, SEEN, (), entries=entries))
    tally.take(Ended(0))
    tally.take(Progress(0, 5, SEEN, (), entries=500))
    view.take(Progress(0, 5, SEEN, ()), tally)
    view.close()
    assert "1,239 runs" in stream.getvalue()
    assert "VM entries: 41,500" in stream.getvalue()
