# SPDX-License-Identifier: GPL-2.0-only
"""What KVM finds when it is loaded: the processor, and the module parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.host_features import ALL_FEATURES, features_of
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.machine.profile import Profile


@dataclass(frozen=True, slots=True)
class HostCpu:
    """The processor (or L0's idea of one) that kvm_intel is loaded on.

    `msrs` maps an index to any 64-bit value; an index that is missing faults when it is read.
    `family`, `model` and `stepping` are the effective ones, as in /proc/cpuinfo; the default is a
    model without errata. `on_hyperv_evmcs`: Hyper-V recommends the enlightened VMCS, version 1,
    and every processor has its assist page.
    """

    msrs: Mapping[int, int]
    family: int = 6
    model: int = 0
    stepping: int = 0
    has_sgx: bool = False
    on_hyperv_evmcs: bool = False
    features: frozenset[str] = ALL_FEATURES
    """Of the processor's CPUID, in the words of `guest_cpuid.CPUID_BITS`."""
    pmu_version: int = 2
    """Version of architectural performance monitoring, 0 for none."""
    tsc_khz: int = 2_000_000

    @classmethod
    def of(
        cls, profile: Profile, has_sgx: bool | None = None, on_hyperv_evmcs: bool = False
    ) -> HostCpu:
        """Return the host that `profile` describes; `has_sgx` None asks the profile's features."""
        sgx = "sgx" in profile.features if has_sgx is None else has_sgx
        where = profile.family, profile.model, profile.stepping
        features = features_of(profile)
        pmu_version = 2 if "perf-global-ctrl" in profile.features else 1
        return cls(profile.msrs, *where, sgx, on_hyperv_evmcs, features, pmu_version)


@dataclass(frozen=True, slots=True)
class ModuleParams:
    """Parameters by the names that modprobe takes, with the kernel's defaults.

    The last two belong to kvm, the others to kvm_intel. What a version lacks it ignores.
    """

    error_on_inconsistent_vmcs_config: bool = True
    enlightened_vmcs: bool = True
    nested: bool = True
    ept: bool = True
    eptad: bool = True
    unrestricted_guest: bool = True
    vpid: bool = True
    flexpriority: bool = True
    vnmi: bool = True
    enable_apicv: bool = True
    enable_ipiv: bool = True
    pml: bool = True
    preemption_timer: bool = True
    enable_shadow_vmcs: bool = True
    sgx: bool = True
    enable_pmu: bool = True
    ignore_msrs: bool = False


DEFAULT_PARAMS = ModuleParams()


def _kstrtobool(value: str) -> bool | None:
    """Return what the kernel's kstrtobool() makes of a value; None is -EINVAL.

    It looks at the first character, and behind an `o` at the second.
    """
    lower = value.lower()
    if lower[:1] in ("y", "t", "1") or lower[:2] == "on":
        return True
    if lower[:1] in ("n", "f", "0") or lower[:2] == "of":
        return False
    return None


def parse_params(
    kernel: Kernel, settings: Iterable[str], names: Iterable[str] | None = None
) -> ModuleParams:
    """Return the parameters that `NAME=VALUE` settings give; a bad one is an InputError.

    `names` are those that may be given: without it, those that shape the config.
    """
    params = DEFAULT_PARAMS
    allowed = kernel.parameters if names is None else tuple(names)
    what = "that shapes the config" if names is None else "that shapes what L1 is offered"
    for setting in settings:
        name, equals, value = setting.partition("=")
        if name not in allowed:
            raise InputError(
                f"kernel {kernel.version} has no parameter {name[:60]!r} {what}: "
                f"choose among {', '.join(allowed)}"
            )
        # A bool parameter that is named without a value is set, as on the kernel command line.
        chosen = _kstrtobool(value) if equals else True
        if chosen is None:
            raise InputError(f"{name} is {value[:40]!r}: write {name}=Y or {name}=N")
        params = replace(params, **{name: chosen})
    return params
