# SPDX-License-Identifier: GPL-2.0-only
"""A harness: what a fuzzing entry point runs on each input, and what must hold over the run.

Policy on what is checked. The witness judges every input. The oracles cost several judgements
each, so that a campaign asks them only on inputs that show new behaviour (a rule with a verdict
not seen before, or broken alone for the first time), on one that is `another` though its verdicts
are not new (`campaign.variety`), on one in `sample_of`, chosen by a
checksum of its bytes: the same run makes the same choice, and on one of which the oracles that are
always asked have found something new. Where another witness costs less, a
campaign may ask it first, and the witness of the harness only about what is `due` then
(`campaign.screening`). Examining a single case (replay,
reproduction, minimising, the property tests) always asks every oracle.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from zlib import crc32

from nvmxfuzz.campaign.last_input import LastInput
from nvmxfuzz.inputs.case import Case, CaseKind, EntryCase, WorldCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.rebase import rebase
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.session.play import Stage
from nvmxfuzz.targets.kvm_native.errors import IoctlError

SAMPLE_OF = 256
"""Of the inputs without new behaviour, one in so many meets the oracles. A power of two."""

WITNESS_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    IoctlError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a defect in a witness or an oracle raises: a finding, and no reason to end the campaign.

So does a KVM that refuses what has to be possible, such as to read registers."""

_PACKAGE = Path(__file__).parents[1]


def itself(case: WorldCase) -> WorldCase:
    """Return the case: a harness that keeps to no world."""
    return case


Witness: TypeAlias = Callable[..., object]


class Verdicts(Protocol):
    """What a run said of each point: `asked` is a mask, the others list the numbers of points.

    `nvmxfuzz.cpu.judgement.Judgement` is one. A point that was asked and is neither broken nor
    unknown is held, one that was not asked is n/a.
    """

    @property
    def asked(self) -> int:
        """The points that were asked, as a mask."""

    @property
    def broken(self) -> Sequence[int]:
        """The points that do not hold."""

    @property
    def unknown(self) -> Sequence[int]:
        """The points whose answer is not known; one may stand twice."""


class Neighbours(Protocol):
    """Runs inputs that differ a little from one that was executed."""

    @property
    def entries(self) -> int:
        """How many have been run."""

    def around(
        self, case: EntryCase, verdicts: Verdicts, data: bytes, last_input: LastInput, seed: int
    ) -> tuple[bytes, ...]:
        """Run the neighbours of a case, with its verdicts; return those worth an execution.

        `last_input` is to have each of them while it runs.
        """


@dataclass(frozen=True, slots=True)
class Harness:
    """A harness as a value; `name` is also the name of its seed folder and of `fuzz/NAME.py`.

    `kind` says what its cases are, which is all that decoding and mutating depend on. `run` is the
    one place where the witness is named: a test plants a fault by replacing it. `arguments` gives
    what `run` takes for a case, `points` names what a run gives verdicts on.
    """

    name: str
    kind: CaseKind
    run: Witness
    arguments: Callable[[Any], tuple[Any, ...]]
    verdicts: Callable[[Any, Any], Verdicts]
    """The verdicts in a case and what `run` returned for it."""
    points: tuple[str, ...]
    noun: str
    """What the points are called, in the plural."""
    oracles: tuple[Oracle[Any, Any], ...]
    always: tuple[Oracle[Any, Any], ...] = ()
    """Oracles that a campaign asks on every input, because they cost little."""
    profiles: tuple[str, ...] = PROFILES
    """The profiles that inputs have numbers for, and that a campaign keeps to."""
    due: Callable[[Any, bytes], bool] | None = None
    """Whether a campaign has the witness judge a case and its input; None: each one."""
    another: Callable[[Any, Verdicts], bool] | None = None
    """Whether the oracles look at a case though its verdicts are not new; None: as sampled."""
    sample_of: int = SAMPLE_OF
    """Of the inputs without new behaviour, one in so many meets the oracles; see `is_sampled`."""
    home: Callable[[WorldCase], WorldCase] = itself
    """Brings a case that has worlds to those that a campaign keeps to."""
    stage: Callable[[Any], Stage] | None = None
    """Where a case of steps is played, for an engine that makes them one by one."""
    counters: Callable[[], tuple[int, int, int]] | None = None
    """Where native code counts what it executes: 8-bit counters, their PC table, their number."""
    nested_counters: Callable[[], range] = lambda: range(0)
    """Which of these are of nested.c, whose coverage is told."""
    again: Callable[[Any], object] | None = None
    """What another witness makes of a case, run afresh: a part of the behaviour of an input."""
    known: Callable[[Any, Any], tuple[str, ...]] | None = None
    """The known differences that a case shows, for which the witness has returned a result."""
    neighbours: Neighbours | None = None
    """Runs others like each input, if there is a way that costs next to nothing."""
    conditions: Callable[[], frozenset[str]] | None = None
    """The conditions of KVM that have fired so far."""

    def decode(self, data: bytes) -> Case:
        """Return the case that an input is: any bytes are one."""
        return self.at_home(decode(data, self.kind, self.profiles))

    def encode(self, case: Case) -> bytes:
        """Return an input that `decode` makes the case of, or what it is on one of `profiles`."""
        return encode(self.at_home(case), self.profiles)

    def at_home(self, case: Case) -> Case:
        """Return a case as it is where the campaign keeps to: most are that already."""
        if isinstance(case, WorldCase):
            return self.home(case)
        if self.profiles is PROFILES or case.profile.name in self.profiles:
            return case
        return rebase(case, self.profiles)

    def asks_all(self, case: Case, verdicts: Verdicts, data: bytes) -> bool:
        """Tell whether every oracle looks at a case whose verdicts are not new."""
        is_another = self.another is not None and self.another(case, verdicts)
        return is_another or is_sampled(data, self.sample_of)

    def judge(self, case: Case) -> tuple[object, Verdicts]:
        """Return the run of the witness on a case, and its verdicts."""
        result = self.run(*self.arguments(case))
        return result, self.verdicts(case, result)

    def check(self, case: Case, result: object) -> tuple[Finding, ...]:
        """Ask every oracle about a case that the witness has already run on, with `result`."""
        return self._ask((*self.always, *self.oracles), case, result)

    def check_always(self, case: Case, result: object) -> tuple[Finding, ...]:
        """Ask only the oracles that every input meets."""
        return self._ask(self.always, case, result) if self.always else ()

    def _ask(
        self, oracles: Sequence[Oracle[Any, Any]], case: Case, result: object
    ) -> tuple[Finding, ...]:
        subject = self.arguments(case)

        def run(*arguments: object) -> object:
            return result if arguments == subject else self.run(*arguments)

        findings: list[Finding] = []
        for oracle in oracles:
            try:
                finding = oracle.check(case, run)
            except WITNESS_ERRORS as error:
                finding = error_finding(error, self.name)
            if finding is not None:
                findings.append(finding)
        return tuple(findings)

    def examine(self, case: Case) -> tuple[Finding, ...]:
        """Run the witness on a case and ask every oracle."""
        try:
            result, _ = self.judge(case)
        except WITNESS_ERRORS as error:
            return (error_finding(error, self.name),)
        return self.check(case, result)


def is_sampled(data: bytes, sample_of: int = SAMPLE_OF) -> bool:
    """Whether the oracles look at an input that shows nothing new; one in a power of two."""
    return crc32(data) & sample_of - 1 == 0


def error_finding(error: BaseException, harness: str) -> Finding:
    """Return the finding that a witness or an oracle raised an error.

    Its site is the innermost function of this project, so that it moves with no line number.
    """
    site = "?"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            place = path.relative_to(_PACKAGE).with_suffix("").as_posix()
            site = f"{place}:{frame.f_code.co_name}"
    kind = type(error).__name__
    return Finding(
        oracle="no-error",
        rules=(kind,),
        targets=(harness, harness),
        site=site,
        message=f"{kind} in {site}: {error}"[:500],
    )
