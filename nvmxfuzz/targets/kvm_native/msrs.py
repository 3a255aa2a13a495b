# SPDX-License-Identifier: GPL-2.0-only
"""The real KVM as a witness of what becomes of the capability MSRs of a vCPU.

The processor is like a profile, but for the VMX MSRs and the CPUID features of the model's host.
VMXON and VMXOFF are KVM_SET_NESTED_STATE, what L1 does is told by the VM exits that it causes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from struct import Struct
from typing import Any, Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.exit_reasons import ExitReason
from nvmxfuzz.arch.registers import Cr4, Rflags
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.places import VMXON_REGION
from nvmxfuzz.kvm.guest_cpuid import CPUID_BITS, CpuidEntry, GuestCpuid
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.restore.witness import (
    FLAGS,
    VMX_MSRS,
    WATCHED,
    Loaded,
    MsrWorld,
    WitnessStoppedError,
    comparable,
)
from nvmxfuzz.targets.kvm_native import ioctl_numbers as io
from nvmxfuzz.targets.kvm_native import l1, native
from nvmxfuzz.targets.kvm_native import structures as s
from nvmxfuzz.targets.kvm_native.cpuid import Leaf
from nvmxfuzz.targets.kvm_native.direct import Direct
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.hardware import Hardware, hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.port import Exit, Script
from nvmxfuzz.targets.kvm_native.results import Stopped
from nvmxfuzz.targets.kvm_native.vcpu import Vcpu
from nvmxfuzz.targets.kvm_native.vm import Machine

_KVM_CAP_DISABLE_QUIRKS2: Final = 213
_STUFF_FEATURE_MSRS: Final = 1 << 8
_TSS: Final = 0xFEFF_D000
_RIP: Final = 0x1000
_HLT_RSM: Final = b"\xf4\x0f\xaa"
_WORD: Final = (1 << 32) - 1
_SUBLEAVES: Final = (7, 0xD)
_SIGNIFICANT_INDEX: Final = 1
_OWN: Final = frozenset(VMX_MSRS) | {0x492, 0x493}
_WARNINGS: Final = native.Result.warnings.offset // 4
_BY_FEATURE: Final = (
    ("RDTSCP", msr.MSR_TSC_AUX),
    ("RDPID", msr.MSR_TSC_AUX),
    ("XSAVES", msr.MSR_IA32_XSS),
    ("WAITPKG", 0xE1),  # IA32_UMWAIT_CONTROL
)
"""MSRs that a processor has with a feature, whatever its profile says."""
_PARAMETERS: Final = tuple(ModuleParams.__dataclass_fields__)


@cache
def msr_witness(kernel: str) -> KvmMsrs:
    """Return the witness of a kernel: one for this process. InputError if it is not built."""
    from nvmxfuzz.targets.kvm_native.build.objects import find_object

    built = find_object(kernel)
    return KvmMsrs(Library.of(built), kernel)


class KvmMsrs:
    """A machine that is loaded again and again, with one vCPU.

    A snapshot costs more than booting does: it is taken once a world is renewed for the second
    time. Most worlds of a campaign live once.
    """

    def __init__(self, library: Library, kernel: str) -> None:
        """Take an instance of KVM for itself, and the version that it was built from."""
        self.kernel = kernel
        self.library = library
        self.loaded = Loaded(-errno.ENODEV)
        self._ioctl = library.prepare("nvmx_ioctl")
        self._words = library.reader.words
        self._warnings = 0
        self._world: MsrWorld | None = None
        self._snapshot: int | None = None
        self._vcpu: Vcpu | None = None
        self._direct: Direct | None = None
        self._file = 0
        self._ready = False
        self._untouched = False
        """Nothing has happened to the vCPU since `load`."""
        self._supported: tuple[CpuidEntry, ...] = ()
        self._cpuids: dict[GuestCpuid, Any] = {}
        self._read = _Reading(WATCHED)

    # ------------------------------------------------------------------ a world

    def load(self, world: MsrWorld) -> Loaded:
        """Load KVM on a processor like the world's; what was there before is gone."""
        if self._snapshot is not None:
            self.library.discard(self._snapshot)
            self._snapshot = None
        self.library.restore()
        self._vcpu, self._direct, self._warnings = None, None, 0
        self._world = world
        hyperv = self.library.functions.nvmx_set_hyperv_evmcs(world.host.on_hyperv_evmcs)
        if hyperv and world.host.on_hyperv_evmcs:
            raise InputError(f"KVM of {self.kernel} was built without Hyper-V's enlightened VMCS")
        try:
            self.loaded = self._boot(world)
        except Stopped as stopped:
            raise WitnessStoppedError(stopped.result.sentence()) from None
        return self.loaded

    def _boot(self, world: MsrWorld) -> Loaded:
        try:
            machine = Machine(
                self.library, hardware_for(world), module_parameters(self.library, world.params)
            )
        except IoctlError as refused:
            return Loaded(-(refused.errno or 0))
        vm = machine.create_vm()
        vm.set_tss_address(_TSS)
        vm.memory.write(l1.SMI_HANDLER, _HLT_RSM)
        if not world.stuffs_feature_msrs and self.library.kernel_version >= (6, 12, 0):
            vm.enable_cap(_KVM_CAP_DISABLE_QUIRKS2, _STUFF_FEATURE_MSRS)
        vcpu = vm.create_vcpu()
        self._vcpu, self._file = vcpu, vcpu.file
        self._supported = tuple(_entry(entry) for entry in machine.supported_cpuid())
        self._cpuids = {}
        loaded = self._told(machine)
        self._ready, self._untouched = False, True
        return loaded

    def _told(self, machine: Machine) -> Loaded:
        parameters = self.library.parameters
        feature, all_ = machine.feature_msr_indices(), machine.msr_indices()
        return Loaded(
            0,
            tuple((name, parameters[name].value if name in parameters else -1) for name in FLAGS),
            tuple(index for index in feature if index in _OWN),
            tuple(index for index in all_ if index in _OWN),
            machine.feature_msrs(VMX_MSRS),
            comparable(GuestCpuid.of(self._supported)),
        )

    def renew(self) -> None:
        """Restore the state that `load` left, if anything has happened since."""
        if self._vcpu is None:
            raise ValueError("KVM is not loaded")
        self._warnings = 0
        if self._untouched:
            return
        if self._snapshot is None:
            self.load(self.world)
            self._snapshot = self.library.snapshot()
        else:
            self.library.restore(self._snapshot)
            self._ready, self._untouched = False, True

    @property
    def world(self) -> MsrWorld:
        """What was loaded last."""
        if self._world is None:
            raise ValueError("KVM is not loaded")
        return self._world

    def warnings(self) -> int:
        """Return how many WARNs there were since `renew`."""
        return self._warnings

    # ------------------------------------------------------------------ userspace

    def _call(self, command: int, argument: Any) -> int:  # noqa: ANN401 # as Library.call
        self._untouched = False
        try:
            value = self._ioctl(self._file, command, argument)
        except Stopped as stopped:
            raise WitnessStoppedError(stopped.result.sentence()) from None
        self._warnings += self._words[_WARNINGS]
        return value

    def read(self) -> tuple[int, ...]:
        """Return the values of `WATCHED`."""
        count = self._call(io.KVM_GET_MSRS, self._read.address)
        return self._read.values(count)

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """KVM_SET_MSRS."""
        numbers = [number for index, value in values for number in (index, 0, value)]
        return self._call(io.KVM_SET_MSRS, _table(len(values)).pack(len(values), 0, *numbers))

    def restore_msr(self, index: int, value: int) -> int:
        """vmx_set_vmx_msr()."""
        return self._direct_calls().set_vmx_msr(index, value)

    def set_cpuid(self, cpuid: GuestCpuid) -> int:
        """KVM_SET_CPUID2, of the supported CPUID with those features and no others."""
        table = self._cpuids.get(cpuid)
        if table is None:
            entries = [s.CpuidEntry(*_words(entry)) for entry in _entries(self._supported, cpuid)]
            table = self._cpuids[cpuid] = bytes(s.counted(s.CpuidEntry, entries))
        return self._call(io.KVM_SET_CPUID2, table)

    def vmxon(self) -> int:
        """KVM_SET_NESTED_STATE with a VMXON region."""
        return self._nested(VMXON_REGION)

    def vmxoff(self) -> int:
        """KVM_SET_NESTED_STATE without."""
        return self._nested(s.NO_ADDRESS)

    def _nested(self, region: int) -> int:
        state = s.NestedState(size=s.NESTED_HEADER_SIZE, vmxon_pa=region, vmcs12_pa=s.NO_ADDRESS)
        return self._call(io.KVM_SET_NESTED_STATE, ctypes.byref(state))

    def enable_evmcs(self) -> int:
        """KVM_ENABLE_CAP."""
        self.vcpu.enable_evmcs()
        return 0

    # ------------------------------------------------------------------ the vCPU runs

    def rdmsr(self, index: int) -> int | None:
        """KVM_RUN: L1 executes RDMSR, and HLT."""
        regs = self._instruction(ExitReason.MSR_READ, index, 0)
        read = regs.rip == _RIP + 3
        return regs.rax & _WORD | (regs.rdx & _WORD) << 32 if read else None

    def wrmsr(self, index: int, value: int) -> int:
        """KVM_RUN: L1 executes WRMSR, and HLT."""
        return 0 if self._instruction(ExitReason.MSR_WRITE, index, value).rip == _RIP + 3 else 1

    def smi(self) -> int:
        """KVM_SMI and KVM_RUN: 0 if the vCPU is in SMM."""
        self._enable_vmx()
        self.vcpu.smi()
        self._run()
        return 0 if self.vcpu.get_events().smi.smm else 1

    def rsm(self) -> int:
        """KVM_RUN, in which RSM raises #UD, and KVM emulates it: 0 if the vCPU left SMM."""
        self._run(l1.UNDEFINED_OPCODE)
        return int(self.vcpu.get_events().smi.smm)

    def _instruction(self, reason: int, index: int, value: int) -> s.Regs:
        self.vcpu.set_regs(
            s.Regs(
                rcx=index, rax=value & _WORD, rdx=value >> 32, rip=_RIP, rflags=int(Rflags.FIXED1)
            )
        )
        registers = {"rcx": index, "rax": value & _WORD, "rdx": value >> 32}
        self._run(Exit(reason, length=2, registers=registers))
        return self.vcpu.get_regs()

    def _run(self, *exits: Exit) -> None:
        try:
            self._prepare()
            ended = self.vcpu.run(Script(*exits, l1.HLT))
        except Stopped as stopped:
            raise WitnessStoppedError(stopped.result.sentence()) from None
        self._warnings += self._words[_WARNINGS]
        if ended.name != "hlt":
            raise WitnessStoppedError(f"KVM_RUN ended with {ended}")

    def _enable_vmx(self) -> None:
        """Set CR4.VMXE if CPUID has VMX: RSM cannot bring a vCPU back to VMX operation without."""
        sregs = self.vcpu.get_sregs()
        sregs.cr4 |= Cr4.VMXE
        with contextlib.suppress(IoctlError):
            self.vcpu.set_sregs(sregs)

    def _prepare(self) -> None:
        """Make the vCPU a 64-bit kernel that has not enabled VMX in CR4, once."""
        if not self._ready:
            sregs = l1.sregs(self.vcpu.get_sregs().apic_base)
            sregs.cr4 &= ~Cr4.VMXE
            self.vcpu.set_sregs(sregs)
            self._ready = True

    @property
    def vcpu(self) -> Vcpu:
        """The vCPU, for something that may change it."""
        if self._vcpu is None:
            raise ValueError("KVM is not loaded")
        self._untouched = False
        return self._vcpu

    def _direct_calls(self) -> Direct:
        vcpu = self.vcpu
        if self._direct is None:
            self._direct = Direct(self.library, vcpu.address)
        return self._direct


class _Reading:
    """struct kvm_msrs of certain indices, used again and again."""

    def __init__(self, indices: tuple[int, ...]) -> None:
        layout = _table(len(indices))
        numbers = [number for index in indices for number in (index, 0, 0)]
        self._buffer = ctypes.create_string_buffer(layout.pack(len(indices), 0, *numbers))
        self._layout = layout
        self.address = ctypes.addressof(self._buffer)

    def values(self, count: int) -> tuple[int, ...]:
        """Return the first so many values that KVM has put there."""
        return self._layout.unpack_from(self._buffer)[4::3][: max(count, 0)]


@cache
def _table(count: int) -> Struct:
    """Return the layout of struct kvm_msrs."""
    return Struct("<II" + "IIQ" * count)


# ---------------------------------------------------------------------- processors and CPUID


def module_parameters(library: Library, params: ModuleParams) -> dict[str, int]:
    """Return the parameters that the kernel of a library has, by name."""
    known = library.parameters
    return {name: int(getattr(params, name)) for name in _PARAMETERS if name in known}


def hardware_for(world: MsrWorld) -> Hardware:
    """Return a processor like the profile, with the host's VMX MSRs, features and identity."""
    host = world.host
    profile = replace(
        load_profile(world.profile), family=host.family, model=host.model, stepping=host.stepping
    )
    base = hardware_of(profile)
    msrs = {index: value for index, value in base.msrs if index not in _OWN} | dict(host.msrs)
    for name, index in _BY_FEATURE:
        if name in host.features:
            msrs.setdefault(index, 0)
    cr4 = base.cr4 if "XSAVE" in host.features else base.cr4 & ~Cr4.OSXSAVE
    return replace(base, msrs=tuple(sorted(msrs.items())), cpuid=_leaves(base, host), cr4=cr4)


def _leaves(base: Hardware, host: HostCpu) -> tuple[Leaf, ...]:
    table = {leaf[:2]: list(leaf[2:]) for leaf in base.cpuid}
    for name, (leaf, subleaf, register, position) in CPUID_BITS.items():
        if name in host.features:
            table.setdefault((leaf, subleaf), [0, 0, 0, 0])[register] |= 1 << position
        elif (leaf, subleaf) in table:
            table[leaf, subleaf][register] &= ~(1 << position)
    table.setdefault((0x12, 0), [0, 0, 0, 0])[0] = int(host.has_sgx)
    counters = table.setdefault((0xA, 0), [0, 0, 0, 0])
    counters[0] = counters[0] & ~0xFF | host.pmu_version
    if (7, 1) in table:
        subleaves = table.setdefault((7, 0), [0, 0, 0, 0])
        subleaves[0] = max(subleaves[0], 1)
    table[0, 0][0] = max(leaf for leaf, _ in table if leaf < 0x4000_0000)
    return tuple(Leaf(*key, *registers) for key, registers in sorted(table.items()))


def _entry(entry: s.CpuidEntry) -> CpuidEntry:
    return CpuidEntry(
        entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx
    )


def _words(entry: CpuidEntry) -> tuple[int, ...]:
    return (
        *(entry.function, entry.index, entry.flags),
        *(entry.eax, entry.ebx, entry.ecx, entry.edx),
    )


_REGISTERS: Final = ("eax", "ebx", "ecx", "edx")
_PERFMON: Final = 0xA
_HYPERVISOR: Final = range(0x4000_0000, 0x4000_0100)
_HYPERV_INTERFACE: Final = (0x4000_0001, 0x3123_7648)
_HYPERV_NESTED: Final = 0x4000_000A


def _entries(supported: tuple[CpuidEntry, ...], cpuid: GuestCpuid) -> Iterator[CpuidEntry]:
    """Yield the supported entries, changed so that `GuestCpuid.of` makes `cpuid` of them."""
    table = {(entry.function, entry.index): entry for entry in supported}
    for name, (leaf, subleaf, register, position) in CPUID_BITS.items():
        if name == "OSPKE":
            continue
        flags = _SIGNIFICANT_INDEX if leaf in _SUBLEAVES else 0
        entry = table.get((leaf, subleaf)) or CpuidEntry(leaf, subleaf, flags, 0, 0, 0, 0)
        word = _REGISTERS[register]
        value = getattr(entry, word) & ~(1 << position) | (name in cpuid.features) << position
        table[leaf, subleaf] = replace(entry, **{word: value})
    counters = table.pop((_PERFMON, 0), CpuidEntry(_PERFMON, 0, 0, 0, 0, 0, 0))
    if cpuid.pmu_version is not None:
        eax = counters.eax & ~0xFF | cpuid.pmu_version
        table[_PERFMON, 0] = replace(counters, eax=eax)
    for entry in table.values():
        if not cpuid.hyperv or entry.function not in _HYPERVISOR:
            yield entry
    if cpuid.hyperv:
        yield CpuidEntry(_HYPERV_INTERFACE[0], 0, 0, _HYPERV_INTERFACE[1], 0, 0, 0)
        yield CpuidEntry(_HYPERV_NESTED, 0, 0, 0, int(cpuid.evmcs_perf_global_ctrl), 0, 0)
