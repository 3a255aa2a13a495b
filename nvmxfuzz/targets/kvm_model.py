# SPDX-License-Identifier: GPL-2.0-only
"""The model of KVM's nested VM entry as a target: no kernel is built, and any version is there.

An attempt is L1's. Its profile is a processor with KVM on it, or one that KVM of this kernel gave
L1 ("kvm-6.12-skylake-x"), which means KVM on the processor that is named last. `run` is KVM's
software alone; `on_hardware` has the rules below it, on the profile of that processor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.entry_run import INTERNAL_ERROR, TRIPLE_FAULT, VM_BUGGED, NestedEntry
from nvmxfuzz.kvm.hardware import Hardware
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.nested_exit import FAILED_VMENTRY
from nvmxfuzz.kvm.nested_kvm import entry_request, nested_kvm
from nvmxfuzz.kvm.vcpu import Kvm
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import UNBACKED
from nvmxfuzz.machine.outcome import Outcome, exit_on_entry
from nvmxfuzz.machine.processor import NO_POINTER, Processor
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.targets.base import (
    Message,
    Observation,
    Target,
    no_opinion,
    not_representable,
    observed,
)
from nvmxfuzz.targets.kvm_native.cpuid import counters_of
from nvmxfuzz.targets.kvm_native.judged import likeliest
from nvmxfuzz.targets.python_model import PythonModel

FAMILY: Final = "kvm-model"
WARNING: Final = "WARN arch/x86/kvm/vmx/nested.c:"
"""What a message of a WARN begins with; the others are checks of the model that failed."""

_GIVES_UP: Final = {
    INTERNAL_ERROR: "KVM leaves L1 to user space",
    VM_BUGGED: "KVM_RUN: EIO",
}
"""How the targets that are KVM itself begin to say the same."""

_MOST: Final = 64
_BASIC_REASON: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class _Loaded:
    kvm: Kvm
    virtual: Profile


class _Below(Hardware):
    """A target as the processor below KVM."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def enter(self, attempt: Attempt) -> Outcome:
        """Return what the target has as the likeliest outcome."""
        return likeliest(self._target.run(attempt).outcomes)


class KvmModel(Target):
    """KVM of one kernel as the model has it, with `dry_run` if that is asked for.

    `below` is the processor that vmcs02 runs on; the rules if nothing is said.
    """

    def __init__(self, kernel: str, *, dry_run: bool = False, below: Target | None = None) -> None:
        self._kernel = kernel
        self._dry_run = dry_run
        self._below = _Below(below or PythonModel())
        self._found: dict[int, tuple[Profile, _Loaded | str]] = {}

    @property
    def name(self) -> str:
        """The name of the target."""
        return f"{FAMILY}-{self._kernel}"

    def open(self, profile: Profile) -> None:
        """Load KVM on the processor that the profile means."""
        self._loaded(profile)

    def run(self, attempt: Attempt) -> Observation:
        """Return what KVM's software makes of VM entry; "entered": it would run vmcs02."""
        return self._enter(attempt, self._below if self._dry_run else None)

    def on_hardware(self, attempt: Attempt) -> Observation:
        """Return what L1 sees in the end, where the rules judge what KVM would run."""
        return self._enter(attempt, self._below)

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1; `profile` itself if that is it."""
        loaded = self._loaded(profile)
        given = isinstance(loaded, str) or profile.name.startswith(f"kvm-{self._kernel}-")
        return profile if given or isinstance(loaded, str) else loaded.virtual

    def close(self) -> None:
        """Forget the processors."""
        self._found.clear()

    def _enter(self, attempt: Attempt, hardware: Hardware | None) -> Observation:
        loaded = self._loaded(attempt.profile)
        if isinstance(loaded, str):
            return not_representable(loaded)
        reason = _beyond(attempt.processor) or _outside(loaded.kvm, attempt)
        if reason:
            return not_representable(reason)
        return _observation(vm_entry(loaded.kvm, entry_request(attempt), hardware))

    def _loaded(self, profile: Profile) -> _Loaded | str:
        known = self._found.get(id(profile))
        if known is not None:
            return known[1]
        if len(self._found) == _MOST:
            self._found.clear()
        # The profile is kept with it, so that no other one gets its identity.
        self._found[id(profile)] = profile, self._load(profile)
        return self._found[id(profile)][1]

    def _host(self, profile: Profile) -> Profile:
        host = profile.name.removeprefix(f"kvm-{self._kernel}-")
        given = host != profile.name and host in profile_names()
        return load_profile(host) if given else profile

    def _load(self, profile: Profile) -> _Loaded | str:
        host = self._host(profile)
        try:
            kvm, virtual = nested_kvm(
                _with_counters(host),
                self._kernel,
                early_consistency_checks=self._dry_run,
                given=profile if host is not profile else None,
            )
        except InputError as refused:
            return str(refused)
        # As the other targets have L1: a local APIC in the kernel, memory without a responder.
        same = replace(kvm, irqchip_in_kernel=True, unwritten=UNBACKED)
        return _Loaded(same, replace(virtual, name=f"{self.name}-{host.name}"))


def _with_counters(host: Profile) -> Profile:
    """Return the processor with the counters that one has of which nobody knows how many."""
    if host.perf_global_ctrl_mask is not None:
        return host
    general, fixed = counters_of(host)
    return replace(host, perf_global_ctrl_mask=(1 << general) - 1 | (1 << fixed) - 1 << 32)


def _beyond(processor: Processor) -> str:
    """Return why KVM cannot be shown an L1, "" if it can: as the other targets of KVM have it."""
    if processor.in_smm:
        return "KVM has no dual-monitor treatment of SMM"
    if processor.rtit_ctl:
        return "L1 has no Intel PT of its own"
    if processor.vmxon_pointer == NO_POINTER:
        return "KVM has no vmcs12 of an L1 that is not in VMX operation"
    return ""


def _outside(kvm: Kvm, attempt: Attempt) -> str:
    limit = max(start + size for start, size in kvm.slots)
    for start, data in attempt.memory.regions:
        if start + len(data) > limit:
            return f"L1 has {limit >> 20} MiB of memory, and none at {start:#x}"
    return ""


def _observation(entry: NestedEntry) -> Observation:
    fired = entry.fired or ((entry.check,) if entry.check else ())
    messages = tuple(Message(name, name) for name in fired)
    messages += tuple(Message(f"{WARNING}{name}", f"{WARNING}{name}") for name in entry.warnings)
    outcome = entry.outcome or _before_abort(entry)
    if outcome is None:
        said = _GIVES_UP.get(entry.died, "KVM gives up")
        return no_opinion(f"{said}: {entry.died} ({entry.check})", messages)
    return observed(outcome, messages)


def _before_abort(entry: NestedEntry) -> Outcome | None:
    """Return how the VM entry failed, if it is the VM exit behind it that is aborted."""
    written = dict(entry.vmcs12_writes)
    reason = written.get("vm_exit_reason", 0)
    if entry.died != TRIPLE_FAULT or not reason & FAILED_VMENTRY:
        return None
    return exit_on_entry(reason & _BASIC_REASON, written["exit_qualification"])
