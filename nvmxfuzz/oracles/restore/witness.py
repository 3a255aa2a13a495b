# SPDX-License-Identifier: GPL-2.0-only
"""Who can be asked what KVM does with the capability MSRs of a vCPU, and what can be asked.

A `MsrWorld` is a processor with KVM loaded, a `Step` something that happens to the one vCPU there.
A witness lives through them: the model of a kernel version here (`ModelMsrs`), or the real KVM.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import starmap
from typing import Final, Protocol, TypeAlias

from nvmxfuzz.arch import msr
from nvmxfuzz.kvm import msr_vcpu as vcpus
from nvmxfuzz.kvm.after_set_cpuid import kvm_set_cpuid
from nvmxfuzz.kvm.enable_flags import EnableFlags
from nvmxfuzz.kvm.feature_msrs import feature_index_list, get_feature_msrs, index_list
from nvmxfuzz.kvm.guest_cpuid import NO_CPUID, GuestCpuid
from nvmxfuzz.kvm.hardware_setup import LoadedKvm, load_kvm_intel
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import KVM_FIRST_EMULATED_VMX_MSR, KVM_LAST_EMULATED_VMX_MSR
from nvmxfuzz.kvm.msr_restore import vmx_set_vmx_msr
from nvmxfuzz.kvm.source import find_kernel

VMX_MSRS: Final = tuple(range(KVM_FIRST_EMULATED_VMX_MSR, KVM_LAST_EMULATED_VMX_MSR + 1))
"""What KVM emulates, ascending."""

WATCHED: Final = (msr.MSR_IA32_FEAT_CTL, *VMX_MSRS)
"""What is read after every step. IA32_FEATURE_CONTROL is first: it can always be read."""

NOT_COMPARED: Final = frozenset({"MPX"})
"""Of the supported CPUID: the real KVM also asks XCR0 for it, which is not modelled."""


@dataclass(frozen=True, slots=True)
class MsrWorld:
    """A processor that is `profile` but for what `host` says, with KVM loaded on it.

    `stuffs_feature_msrs` False: the VM has that quirk turned off (6.12).
    """

    profile: str
    host: HostCpu
    params: ModuleParams
    stuffs_feature_msrs: bool = True


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading came to: 0 or -errno; and then what /dev/kvm tells, and the decisions."""

    errno: int
    flags: tuple[tuple[str, int], ...] = ()
    feature_indices: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()
    system: tuple[int, ...] = ()
    """The values of `VMX_MSRS` for the system; none without `nested`."""
    supported: GuestCpuid = NO_CPUID


class WitnessStoppedError(Exception):
    """KVM did not return from a step: a BUG, a signal, a loop."""


class MsrWitness(Protocol):
    """KVM of one version. A call that it does not accept is told by a number, as KVM does."""

    @property
    def kernel(self) -> str:
        """The version."""

    @property
    def world(self) -> MsrWorld:
        """What was loaded last; ValueError if nothing was."""

    @property
    def loaded(self) -> Loaded:
        """What that came to."""

    def load(self, world: MsrWorld) -> Loaded:
        """Load KVM on a processor, and make a VM and a vCPU without CPUID."""

    def renew(self) -> None:
        """Have the vCPU as `load` left it."""

    def read(self) -> tuple[int, ...]:
        """Return the values of `WATCHED` as userspace reads them, up to the first refused."""

    def warnings(self) -> int:
        """Return how many WARNs there were since `renew`."""

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """KVM_SET_MSRS: how many were taken before the first that was refused."""

    def restore_msr(self, index: int, value: int) -> int:
        """vmx_set_vmx_msr(): 0 or -errno."""

    def set_cpuid(self, cpuid: GuestCpuid) -> int:
        """KVM_SET_CPUID2: 0 or -errno."""

    def vmxon(self) -> int:
        """KVM_SET_NESTED_STATE with a VMXON region: 0 or -errno."""

    def vmxoff(self) -> int:
        """KVM_SET_NESTED_STATE without: 0 or -errno."""

    def enable_evmcs(self) -> int:
        """KVM_ENABLE_CAP: L1 is offered the enlightened VMCS."""

    def rdmsr(self, index: int) -> int | None:
        """KVM_RUN, in which L1 executes RDMSR: the value, or None for #GP."""

    def wrmsr(self, index: int, value: int) -> int:
        """KVM_RUN, in which L1 executes WRMSR: 0, or 1 for #GP."""

    def smi(self) -> int:
        """KVM_SMI and KVM_RUN: 0 if the vCPU is in SMM from now on."""

    def rsm(self) -> int:
        """KVM_RUN, in which RSM is executed in SMM: 0 if the vCPU is back."""


_NAMES: Final = {
    msr.MSR_IA32_FEAT_CTL: "IA32_FEATURE_CONTROL",
    **dict(msr.VMX_CAPABILITY_MSRS),
}


def msr_name(index: int) -> str:
    """Return the SDM's name of an MSR, or its index."""
    return _NAMES.get(index, f"{index:#x}")


def _written(index: int, value: int) -> str:
    return f"{msr_name(index)}={value:#x}"


@dataclass(frozen=True, slots=True)
class SetMsrs:
    """Userspace writes MSRs."""

    values: tuple[tuple[int, int], ...]

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.set_msrs(self.values)

    def __str__(self) -> str:
        return f"KVM_SET_MSRS({', '.join(starmap(_written, self.values))})"


@dataclass(frozen=True, slots=True)
class RestoreMsr:
    """The function behind writing one of `VMX_MSRS`, without what stands before it."""

    index: int
    value: int

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.restore_msr(self.index, self.value)

    def __str__(self) -> str:
        return f"vmx_set_vmx_msr({_written(self.index, self.value)})"


@dataclass(frozen=True, slots=True)
class SetCpuid:
    """Userspace gives the vCPU a CPUID: the supported one with these features and no others."""

    cpuid: GuestCpuid

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.set_cpuid(self.cpuid)

    def __str__(self) -> str:
        cpuid = self.cpuid
        words = [*sorted(cpuid.features), f"PMU {cpuid.pmu_version}"]
        words += ["Hyper-V"] * cpuid.hyperv
        words += ["its PERF_GLOBAL_CTRL"] * cpuid.evmcs_perf_global_ctrl
        return f"KVM_SET_CPUID2({', '.join(words)})"


@dataclass(frozen=True, slots=True)
class Nested:
    """L1 is in VMX operation from now on, or no longer."""

    vmxon: bool

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.vmxon() if self.vmxon else witness.vmxoff()

    def __str__(self) -> str:
        return "VMXON" if self.vmxon else "VMXOFF"


@dataclass(frozen=True, slots=True)
class EnableEvmcs:
    """Userspace offers L1 the enlightened VMCS."""

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.enable_evmcs()

    def __str__(self) -> str:
        return "KVM_ENABLE_CAP(enlightened VMCS)"


@dataclass(frozen=True, slots=True)
class Rdmsr:
    """The vCPU runs, and L1 reads an MSR."""

    index: int

    def on(self, witness: MsrWitness) -> int | None:
        """Do it."""
        return witness.rdmsr(self.index)

    def __str__(self) -> str:
        return f"RDMSR({msr_name(self.index)})"


@dataclass(frozen=True, slots=True)
class Wrmsr:
    """The vCPU runs, and L1 writes an MSR."""

    index: int
    value: int

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.wrmsr(self.index, self.value)

    def __str__(self) -> str:
        return f"WRMSR({_written(self.index, self.value)})"


@dataclass(frozen=True, slots=True)
class Smi:
    """An SMI, while the vCPU is not in SMM."""

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.smi()

    def __str__(self) -> str:
        return "SMI"


@dataclass(frozen=True, slots=True)
class Rsm:
    """The end of what an SMI began."""

    def on(self, witness: MsrWitness) -> int:
        """Do it."""
        return witness.rsm()

    def __str__(self) -> str:
        return "RSM"


Step: TypeAlias = SetMsrs | RestoreMsr | SetCpuid | Nested | EnableEvmcs | Rdmsr | Wrmsr | Smi | Rsm
Sequence: TypeAlias = tuple[Step, ...]
"""What happens to a vCPU, first to last."""


_FIXED0: Final = (msr.MSR_IA32_VMX_CR0_FIXED0, msr.MSR_IA32_VMX_CR4_FIXED0)


def spoils_rsm(step: Step, own: Mapping[int, int]) -> bool:
    """Whether RSM may shut the vCPU down after `step`; `own` are the MSRs that KVM offers.

    Back in VMX operation CR0 and CR4 have to be what the MSRs fix, which L1's were not made for.
    The witnesses do not tell of a shutdown.
    """
    if isinstance(step, SetCpuid):
        return "PAE" not in step.cpuid.features
    if isinstance(step, SetMsrs):
        return any(at in _FIXED0 and own.get(at) != value for at, value in step.values)
    return isinstance(step, RestoreMsr) and spoils_rsm(SetMsrs(((step.index, step.value),)), own)


def comparable(cpuid: GuestCpuid) -> GuestCpuid:
    """Return a supported CPUID without what cannot be compared."""
    return GuestCpuid(cpuid.features - NOT_COMPARED, cpuid.pmu_version)


class ModelMsrs:
    """The model of a kernel version as a witness."""

    def __init__(self, kernel: str) -> None:
        """Take a version that `nvmxfuzz.kvm.source` knows; else InputError."""
        self._source = find_kernel(kernel)
        self.kernel = kernel
        self.loaded = Loaded(-errno.ENODEV)
        self.module: LoadedKvm | None = None
        """KVM as it is loaded."""
        self._world: MsrWorld | None = None
        self._vcpu: vcpus.MsrVcpu | None = None

    def load(self, world: MsrWorld) -> Loaded:
        """Load KVM on a processor."""
        outcome = load_kvm_intel(world.host, self._source, world.params)
        self.module, self._world = outcome.module, world
        self.loaded = _loaded(outcome.module) if outcome.module else Loaded(outcome.errno)
        if outcome.module:
            self.renew()
        return self.loaded

    def renew(self) -> None:
        """Make another vCPU."""
        if self.module is None:
            raise ValueError("KVM is not loaded")
        self._vcpu = vcpus.create_vcpu(self.module, self.world.stuffs_feature_msrs)

    @property
    def world(self) -> MsrWorld:
        """What was loaded last."""
        if self._world is None:
            raise ValueError("KVM is not loaded")
        return self._world

    @property
    def vcpu(self) -> vcpus.MsrVcpu:
        """The vCPU."""
        if self._vcpu is None:
            raise ValueError("KVM is not loaded")
        return self._vcpu

    def read(self) -> tuple[int, ...]:
        """Return the values of `WATCHED`."""
        return vcpus.kvm_get_msrs(self.vcpu, WATCHED)

    def warnings(self) -> int:
        """Return 0: none of this is warned about."""
        return 0

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """KVM_SET_MSRS."""
        return vcpus.kvm_set_msrs(self.vcpu, values)

    def restore_msr(self, index: int, value: int) -> int:
        """vmx_set_vmx_msr()."""
        vcpu = self.vcpu
        against_vcpu = vcpu.module.behaviour.restores_against_vcpu
        supported = vcpu.msrs if against_vcpu else vcpu.module.nested
        return vmx_set_vmx_msr(vcpu.msrs, supported, vcpu.vmxon, index, value).errno

    def set_cpuid(self, cpuid: GuestCpuid) -> int:
        """KVM_SET_CPUID2."""
        return kvm_set_cpuid(self.vcpu, cpuid)

    def vmxon(self) -> int:
        """KVM_SET_NESTED_STATE: it leaves VMX operation first, once L1 may have VMX."""
        if not self.vcpu.vmx_allowed:
            return -errno.EINVAL
        vcpus.vmx_leave_nested(self.vcpu)
        vcpus.enter_vmx_operation(self.vcpu)
        return 0

    def vmxoff(self) -> int:
        """KVM_SET_NESTED_STATE."""
        vcpus.vmx_leave_nested(self.vcpu)
        return 0

    def enable_evmcs(self) -> int:
        """KVM_ENABLE_CAP."""
        self.vcpu.enlightened_vmcs_enabled = True
        return 0

    def rdmsr(self, index: int) -> int | None:
        """RDMSR by L1."""
        self.vcpu.has_run = True
        return vcpus.vmx_get_msr(self.vcpu, index, host_initiated=False)

    def wrmsr(self, index: int, value: int) -> int:
        """WRMSR by L1."""
        self.vcpu.has_run = True
        return 0 if vcpus.vmx_set_msr(self.vcpu, index, value, host_initiated=False) else 1

    def smi(self) -> int:
        """Enter SMM."""
        self.vcpu.has_run = True
        vcpus.vmx_enter_smm(self.vcpu)
        return 0

    def rsm(self) -> int:
        """Leave SMM."""
        vcpus.vmx_leave_smm(self.vcpu)
        return 0


FLAGS: Final = {
    "nested": "nested",
    "ept": "enable_ept",
    "eptad": "enable_ept_ad_bits",
    "unrestricted_guest": "enable_unrestricted_guest",
    "vpid": "enable_vpid",
    "flexpriority": "flexpriority_enabled",
    "vnmi": "enable_vnmi",
    "enable_apicv": "enable_apicv",
    "enable_ipiv": "enable_ipiv",
    "pml": "enable_pml",
    "preemption_timer": "enable_preemption_timer",
    "enable_shadow_vmcs": "enable_shadow_vmcs",
    "sgx": "enable_sgx",
}
"""The module parameter in which a decision can be read -> its variable in the kernel."""

assert set(FLAGS.values()) <= {field.name for field in fields(EnableFlags)}


def _loaded(module: LoadedKvm) -> Loaded:
    flags = ((name, int(getattr(module.flags, variable))) for name, variable in FLAGS.items())
    return Loaded(
        0,
        tuple(flags),
        feature_index_list(module),
        index_list(module),
        get_feature_msrs(module, VMX_MSRS),
        comparable(module.supported_cpuid),
    )
