# SPDX-License-Identifier: GPL-2.0-only
"""A worker's part of a campaign: execute inputs one by one, report what happens, know the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Final
from zlib import crc32

from nvmxfuzz.campaign.behaviour import Behaviour
from nvmxfuzz.campaign.closer_look import LOOK_AT, CloserLook
from nvmxfuzz.campaign.events import Ended, Found, Kept, Notice, Progress, Started, WorkerEvent
from nvmxfuzz.campaign.feedback import VerdictFeedback
from nvmxfuzz.campaign.harness import (
    WITNESS_ERRORS,
    Harness,
    Neighbours,
    Verdicts,
    error_finding,
)
from nvmxfuzz.campaign.inputs_folder import NAME, InputsFolder
from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.campaign.memory import resident
from nvmxfuzz.campaign.settings import Settings
from nvmxfuzz.inputs.case import Case, EntryCase
from nvmxfuzz.oracles.finding import Finding

REPORT_EVERY: Final = 0.25
"""Seconds between two reports of progress."""


MOST_FINDINGS: Final = 1000
"""So many different findings are kept in mind; a witness that broken needs no more of them."""

_MOST_PARENTS: Final = 2048
_MOST_OFFERED: Final = 256
_MOST_LATEST: Final = 4096
"""Executions that the parents are kept of: more than there are between two reports, or nearly."""

_MOST_LOOKED_AT: Final = 32
"""Inputs that libFuzzer has kept and that are looked at in one report."""


class Session:
    """Executes inputs for an engine, which calls `execute` until `finished`.

    `parents` are inputs that are worth mutating, `offered` those of them that the engine does not
    know yet. An engine that knows what it has made an input from says so in `parent` before it
    executes it.
    """

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
        self.parents: list[bytes] = []
        self.parent = b""
        self.offered: deque[bytes] = deque(maxlen=_MOST_OFFERED)
        self._send = send
        self._last_input = last_input
        self._behaviour = Behaviour(len(harness.points))
        self._look = CloserLook(harness, last_input.beat)
        self._folder = InputsFolder(Path(settings.folder, NAME))
        self._latest: deque[tuple[bytes, bytes]] = deque(maxlen=_MOST_LATEST)
        self._sightings: dict[str, int] = {}
        self._executions = 0
        self._among_neighbours = False
        self._around: deque[tuple[EntryCase, Verdicts, bytes]] = deque()
        self._started = monotonic()
        self._next_report = self._started + REPORT_EVERY
        self._most_resident = resident() + settings.growth if settings.growth else 0
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

    def execute_all(self) -> None:
        """Run the harness on the inputs that the campaign begins with."""
        for data in self._folder.all():
            if not self.finished:
                self._take(data)

    def execute_arrivals(self) -> None:
        """Run the harness on what other workers have kept since."""
        if self.settings.shared:
            for data in self._folder.new(_MOST_LOOKED_AT):
                self._take(data)

    def look_at_kept(self) -> None:
        """Report what libFuzzer has kept since, and look at it closely."""
        kept = self._folder.new(_MOST_LOOKED_AT)
        if not kept:
            return
        parents = dict(self._latest)
        for data in kept:
            self._send(Kept(self.settings.worker, data, _digest(parents.get(data, b""))))
            self._last_input.write(self._executions, data)
            try:
                self._look.of(self.harness.decode(data))
            except WITNESS_ERRORS:
                continue  # it was a finding when it was executed

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

    def _take(self, data: bytes) -> None:
        self.parent = b""
        self.execute(data)
        self._add_parent(data)

    def _count(self, data: bytes) -> None:
        now = monotonic()
        if now >= self._next_report:
            self._next_report = now + REPORT_EVERY
            self._report_progress()
            self._see_to_limits(now)
        self._executions += 1
        self._last_input.write(self._executions, data)
        self._latest.append((data, self.parent))
        if self._executions == self.settings.runs:
            self.finished = True

    def _see_to_limits(self, now: float) -> None:
        seconds = self.settings.seconds
        is_late = seconds is not None and now >= self._started + seconds
        # What leaks is given back with the process: another one follows.
        if is_late or 0 < self._most_resident < resident():
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
        is_new = self._behaviour.note(verdicts)
        asks_all = is_new or harness.asks_all(case, verdicts, data)
        findings = () if asks_all else harness.check_always(case, result)
        if asks_all or self._has_new(findings):
            findings = harness.check(case, result)
        self._report(findings, data)
        if is_new:
            self._keep(data)
        if is_new or (asks_all and crc32(data) & LOOK_AT - 1 == 0):
            self._look.of(case, verdicts)
        # A neighbour that shows something new has neighbours worth a look as well.
        if is_new or not self._among_neighbours:
            self._look_around(case, verdicts, data)

    def _look_around(self, case: Case, verdicts: Verdicts, data: bytes) -> None:
        """Run the neighbours of an input, and execute those that are worth it, as inputs.

        The engine is not told: to it, what is executed is `data`.
        """
        neighbours = self.harness.neighbours
        if neighbours is None or not isinstance(case, EntryCase):
            return
        self._around.append((case, verdicts, data))
        if self._among_neighbours:
            return
        self._among_neighbours = True
        while self._around and not self.finished:
            self._run_around(neighbours, *self._around.popleft())
        self._among_neighbours = False
        self._last_input.write(self._executions, data)

    def _run_around(
        self, neighbours: Neighbours, case: EntryCase, verdicts: Verdicts, data: bytes
    ) -> None:
        found = neighbours.around(case, verdicts, data, self._last_input, self.settings.seed)
        if not found:
            return
        kept = self.parent, self.feedback
        self.parent, self.feedback = data, None
        with self._look.aside():
            for each in found:
                if not self.finished:
                    self.execute(each)
        self.parent, self.feedback = kept

    def _keep(self, data: bytes) -> None:
        """Report an input that shows a verdict for the first time."""
        new = self._behaviour.news()
        self._send(Kept(self.settings.worker, data, _digest(self.parent), new))
        self._add_parent(data)
        if self._among_neighbours:
            self.offered.append(data)

    def _add_parent(self, data: bytes) -> None:
        if len(self.parents) < _MOST_PARENTS:
            self.parents.append(data)
        else:
            self.parents[crc32(data) % _MOST_PARENTS] = data

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
        if self.settings.engine == "atheris":
            self.look_at_kept()
        edges, all_edges = self._look.edges
        self._send(
            Progress(
                self.settings.worker,
                self._executions,
                self._behaviour.seen,
                tuple(self._sightings.items()),
                known=tuple(self._look.known.items()),
                conditions=self._look.conditions(),
                edges=edges,
                all_edges=all_edges,
                rerun=self._look.rerun,
                same=self._look.same,
                resident=resident(),
                entries=self._entries(),
            )
        )

    def _entries(self) -> int:
        """Return how many VM entries L1 has made, 0 where inputs are all there is to count."""
        neighbours = self.harness.neighbours
        return neighbours.entries + self._executions if neighbours else 0


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest() if data else ""
