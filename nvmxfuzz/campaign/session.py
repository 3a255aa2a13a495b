# SPDX-License-Identifier: GPL-2.0-only
"""A worker's part of a campaign: execute inputs one by one, report what happens, know the end."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from nvmxfuzz.campaign.behaviour import Behaviour
from nvmxfuzz.campaign.events import Ended, Found, Notice, Progress, Started, WorkerEvent
from nvmxfuzz.campaign.feedback import VerdictFeedback
from nvmxfuzz.campaign.harness import (
    WITNESS_ERRORS,
    Harness,
    Verdicts,
    error_finding,
    is_sampled,
)
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.inputs.case import Case
from nvmxfuzz.oracles.finding import Finding

REPORT_EVERY = 0.25
"""Seconds between two reports of progress."""


MOST_FINDINGS = 1000
"""So many different findings are kept in mind; a witness that broken needs no more of them."""


class Session:
    """Executes inputs for an engine, which calls `execute` until `finished`."""

    def __init__(
        self,
        harness: Harness,
        settings: Settings,
        send: Callable[[WorkerEvent], None],
        last_input: LastInput,
    ) -> None:
        self.harness = harness
        self.settings = settings
        self.finished = False
        self.feedback: VerdictFeedback | None = None
        self._send = send
        self._last_input = last_input
        self._behaviour = Behaviour(len(harness.points))
        self._sightings: dict[str, int] = {}
        self._executions = 0
        self._started = monotonic()
        self._next_report = self._started + REPORT_EVERY
        send(Started(settings.worker))

    def execute(self, data: bytes) -> None:
        """Run the harness on an encoded case."""
        self._count(data)
        try:
            case = self.harness.decode(data)
        except WITNESS_ERRORS as error:
            self._report((error_finding(error, self.harness.name),), data)
            return
        self._judge(case, data)

    def execute_case(self, case: Case, data: bytes) -> None:
        """Run the harness on a case that an engine has both decoded and encoded."""
        self._count(data)
        self._judge(case, data)

    def begin(self, data: bytes) -> None:
        """Keep what is known of an input that an engine is about to execute itself."""
        self._last_input.write(self._executions + 1, data)

    def execute_seen(self, case: Case, data: bytes, result: object) -> None:
        """Judge a case that an engine has had the witness run, with what came of it."""
        self._count(data)
        self._weigh(case, data, result, self.harness.verdicts(case, result))

    def fail(self, data: bytes, error: Exception) -> None:
        """Report that the witness raised an error where an engine executed an input itself."""
        self._count(data)
        self._report((error_finding(error, self.harness.name),), data)

    def notice(self, text: str) -> None:
        """Tell the person at the console something."""
        self._send(Notice(self.settings.worker, text))

    def stop(self) -> None:
        """Finish after the current input."""
        self.finished = True

    def end(self) -> None:
        """Report what is not yet reported, and the end."""
        self._report_progress()
        self._send(Ended(self.settings.worker))

    def _count(self, data: bytes) -> None:
        self._executions += 1
        self._last_input.write(self._executions, data)
        if self._executions == self.settings.runs:
            self.finished = True
        now = monotonic()
        if now >= self._next_report:
            self._next_report = now + REPORT_EVERY
            self._report_progress()
            seconds = self.settings.seconds
            if seconds is not None and now >= self._started + seconds:
                self.finished = True

    def _judge(self, case: Case, data: bytes) -> None:
        harness = self.harness
        try:
            if harness.due is not None and not harness.due(case, data):
                return
            result, verdicts = harness.judge(case)
        except WITNESS_ERRORS as error:
            self._report((error_finding(error, self.harness.name),), data)
            return
        self._weigh(case, data, result, verdicts)

    def _weigh(self, case: Case, data: bytes, result: object, verdicts: Verdicts) -> None:
        """Ask the oracles about a run: all of them where it shows something new."""
        harness = self.harness
        if self.feedback is not None:
            self.feedback.note(verdicts)
        asks_all = self._behaviour.note(verdicts) or is_sampled(data)
        findings = () if asks_all else harness.check_always(case, result)
        if asks_all or self._has_new(findings):
            findings = harness.check(case, result)
        self._report(findings, data)

    def _has_new(self, findings: tuple[Finding, ...]) -> bool:
        """Whether a finding is one to report; the oracles that cost more may say where it is."""
        return len(self._sightings) < MOST_FINDINGS and any(
            each.identity not in self._sightings for each in findings
        )

    def _report(self, findings: tuple[Finding, ...], data: bytes) -> None:
        for finding in findings:
            identity = finding.identity
            count = self._sightings.get(identity, 0)
            if count == 0 and len(self._sightings) == MOST_FINDINGS:
                continue
            self._sightings[identity] = count + 1
            if count == 0:
                self._send(Found(self.settings.worker, finding, data))
                if len(self._sightings) == MOST_FINDINGS:
                    self.notice(f"{MOST_FINDINGS} different findings: further ones are dropped")

    def _report_progress(self) -> None:
        self._send(
            Progress(
                self.settings.worker,
                self._executions,
                self._behaviour.seen,
                tuple(self._sightings.items()),
            )
        )
