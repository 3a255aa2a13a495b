# SPDX-License-Identifier: GPL-2.0-only
"""A KVM that notes which of its conditions have fired."""

from __future__ import annotations

from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.oracles.kvm.witness import WARNING, Kvm
from nvmxfuzz.targets.base import Message, Observation


class Noting:
    """Another KVM, and the consistency checks that failed in it, "CONDITION in FUNCTION"."""

    def __init__(self, kvm: Kvm) -> None:
        self._kvm = kvm
        self._seen: set[tuple[Message, ...]] = set()
        self._last: tuple[Message, ...] = ()
        self.fired: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The name of the target."""
        return self._kvm.name

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1 on that hardware."""
        return self._kvm.virtual(profile)

    def run(self, attempt: Attempt) -> Observation:
        """Return what KVM's software makes of it."""
        seen = self._kvm.run(attempt)
        if seen.messages and seen.messages != self._last:
            self._note(seen.messages)
        return seen

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end."""
        return self._kvm.on_hardware(attempt)

    def _note(self, messages: tuple[Message, ...]) -> None:
        self._last = messages
        if messages in self._seen or len(self._seen) == _MOST_SEEN:
            return
        self._seen.add(messages)
        # What begins a text here is the kind of message, and a check has its place in the template.
        checks = (each.template for each in messages if not each.text.startswith(WARNING))
        self.fired = self.fired.union(checks)


_MOST_SEEN = 1 << 14
