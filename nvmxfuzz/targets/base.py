# SPDX-License-Identifier: GPL-2.0-only
"""What a target is, and what it observes of one attempt at VM entry."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import Outcome
from nvmxfuzz.machine.profile import Profile

Status = Literal["outcome", "no-opinion", "not-representable", "died"]
"""The entry was judged; the target gave up on it; it cannot stand for such a machine; it died."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a target says of its reasons: `text`, made from `template`.

    The template is the same for all cases that one check refuses, so that it can be mapped to
    rules and counted; it holds conversions as printf has them where the text has values.
    """

    template: str
    text: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of one attempt on one target.

    `outcomes` is empty unless the status is "outcome". A target that executes the instruction has
    one; a witness that knows what is permitted has all of them, ascending. `reason` is a sentence
    wherever there is no outcome. `messages` are what the target itself says of its reasons, up to
    the point where the outcome was decided. `msr` is the index of the MSR that could not be
    loaded, where that is what ended the entry.
    """

    status: Status
    outcomes: tuple[Outcome, ...] = ()
    reason: str = ""
    messages: tuple[Message, ...] = ()
    msr: int | None = None

    @property
    def outcome(self) -> Outcome | None:
        """The one outcome, or None if there is none or more than one."""
        return self.outcomes[0] if len(self.outcomes) == 1 else None

    def to_json(self) -> dict[str, object]:
        """Return the form that the commands print with `--json`."""
        said: dict[str, object] = {"status": self.status}
        if self.outcomes:
            said["outcomes"] = [outcome.to_json() for outcome in self.outcomes]
        if self.reason:
            said["reason"] = self.reason
        if self.messages:
            said["messages"] = [message.text for message in self.messages]
        if self.msr is not None:
            said["msr"] = f"{self.msr:#x}"
        return said


def observed(outcome: Outcome, messages: tuple[Message, ...] = ()) -> Observation:
    """Return the observation of a target that executed the instruction."""
    return Observation("outcome", (outcome,), messages=messages)


def no_opinion(reason: str, messages: tuple[Message, ...] = ()) -> Observation:
    """Return that the target went on in a state that it does not model."""
    return Observation("no-opinion", reason=reason, messages=messages)


def not_representable(reason: str) -> Observation:
    """Return that the target cannot stand for the machine of the attempt."""
    return Observation("not-representable", reason=reason)


def died(reason: str, messages: tuple[Message, ...] = ()) -> Observation:
    """Return that the attempt killed or hung the code it ran in."""
    return Observation("died", reason=reason, messages=messages)


class Target(Protocol):
    """Something that attempts run on.

    The life of a target: `open` for a profile, `run` any number of attempts, `close`; as a context
    manager it closes itself. An attempt on a profile that is not open opens it, so that a caller
    with attempts on many profiles need not keep them apart. What `run` returns depends on the
    attempt alone. A profile or an attempt that the target cannot stand for is an observation, not
    an error; InputError means that the target is not usable on this computer.
    """

    @property
    def name(self) -> str:
        """The name by which the registry and the reports know the target."""

    def open(self, profile: Profile) -> None:
        """Get ready for attempts on `profile`. May be called for several profiles."""

    def run(self, attempt: Attempt) -> Observation:
        """Return what comes of one VMLAUNCH or VMRESUME."""

    def close(self) -> None:
        """Give back what `open` took. A closed target may be opened again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
