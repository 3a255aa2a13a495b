# SPDX-License-Identifier: GPL-2.0-only
"""Triage as a campaign calls it: fresh processes, flaky marks, deaths that are results."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvmxfuzz.campaign.plan import load_harness
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.inputs.codec import encode
from nvmxfuzz.inputs.difference import Edit, apply, differences
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.deaths import HANG, death_finding
from nvmxfuzz.triage.fresh import Fresh
from nvmxfuzz.triage.job import Job, Limits, Setting, TriageResult
from nvmxfuzz.triage.work import triage_job

HARNESSES = Path(__file__).parents[1] / "campaign" / "harnesses"
SOUND, FLAKY, FORGETFUL = (
    str(HARNESSES / f"{name}.py") for name in ("sound", "flaky", "forgetful")
)
LIMITS = Limits(reruns=2, case_seconds=5)


def entry(*edits: Edit) -> Case:
    start = EntryCase(base("guest-64", load_profile("skylake-x")), "guest-64")
    return apply(start, edits)


BUSY = entry(
    Edit("guest_dr7", 0x1234),
    Edit("virtual_processor_id", 0xFF9),
    Edit("tpr_threshold", 7),
    Edit("host_cr0", 0),
    Edit("guest_rip", 1 << 63),
)


def left(result: TriageResult) -> tuple[object, ...]:
    case = load_case(result.case_text.encode(), "")
    assert isinstance(case, EntryCase)
    return differences(case)


def job(harness: str, finding: Finding, case: Case = BUSY) -> Job:
    return Job(harness, None, encode(case), finding)


def forgotten() -> Finding:
    """Return what the forgetful harness shows on the busy case: host state that a dry run skips."""
    found = load_harness(Path(FORGETFUL)).examine(BUSY)
    return next(finding for finding in found if finding.oracle == "entry.dry-run")


def test_what_every_process_shows_is_made_small() -> None:
    found = forgotten()
    result = triage_job(job(FORGETFUL, found), LIMITS)
    assert (result.runs, result.same, result.flaky) == (2, 2, False)
    assert result.identity == found.identity
    assert result.note == "2 of 2 runs show it, minimised"
    assert [edit.slot for edit in left(result) if isinstance(edit, Edit)] == ["host_cr0"]
    assert 0 < result.executions <= LIMITS.runs


def test_what_some_processes_show_is_flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    monkeypatch.setenv("FLAKY", str(count))
    finding = Finding("settled", (), ("cpu", "cpu"), "", "")
    result = triage_job(job(FLAKY, finding), Limits(reruns=5))
    assert (result.runs, result.same, result.flaky) == (5, 3, True)
    assert (result.case_text, result.note) == ("", "flaky: 3 of 5 runs show it")


def test_what_no_process_shows_is_flaky_and_what_they_show_is_told() -> None:
    found = forgotten()
    other = Finding("settled", (), ("cpu", "cpu"), "", "")
    result = triage_job(job(FORGETFUL, other), LIMITS)
    assert (result.same, result.flaky, found.identity in result.others) == (0, True, True)


@pytest.mark.parametrize(("trouble", "reason"), [("segv", "SIGSEGV"), ("exit", "exit 3")])
def test_what_ends_its_process_is_made_small(
    trouble: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TROUBLE", trouble)
    result = triage_job(job(SOUND, death_finding("sound", None, reason)), LIMITS)
    assert (result.runs, result.same) == (2, 2)
    assert left(result) == (Edit("virtual_processor_id", 9),)  # 1 in the base


def test_what_hangs_its_process_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE", "hang")
    limits = Limits(reruns=2, case_seconds=0.5)
    result = triage_job(job(SOUND, death_finding("sound", None, HANG)), limits)
    assert (result.runs, result.same, result.executions) == (2, 2, 0)
    assert left(result) == differences(BUSY)  # type: ignore[arg-type] # it has slots


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROUBLE", "swell")
    with Fresh(Setting(SOUND), LIMITS) as process:
        (found,) = process.examine(BUSY).findings
    assert (found.oracle, found.rules) == ("no-error", ("MemoryError",))


def test_a_death_is_an_answer_and_the_next_case_gets_a_new_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TROUBLE", "kill")
    with Fresh(Setting(SOUND), LIMITS) as process:
        (found,) = process.examine(BUSY).findings
        assert found == death_finding("sound", None, "SIGKILL")
        assert process.examine(entry()).findings == ()
        assert process.starts == 2


def test_it_ends_when_it_is_asked_to() -> None:
    found = forgotten()
    result = triage_job(job(FORGETFUL, found), LIMITS, stop=lambda: True)
    assert (result.runs, result.case_text, result.note) == (0, "", "not run again")


def test_a_harness_that_is_gone_is_a_sentence() -> None:
    finding = death_finding("gone", None, HANG)
    with pytest.raises(InputError, match="is not there any more"):
        triage_job(job("/no/such/harness.py", finding), LIMITS)
