# SPDX-License-Identifier: GPL-2.0-only
"""KVM itself, as it is compared with the model of nested VM entry: one vCPU, entry after entry.

The model is given what KVM found when it was loaded (its config, the variables behind its
parameters, L1's CPUID and capability MSRs, host state, the places of what it allocated): what is
compared is VM entry alone. L1's memory is zero where a case says nothing.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import VmEntry
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.registers import Rflags
from nvmxfuzz.kvm.entry_behaviour import entry_behaviour
from nvmxfuzz.kvm.entry_run import TRIPLE_FAULT, VM_BUGGED, NestedEntry
from nvmxfuzz.kvm.nested_enter import vm_entry
from nvmxfuzz.kvm.vcpu import EntryRequest, Kvm, L1State, NestedState
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.outcome import (
    ENTERED,
    Outcome,
    exit_on_entry,
    fail_valid,
)
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.machine.vmcs import Vmcs
from nvmxfuzz.oracles.kvm.model import Both, Model, NoEntry, RealEntry
from nvmxfuzz.targets.kvm_native import l1, native
from nvmxfuzz.targets.kvm_native.agreement.configuration import Configuration
from nvmxfuzz.targets.kvm_native.agreement.ending import (
    BASIC_REASON,
    DEATHS,
    answer,
    how_it_ended,
    lacks_root,
    registers,
)
from nvmxfuzz.targets.kvm_native.agreement.launch import Launch, Scripted, loads
from nvmxfuzz.targets.kvm_native.agreement.loaded import Loaded, load, with_places
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.direct import l1_of
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import (
    FailedEntry,
    PortEntry,
    PortFailed,
)
from nvmxfuzz.targets.kvm_native.results import CallResult, Stopped
from nvmxfuzz.targets.kvm_native.vm import RAM
from nvmxfuzz.targets.kvm_native.vmcs02 import vmcs_at
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

RIP: Final = 0x1000
RSP: Final = 0x7000
"""Where `nvmx_reset_l1` lets L1 be."""

_ENTRY_FAILURE: Final = 1 << 31
_RUNNABLE: Final = 0
_L1_LEAVES: Final = FailedEntry(ExitReason.INVALID_STATE)
"""The one way back to user space behind which nothing is left to be done."""
_SHUTDOWN: Final = "shutdown"
_TSC_MSRS: Final = frozenset({msr.MSR_IA32_TSC, 0x3B})
_APIC_MSRS: Final = frozenset({msr.MSR_IA32_APICBASE})
_VMLAUNCH_EXIT: Final = {**l1.VMLAUNCH.writes(), "guest_rip": RIP, "guest_rsp": RSP}
_VMRESUME_REASON: Final = int(ExitReason.VMRESUME)
_ENCODINGS: Final = {name: entry.encoding for name, entry in FIELD_BY_NAME.items()}
_CLEARED: Final = {"vm_instruction_error": 0, "vm_exit_reason": 0, "exit_qualification": 0}
_MISC_ENABLE: Final = msr.MSR_IA32_MISC_ENABLE
_NO_EPT_ROOT: Final = frozenset({"guest_cr3"})
_EPT_ROOT: Final = frozenset({"ept_pointer"})


_MOST_READY: Final = 6
"""Processors that KVM is kept loaded on beside the present one."""


class EntryWitness:
    """KVM of one kernel with one vCPU, which keeps what KVM keeps from one entry to the next."""

    def __init__(self, library: Library, kernel: str, model: Model = vm_entry) -> None:
        """Take an instance of KVM for itself, and the version that it was built from."""
        self.kernel = kernel
        self._model_of = model
        self._host: Profile | None = None
        self._ready: dict[Profile, Loaded] = {}
        self._used: tuple[tuple[int, int], ...] = ()
        self.library = library
        self._behaviour = entry_behaviour(kernel)
        self._layout = Vmcs12Layout(library)
        self._loaded: Loaded | None = None
        self._nested = NestedState()
        self._asked: list[Vmcs] = []
        self._answers: list[Outcome] = []
        self._l2_ran = False
        self._l1_again: Vmcs | None = None
        self._in_dry_run = False
        self._died_behind = False

    # ------------------------------------------------------------------ loading

    def configure(self, configuration: Configuration) -> Kvm:
        """Load KVM so, and return what it is to the model; IoctlError if it refuses."""
        self._forget()
        self._loaded = load(self.library, configuration, self._behaviour)
        return self._loaded.kvm

    @property
    def name(self) -> str:
        """The name of the target that this is."""
        return f"kvm-{self.kernel}"

    @property
    def kvm(self) -> Kvm:
        """What KVM is to the model."""
        return self._now().kvm

    @property
    def capabilities(self) -> dict[int, int]:
        """The VMX capability MSRs that L1 finds, by index."""
        return dict(self._now().virtual.msrs)

    def virtual(self, profile: Profile) -> Profile:
        """Return the processor that KVM offers L1 on a host; the profile itself if it refuses."""
        return profile if self._turn_to(profile) else self._now().virtual

    def renew(self) -> None:
        """Be as after `configure`: nothing is kept of the entries since."""
        loaded = self._now()
        loaded.made.renew()
        self._used = ()
        self._nested = NestedState()

    def _set_aside(self) -> None:
        """Keep what is loaded ready for its profile: loading costs as much as 50 entries."""
        if self._loaded is None or self._host is None:
            return
        if len(self._ready) == _MOST_READY:
            self._ready.pop(next(iter(self._ready))).made.discard()
        self._ready[self._host] = self._loaded
        self._loaded = None

    def _forget(self) -> None:
        if self._loaded is not None:
            self._loaded.made.discard()
        self._loaded = None
        self._host = None
        self._used = ()
        self._nested = NestedState()

    def _now(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("no configuration: call configure() first")
        return self._loaded

    # ------------------------------------------------------------------ one entry

    def both(self, attempt: Attempt) -> Both | NoEntry:
        """Let a new vCPU make the attempt, on both; the processor below is not asked.

        The profile of the attempt is that of the host, or of what KVM of this kernel made of one.
        """
        reason = self._turn_to(attempt.profile) or _beyond(attempt)
        if reason:
            return NoEntry("not-representable", reason)
        self.renew()
        return self.enter(
            Launch(
                attempt.vmcs,
                attempt.processor,
                attempt.memory.regions,
                attempt.instruction == "vmlaunch",
                attempt.launch_state == "launched",
            )
        )

    def _turn_to(self, profile: Profile) -> str:
        """Have KVM loaded on what the profile means, with its defaults; or return why not."""
        if profile is self._host and self._loaded is not None:
            return ""
        self._set_aside()
        ready = self._ready.pop(profile, None)
        if ready is not None:
            self._loaded, self._host = ready, profile
            self.renew()
            return ""
        name = profile.name.removeprefix(f"{self.name}-")
        given = name != profile.name and name in profile_names()
        try:
            self.configure(Configuration(load_profile(name) if given else profile))
        except IoctlError as refused:
            return f"KVM does not load on {profile.name}: {refused}"
        self._host = profile
        return ""

    def enter(self, launch: Launch) -> Both:
        """Let L1 execute the instruction, on both.

        The state that KVM keeps for the next entry is that of KVM; where it is lost, the vCPU is
        renewed.
        """
        loaded = self._now()
        request = self._request(loaded, launch)
        try:
            real = self._run(loaded, launch, request)
        except Stopped as stopped:
            model = self._model(launch, request)
            self.renew()
            return Both(request, model, _no_entry(stopped.result))
        model = self._model(launch, request)
        self._keep(model, real)
        return Both(request, model, real)

    def _model(self, launch: Launch, request: EntryRequest) -> NestedEntry:
        hardware = Scripted(launch.answers) if launch.answers else None
        return self._model_of(self._now().kvm, request, hardware)

    def _request(self, loaded: Loaded, launch: Launch) -> EntryRequest:
        """Put L1 into the state; return the model's side of it."""
        self._clear(loaded, launch.memory)
        for address, data in launch.memory:
            loaded.made.vm.memory.write(address, data)
        loaded.direct.reset_l1(l1_of(launch.processor))
        # Without EPT it is the root of KVM's own page tables that L1 has run on.
        cr3 = {"guest_cr3": launch.processor.cr3} if loaded.kvm.params.ept else {}
        loaded.write(1, {**_VMLAUNCH_EXIT, **cr3})
        before = loaded.read(1)
        apic_base, misc_enable = loaded.made.vcpu.get_msrs((msr.MSR_IA32_APICBASE, _MISC_ENABLE))
        nested = self._nested
        return EntryRequest(
            vmcs12=self._layout.writable(launch.vmcs12).replace(_CLEARED),
            l1=L1State(
                processor=launch.processor,
                pat=before.guest_ia32_pat,
                apic_base=apic_base,
                bndcfgs=before.guest_bndcfgs,
                tsc_offset=before.tsc_offset,
                rip=RIP,
                rsp=RSP,
                evmcs=loaded.evmcs,
                msrs=((_MISC_ENABLE, misc_enable),),
            ),
            memory=Memory(launch.memory),
            launch=launch.launch,
            launched=launch.launched,
            nested=nested if nested.vmcs02 is None else replace(nested, vmcs02=loaded.read(2)),
            vmcs01=before,
        )

    def _clear(self, loaded: Loaded, memory: tuple[tuple[int, bytes], ...]) -> None:
        """Let memory be zero again where the entry before had something and this one has not."""
        used = tuple((address, len(data)) for address, data in memory)
        if used != self._used:
            for address, size in self._used:
                loaded.made.vm.memory.write(address, bytes(size))
        self._used = used

    def _run(self, loaded: Loaded, launch: Launch, request: EntryRequest) -> RealEntry:
        self._asked, self._l1_again = [], None
        self._answers = list(launch.answers)
        self._l2_ran = False
        self._died_behind = False
        self._in_dry_run = loaded.has_dry_run
        if loaded.has_dry_run:
            self.library.set_port(self._entered)
        self.library.forget_once()
        image = self._layout.pack(
            request.vmcs12, launch.launched, launch.processor.current_vmcs_is_shadow
        )
        loaded.direct.run(image, launch.launch)
        ran = loaded.direct.ran()
        checks, warnings = self._traces()
        outcome, died = how_it_ended(ran)
        real = RealEntry(
            outcome,
            died,
            checks,
            warnings,
            vmcs01=loaded.read(1),
            vmcs02=self._vmcs02(loaded),
            vmcs12=self._vmcs12(loaded),
            asked=tuple(self._asked),
            l1=None if ran.in_l2 else {"rflags": ran.rflags, "rip": ran.rip},
            tsc_written=loads(launch, _TSC_MSRS),
            apic_written=loads(launch, _APIC_MSRS),
            roots=_EPT_ROOT if loaded.kvm.params.ept else _NO_EPT_ROOT,
        )
        # A value of 0 is the way to user space, where L2 halts without a local APIC in the kernel.
        runs = ran.in_l2 and ran.value > 0 and ran.mp_state == _RUNNABLE
        if not launch.answers or not runs:
            return real
        return self._on_hardware(loaded, real)

    def _on_hardware(self, loaded: Loaded, real: RealEntry) -> RealEntry:
        """Let vmcs02 be run once, and L1 go on if it comes to that."""
        self._in_dry_run = False
        self.library.set_port(self._entered)
        try:
            left = str(loaded.made.vcpu.run(_Connected()))
        except IoctlError:
            left = VM_BUGGED
        checks, warnings = self._traces()
        outcome, died = self._end(loaded, left)
        entered = outcome == ENTERED
        if entered:
            checks, warnings = (), 0
        return replace(
            real,
            outcome=outcome,
            died=died,
            checks=real.checks + checks,
            warnings=real.warnings + warnings,
            asked=tuple(self._asked),
            vmcs01=None if entered or died else self._l1_again,
            l1_ran=True,
            vmcs12=None if entered or died else self._vmcs12(loaded),
            l1=None if entered or died else registers(loaded),
        )

    def _end(self, loaded: Loaded, left: str) -> tuple[Outcome | None, str]:
        died = DEATHS.get(left.split()[0])
        if self._l2_ran:
            # What L2's own exit comes to, is no part of its VM entry.
            return ENTERED, ""
        vmcs12 = self._vmcs12(loaded)
        if died == TRIPLE_FAULT and vmcs12.vm_exit_reason == ExitReason.PREEMPTION_TIMER:
            # L2 was to halt, its timer had run out, and it is that exit which aborts.
            self._died_behind = True
            return ENTERED, ""
        if died == TRIPLE_FAULT and vmcs12.vm_exit_reason and lacks_root(loaded):
            # The entry is over, and L1 itself cannot go on.
            self._died_behind = True
        elif died is not None and (self._l1_again is None or died == VM_BUGGED):
            return None, died
        if vmcs12.vm_exit_reason & _ENTRY_FAILURE:
            number = vmcs12.vm_exit_reason & BASIC_REASON
            return exit_on_entry(number, vmcs12.exit_qualification), ""
        if vmcs12.vm_exit_reason:
            # L2 was to halt, or its timer had run out: KVM has ended it without a VM entry.
            return ENTERED, ""
        if loaded.made.vcpu.get_regs().rflags & Rflags.ZF:
            return fail_valid(vmcs12.vm_instruction_error), ""
        return None, left

    def _entered(self, entry: native.Entry) -> int:
        """Be the processor below: the answers for vmcs02 in turn; L1 leaves for user space."""
        loaded = self._now()
        asked = PortEntry(self.library, loaded.made.vcpu.address, entry)
        if not self._in_dry_run and not asked.is_l2:
            self._l1_again = vmcs_at(self.library.functions, asked.vmcs)
            return asked.accept(_L1_LEAVES)
        self._asked.append(vmcs_at(self.library.functions, asked.vmcs))
        if not self._answers:
            raise PortFailed("KVM asks for more VM entries than the case has answers")
        outcome = self._answers.pop(0)
        self._l2_ran = outcome == ENTERED and not self._in_dry_run
        return asked.accept(answer(outcome, self._asked[-1]))

    def _traces(self) -> tuple[tuple[tuple[str, str], ...], int]:
        reader = self.library.reader
        if not reader.words[reader.CHECKS] | reader.words[reader.WARNINGS]:
            return (), 0
        result = self.library.result()
        return tuple((each.function, each.text) for each in result.checks), result.warning_count

    def _vmcs02(self, loaded: Loaded) -> Vmcs:
        vmcs02 = loaded.read(2)
        if not loaded.knows_places and vmcs02.vm_exit_msr_store_addr:
            self._loaded = with_places(loaded, vmcs02)
        return vmcs02

    def _vmcs12(self, loaded: Loaded) -> Vmcs:
        place = self.library.functions.nvmx_cached_vmcs12(loaded.made.vcpu.address)
        return self._layout.unpack(ctypes.string_at(place, self._layout.size))

    def _keep(self, model: NestedEntry, real: RealEntry) -> None:
        # Without the controls for EFER there is a list of MSRs; no VMCS tells its length for sure.
        lists_efer = not self.kvm.config.vmentry_ctrl & VmEntry.LOAD_IA32_EFER
        died = real.died or model.died or self._died_behind
        if died or real.tsc_written or real.apic_written or lists_efer:
            self.renew()
        else:
            self._nested = replace(model.nested, dirty_vmcs12=True)


def entry_witness(kernel: str, model: Model = vm_entry) -> EntryWitness:
    """Return KVM of a kernel in an instance of its own; InputError if it is not built."""
    built = find_object(kernel)
    return EntryWitness(Library(built.path, built.symbols), kernel, model)


def _beyond(attempt: Attempt) -> str:
    processor = attempt.processor
    if processor.in_smm or processor.rtit_ctl or processor.vmxon_pointer == NO_POINTER:
        return "L1 is not in VMX operation, or has what KVM has not"
    if any(start + len(data) > RAM for start, data in attempt.memory.regions):
        return "L1 has not that much memory"
    return ""


def _no_entry(result: CallResult) -> NoEntry:
    """Return why there is nothing to compare: it need not be KVM that is to blame."""
    lacking = result.status == "unresolved"
    return NoEntry("not-representable" if lacking else "stopped", result.sentence())


class _Connected:
    """A port that is connected already."""

    def connect(self, library: Library, vcpu: int) -> None:
        """Leave it as it is."""
