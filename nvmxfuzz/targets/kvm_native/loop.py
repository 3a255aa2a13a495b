# SPDX-License-Identifier: GPL-2.0-only
"""The closed loop as a target: real KVM, and a target that stands for the processor below it.

An attempt is L1's, and what comes of it is what L1 sees: KVM's software has checked vmcs12, and the
processor has executed the merged VMCS, on the profile of the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from nvmxfuzz.inputs.bases import base, default_base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.targets.at_hand import ActsAlone
from nvmxfuzz.targets.base import Observation, Target, not_representable
from nvmxfuzz.targets.bochs.wheel import usable as has_bochs
from nvmxfuzz.targets.kvm_native.build.objects import usable
from nvmxfuzz.targets.kvm_native.burst import Bursts
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.target import (
    COVERAGE,
    FAMILY,
    PLAIN,
    KvmTarget,
    has_coverage,
    loader,
)
from nvmxfuzz.targets.passage import Passage
from nvmxfuzz.targets.python_model import PythonModel

DRY_RUN: Final = "nested_early_check"
_MOST_HOSTS: Final = 64
_RULES: Final = "rules"
_BOCHS: Final = "bochs"


class KvmLoop(Target):
    """KVM of one kernel on `hardware`; `noun` is what its name says of that.

    `run` and `follow` are without a dry run, which is how KVM comes; `follow_dry` is with one.
    """

    def __init__(self, kernel: str, hardware: Target, noun: str, variant: str = PLAIN) -> None:
        self.kernel = f"{FAMILY}-{kernel}"
        self._name = f"{self.kernel}+{noun}"
        self._version, self._variant = kernel, variant
        self._hardware = hardware
        load = loader(kernel, variant)
        self._plain, self._dry = self._kvm(0, load), self._kvm(1, load)
        self._refusals: dict[int, tuple[Profile, str]] = {}

    @property
    def name(self) -> str:
        """The name of the target, such as "kvm-6.12+bochs"."""
        return self._name

    def open(self, profile: Profile) -> None:
        """Load the object, and KVM on the processor that the profile means."""
        self._plain.open(profile)

    def run(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end."""
        reason = self._refusal(attempt.profile)
        return not_representable(reason) if reason else self._plain.on_hardware(attempt)

    def follow(self, attempt: Attempt) -> Passage:
        """Return the same, with all that can be seen on the way there."""
        return self._follow(self._plain, attempt)

    def follow_dry(self, attempt: Attempt) -> Passage:
        """Return the same, where KVM makes a dry run before it believes in a VM entry."""
        return self._follow(self._dry, attempt)

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1; `profile` itself if that is it."""
        return self._plain.virtual(profile)

    def counters(self) -> tuple[int, int, int]:
        """Return where KVM counts what it executes: see `Library.counters`."""
        return self._plain.counters()

    def nested_counters(self) -> range:
        """Return which of them are in nested.c: see `KvmTarget.nested_counters`."""
        return self._plain.nested_counters()

    def bursts(self) -> Bursts | None:
        """Return bursts on instances of this KVM, None if the hardware is not for that."""
        hardware = self._hardware
        if not isinstance(hardware, ActsAlone):
            return None
        return Bursts(hardware, lambda: self._kvm(0, loader(self._version, self._variant)))

    def close(self) -> None:
        """Give back what the processors took."""
        for part in (self._plain, self._dry, self._hardware):
            part.close()
        self._refusals.clear()

    def _kvm(self, dry_run: int, load: Callable[[], Library]) -> KvmTarget:
        return KvmTarget(self._version, self._hardware, parameters={DRY_RUN: dry_run}, load=load)

    def _follow(self, kvm: KvmTarget, attempt: Attempt) -> Passage:
        reason = self._refusal(attempt.profile)
        return Passage(not_representable(reason)) if reason else kvm.follow(attempt)

    def _refusal(self, profile: Profile) -> str:
        """Return why the hardware cannot stand for the processor that a profile means, or ""."""
        known = self._refusals.get(id(profile))
        if known is not None:
            return known[1]
        if len(self._refusals) == _MOST_HOSTS:
            self._refusals.clear()
        host = self._plain.host(profile)
        seen = self._hardware.run(base(default_base(host), host))
        reason = seen.reason if seen.status == "not-representable" else ""
        # The profile is kept with it, so that no other one gets its identity.
        self._refusals[id(profile)] = profile, reason
        return reason


def on_rules(kernel: str, variant: str = PLAIN) -> KvmLoop:
    """Return KVM of a kernel on the rules."""
    return KvmLoop(kernel, PythonModel(), _RULES, variant)


def on_bochs(kernel: str, variant: str = PLAIN) -> KvmLoop:
    """Return KVM of a kernel on Bochs."""
    # What no one asks for is not imported: it looks for the wheel.
    from nvmxfuzz.targets.bochs.target import Bochs

    return KvmLoop(kernel, Bochs(), _BOCHS, variant)


def loop_with_coverage(name: str) -> KvmLoop | None:
    """Return the target of that name whose KVM counts what it executes, None if it is not built."""
    family, _, noun = name.partition("+")
    kernel = family.removeprefix(f"{FAMILY}-")
    if not has_coverage(kernel) or (noun == _BOCHS and has_bochs()):
        return None
    return (on_bochs if noun == _BOCHS else on_rules)(kernel, COVERAGE)


def available_on_bochs(kernel: str) -> str:
    """Return "" if KVM of a kernel is built and Bochs is there, else what to do, as a sentence."""
    return usable(kernel) or has_bochs()


RULES_6_1: Final = partial(on_rules, "6.1")
RULES_6_12: Final = partial(on_rules, "6.12")
BOCHS_6_1: Final = partial(on_bochs, "6.1")
BOCHS_6_12: Final = partial(on_bochs, "6.12")
HAS_BOCHS_6_1: Final = partial(available_on_bochs, "6.1")
HAS_BOCHS_6_12: Final = partial(available_on_bochs, "6.12")
