# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of a finding while its campaign goes on: stored, seen again, made small, shown."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from nvmxfuzz.campaign.events import Died
from nvmxfuzz.campaign.harness import WITNESS_ERRORS, Harness, error_finding
from nvmxfuzz.campaign.listener import Listener
from nvmxfuzz.campaign.memory import memory_bound
from nvmxfuzz.campaign.once import death_of
from nvmxfuzz.campaign.plan import Plan
from nvmxfuzz.campaign.store import WORKER_LIVES
from nvmxfuzz.campaign.store.recorder import Recorder
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.inputs.text import dump_text
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.minimise import Budget
from nvmxfuzz.triage.reproduce import Triaged, triage

TRIAGE_SECONDS = 20
"""How long triage of one finding may take; its own budget is smaller, unless a case hangs."""


class _TooLongError(Exception):
    """Triage did not come to an end."""


@dataclass(slots=True)
class Desk:
    """Where findings go in.

    `found` lists the identities of this campaign, `without_input` those of them that nobody can run
    again, `new` counts those the store did not have. A
    finding is stored first and triaged then, so that nothing is lost when the campaign is ended
    in between. What triage runs is in this process, within the memory of a worker: the worker ran
    the same and lived.
    """

    plan: Plan
    harness: Harness
    recorder: Recorder
    listener: Listener
    stop: Callable[[], bool]
    """Whether there is no more time to minimise in."""

    interrupted: Callable[[], bool]
    found: list[str] = field(default_factory=list)
    without_input: list[str] = field(default_factory=list)
    new: int = 0

    def found_by_oracle(self, finding: Finding, data: bytes) -> None:
        """Take a finding that a worker reports."""
        case, error = self._decoded(data)
        is_new = self._keep(finding, data, case)
        if is_new is None:
            return
        if self.interrupted():
            note = "not run again"
        elif case is None:
            again = error is not None and error.identity == finding.identity
            note = self._note(finding, Triaged(again, None))
        else:
            note = self._note(finding, self._triage(case, finding.identity))
        self.listener.finding(finding, is_new=is_new, note=note)

    def worker_died(self, event: Died) -> None:
        """Take a death: its input is run again alone, in a process of its own."""
        finding = Finding(
            oracle=WORKER_LIVES,
            rules=(event.reason,),
            targets=(self.harness.name, self.plan.target or self.harness.name),
            site="",
            message=f"a worker ended with {event.reason}: {event.detail}",
        )
        case, _ = self._decoded(event.data)
        is_new = self._keep(finding, event.data, case)
        if is_new is None:
            return
        if not event.data:
            self.without_input.append(finding.identity)
        death = death_of(self.plan, event.data, self.interrupted)
        note = "not run again"
        if not self.interrupted():
            again = death is not None and death.reason == event.reason
            note = self._note(finding, Triaged(again, None))
        self.listener.finding(finding, is_new=is_new, note=note)

    def _keep(self, finding: Finding, data: bytes, case: Case | None) -> bool | None:
        """Store a finding; return whether it is new, None if this campaign has had it before."""
        text = "" if case is None else _text(case, finding)
        try:
            is_new = self.recorder.keep(finding, data, text)
        except InputError as error:
            raise InputError(
                f"{error}; not stored is {finding.identity}: {finding.message}"
            ) from error
        if finding.identity in self.found:
            return None
        self.found.append(finding.identity)
        self.new += is_new
        return is_new

    def _decoded(self, data: bytes) -> tuple[Case | None, Finding | None]:
        try:
            return self.harness.decode(data), None
        except WITNESS_ERRORS as error:
            return None, error_finding(error, self.harness.name)

    def _triage(self, case: Case, identity: str) -> Triaged | str:
        """Return what triage made of a finding, or why it came to no end."""
        try:
            with _time_limit(TRIAGE_SECONDS), memory_bound(self.plan.memory):
                return triage(self.harness.examine, case, identity, Budget(stop=self.stop))
        except _TooLongError:
            return "triage took too long"
        except MemoryError:
            return "triage took too much memory"

    def _note(self, finding: Finding, triaged: Triaged | str) -> str:
        """Store what triage came to, and say it."""
        if isinstance(triaged, str):
            return triaged
        small = triaged.smallest
        self.recorder.keep_triage(
            finding.identity,
            reproduced=triaged.reproduced,
            minimised_text=None if small is None else _text(small, finding),
        )
        if not triaged.reproduced:
            return "flaky: a second run did not show it"
        return "seen again" if small is None else "seen again, minimised"


def _text(case: Case, finding: Finding) -> str:
    return dump_text(replace(case, note=finding.message))


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise _TooLongError

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
