# SPDX-License-Identifier: GPL-2.0-only
"""KVM as the oracles see it: what it offers L1, what it checks itself, what L1 gets in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.processor import Processor
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.kvm.l1 import unmet
from nvmxfuzz.targets.base import Message, Observation, not_representable

WARNING: Final = "WARN "
"""What a message of a WARN begins with; the others are of consistency checks."""

_DIGITS: Final = 8


class Kvm(Protocol):
    """KVM of one kernel, as L1's processor."""

    @property
    def name(self) -> str:
        """The name of the target, such as "kvm-6.12"."""

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1 on that hardware.

        A profile that KVM itself gave comes back as it is.
        """

    def run(self, attempt: Attempt) -> Observation:
        """Return what KVM's software makes of L1's VM entry; ENTERED: it would run vmcs02.

        The messages are the consistency checks that failed, "CONDITION in FUNCTION", and the
        warnings, "WARN FILE:LINE".
        """

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end: a processor has executed what KVM would run."""


def on_virtual(attempt: Attempt, kvm: Kvm) -> Attempt:
    """Return an attempt as it is on the processor that KVM offers L1."""
    profile = kvm.virtual(attempt.profile)
    return attempt if profile is attempt.profile else replace(attempt, profile=profile)


class Once:
    """A KVM that runs an attempt once, however often it is asked in a row.

    It does not run what no L1 can bring before KVM.
    """

    def __init__(self, kvm: Kvm) -> None:
        self._kvm = kvm
        self._attempt: Attempt | None = None
        self._ran: Observation | None = None
        self._ended: Observation | None = None
        # Attempts mostly share their processor and its mode with the one before.
        self._offered: tuple[Profile, Profile] | None = None
        self._unmet: tuple[Processor, Profile, str] | None = None

    @property
    def name(self) -> str:
        """The name of the target."""
        return self._kvm.name

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1 on that hardware."""
        if self._offered is None or profile is not self._offered[0]:
            self._offered = profile, self._kvm.virtual(profile)
        return self._offered[1]

    def run(self, attempt: Attempt) -> Observation:
        """Return what KVM's software makes of it."""
        self._turn_to(attempt)
        if self._ran is None:
            reason = self._why_unseen(attempt)
            self._ran = not_representable(reason) if reason else self._kvm.run(attempt)
        return self._ran

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end."""
        ran = self.run(attempt)
        if self._ended is None:
            unseen = ran.status == "not-representable"
            self._ended = ran if unseen else self._kvm.on_hardware(attempt)
        return self._ended

    def ended(self, attempt: Attempt) -> Observation | None:
        """Return what L1 sees in the end, None unless somebody has asked for it."""
        return self._ended if attempt is self._attempt else None

    def _why_unseen(self, attempt: Attempt) -> str:
        known, profile = self._unmet, attempt.profile
        if known is None or known[0] is not attempt.processor or known[1] is not profile:
            known = attempt.processor, profile, unmet(on_virtual(attempt, self))
            self._unmet = known
        return known[2]

    def _turn_to(self, attempt: Attempt) -> None:
        if attempt is not self._attempt:
            self._attempt, self._ran, self._ended = attempt, None, None


def warnings(seen: Observation) -> tuple[str, ...]:
    """Return the warnings of an observation."""
    return tuple(each.text for each in seen.messages if each.text.startswith(WARNING))


def first_check(messages: Sequence[Message]) -> Message | None:
    """Return the message of the first consistency check that failed."""
    return next((each for each in messages if not each.text.startswith(WARNING)), None)


def place(messages: Sequence[Message]) -> str:
    """Return which check failed first, without its text, which is the kernel's.

    That is its function, and 8 hexadecimal digits of the SHA-256 of its condition.
    """
    message = first_check(messages)
    if message is None:
        return "no check"
    condition, _, function = message.template.rpartition(" in ")
    return f"{function} {hashlib.sha256(condition.encode()).hexdigest()[:_DIGITS]}"
