# SPDX-License-Identifier: GPL-2.0-only
"""What hardware_setup() decides to use: module parameters, held to what the config has.

The kernel keeps each decision in the variable behind the parameter; the names are those variables.
Intel PT for guests (pt_mode) is left out: 6.1.192 and 6.12 have buried the parameter.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Secondary
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxMisc
from nvmxfuzz.kvm import vmx_capabilities as cap
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import MsrBehaviour
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import VmcsConfig

_DEFAULT_TIMER_HZ = 5_000_000_000
_SLOWEST_WRAP = 0xFFFF_FFFF // 10


@dataclass(frozen=True, slots=True)
class EnableFlags:
    """The variables of kvm_intel once it is loaded; `cpu_preemption_timer_multi` is a shift."""

    nested: bool
    enable_vpid: bool
    enable_ept: bool
    enable_ept_ad_bits: bool
    enable_unrestricted_guest: bool
    flexpriority_enabled: bool
    enable_vnmi: bool
    enable_sgx: bool
    enable_apicv: bool
    enable_ipiv: bool
    enable_pml: bool
    enable_preemption_timer: bool
    cpu_preemption_timer_multi: int
    enable_shadow_vmcs: bool
    enable_pmu: bool


def decide(
    config: VmcsConfig, host: HostCpu, kernel: Kernel, params: ModuleParams, behaviour: MsrBehaviour
) -> EnableFlags:
    """Return the decisions, in the kernel's order; `refusal` tells whether it stops over them."""
    misc = host.msrs.get(msr.MSR_IA32_VMX_MISC, 0) if config.misc is None else config.misc
    enable_ept = params.ept and cap.cpu_has_vmx_ept(config)
    ad_bits = params.eptad and enable_ept and config.ept & EptVpidCap.ACCESSED_DIRTY != 0
    unrestricted = params.unrestricted_guest and enable_ept
    has_encls = cap.has_secondary(config, Secondary.ENABLE_ENCLS_EXITING)
    apicv = params.enable_apicv and cap.cpu_has_vmx_apicv(config)
    multi = misc & VmxMisc.PREEMPTION_TIMER_RATE
    # Nobody looks whether shadowing exists where it is for nothing.
    has_shadow = not params.nested or cap.cpu_has_vmx_shadow_vmcs(config, misc)
    return EnableFlags(
        nested=params.nested,
        enable_vpid=params.vpid and cap.cpu_has_vmx_vpid(config),
        enable_ept=enable_ept,
        enable_ept_ad_bits=ad_bits,
        enable_unrestricted_guest=unrestricted
        and cap.has_secondary(config, Secondary.UNRESTRICTED_GUEST),
        flexpriority_enabled=params.flexpriority and cap.cpu_has_vmx_flexpriority(config),
        enable_vnmi=params.vnmi and cap.cpu_has_virtual_nmis(config, kernel),
        enable_sgx=params.sgx and (has_encls or not behaviour.sgx_needs_encls_exiting),
        enable_apicv=apicv,
        enable_ipiv=params.enable_ipiv and apicv and cap.cpu_has_vmx_ipiv(config),
        enable_pml=params.pml and ad_bits and cap.has_secondary(config, Secondary.ENABLE_PML),
        enable_preemption_timer=params.preemption_timer
        and cap.cpu_has_vmx_preemption_timer(config)
        and (host.tsc_khz * 1000 or _DEFAULT_TIMER_HZ) >> multi <= _SLOWEST_WRAP,
        cpu_preemption_timer_multi=multi,
        enable_shadow_vmcs=params.enable_shadow_vmcs and has_shadow,
        enable_pmu=params.enable_pmu,
    )


def refusal(flags: EnableFlags, host: HostCpu) -> tuple[int, str]:
    """Return (-errno, where) if hardware_setup() stops over its decisions, else (0, "")."""
    if not flags.enable_ept and "NX" not in host.features:
        return -errno.EOPNOTSUPP, "shadow_paging_without_nx"
    return 0, ""
