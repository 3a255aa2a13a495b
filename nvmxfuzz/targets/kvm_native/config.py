# SPDX-License-Identifier: GPL-2.0-only
"""The real setup_vmcs_config() as a witness of the config that KVM makes of capability MSRs.

It is called on a processor that has the MSRs and the CPUID of a host, after hv_init_evmcs(), which
decides about the enlightened VMCS (up to 6.1 the config does not depend on that). What loading the
module does besides is not part of it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import chain
from struct import Struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import Kernel
from nvmxfuzz.kvm.vmcs_config import ConfigOutcome, KernelWarning, VmcsConfig
from nvmxfuzz.oracles.config.kvm_config import NoConfig
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.config_log import warning_of
from nvmxfuzz.targets.kvm_native.results import Stopped
from nvmxfuzz.targets.registry import target_named

if TYPE_CHECKING:
    from nvmxfuzz.targets.kvm_native.library import Library

KERNEL_OF: Final = MappingProxyType({"kvm-6.1": "6.1", "kvm-6.12": "6.12"})
"""The targets that make configs, and the kernel of each."""

_LINES: Final = native.Result.lines.offset // 4
_WARNINGS: Final = native.Result.warnings.offset // 4
_UNKNOWN_MSRS: Final = native.Result.unknown_msrs.offset // 4
_UNKNOWN_MSR: Final = native.Result.unknown_msr.offset // 4

_CONFIG: Final = Struct("<q10Q")
_REJECTS: Final = "error_on_inconsistent_vmcs_config"
_ENLIGHTENED: Final = "enlightened_vmcs"

_VENDOR: Final = (0x756E_6547, 0x6C65_746E, 0x4965_6E69)
"""EBX, ECX, EDX of CPUID leaf 0: GenuineIntel."""


@cache
def config_witness(target: str) -> KvmConfig:
    """Return the witness that a target is: one for this process, as it cannot be unloaded.

    InputError if there is no such target, if it makes no configs, or if it is not built.
    """
    kernel = KERNEL_OF.get(target)
    if kernel is None:
        target_named(target)
        raise InputError(
            f"target {target} executes VM entries: use it with the harness vm_entry; "
            f"the targets that make configs are {', '.join(KERNEL_OF)}"
        )
    from nvmxfuzz.targets.kvm_native.build.objects import find_object
    from nvmxfuzz.targets.kvm_native.library import Library

    built = find_object(kernel)
    return KvmConfig(Library.of(built), kernel)


class KvmConfig:
    """setup_vmcs_config() of one built object; a call has the signature of the model's function."""

    def __init__(self, library: Library, kernel: str) -> None:
        """Take an instance of KVM for itself, and the version that it was built from."""
        self.kernel = kernel
        self._library = library
        self._setup = library.prepare("nvmx_setup_vmcs_config")
        self._config = native.Config()
        self._address = ctypes.addressof(self._config)
        self._view = memoryview(self._config).cast("B")
        self._processor: tuple[int, ...] = ()
        self._surroundings: tuple[bool, ...] = ()
        self._has_hyperv = _ENLIGHTENED in library.parameters and not (
            library.functions.nvmx_set_hyperv_evmcs(1)
        )

    def __call__(self, host: HostCpu, kernel: Kernel, params: ModuleParams) -> ConfigOutcome:
        """Return what the function makes of a host; InputError where it makes nothing."""
        seen = self.observe(host, kernel, params)
        if isinstance(seen, NoConfig):
            raise InputError(f"kvm-{self.kernel} has no config: {seen.reason}")
        return seen

    def observe(
        self, host: HostCpu, kernel: Kernel, params: ModuleParams
    ) -> ConfigOutcome | NoConfig:
        """Return what the function makes of a host, or why there is nothing."""
        if kernel.version != self.kernel:
            return NoConfig("not-representable", f"the kernel is {self.kernel}")
        if host.on_hyperv_evmcs and params.enlightened_vmcs and not self._has_hyperv:
            return NoConfig("not-representable", "it was built without Hyper-V's enlightened VMCS")
        try:
            self._install(host, params)
            self._setup(self._address)
        except Stopped as stopped:
            self._start_again()
            return NoConfig("stopped", stopped.result.sentence())
        return self._outcome()

    def _install(self, host: HostCpu, params: ModuleParams) -> None:
        processor = host.family, host.model, host.stepping, host.has_sgx
        if processor != self._processor:
            self._library.set_cpuid(_cpuid(*processor))
            self._library.call("nvmx_init_cpu", *processor[:3])
            self._processor = processor
        surroundings = (
            host.on_hyperv_evmcs,
            params.enlightened_vmcs,
            params.error_on_inconsistent_vmcs_config,
        )
        if surroundings != self._surroundings:
            self._surround(*surroundings)
        msrs = host.msrs
        packed = _table(len(msrs)).pack(*chain.from_iterable(msrs.items()))
        self._library.functions.nvmx_set_msrs(packed, len(msrs))
        self._library.functions.nvmx_forget_once()

    def _surround(self, on_hyperv_evmcs: bool, enlightened: bool, rejects: bool) -> None:
        if self._has_hyperv:
            self._library.functions.nvmx_set_hyperv_evmcs(on_hyperv_evmcs)
            self._library.parameters[_ENLIGHTENED].value = enlightened
        self._library.parameters[_REJECTS].value = rejects
        self._surroundings = on_hyperv_evmcs, enlightened, rejects

    def _start_again(self) -> None:
        self._library.restore()
        self._processor, self._surroundings = (), ()

    def _outcome(self) -> ConfigOutcome:
        error, pin, cpu, second, third, exit_, entry, ept, vpid, basic, misc = _CONFIG.unpack(
            self._view
        )
        warnings = self._warnings()
        if error:
            return ConfigOutcome(None, error, "", warnings)
        config = VmcsConfig(pin, cpu, second, third, exit_, entry, ept, vpid, basic, misc)
        return ConfigOutcome(config, 0, "", warnings)

    def _warnings(self) -> tuple[KernelWarning, ...]:
        """Return what the last call was warned about: absent MSRs first, then line by line."""
        words = self._library.reader.words
        if not words[_LINES] and not words[_UNKNOWN_MSRS] and not words[_WARNINGS]:
            return ()
        result = self._library.result()
        warnings: list[KernelWarning] = []
        if result.unknown_msrs:
            warnings.append(KernelWarning("unchecked_rdmsr", (words[_UNKNOWN_MSR],)))
        warnings += filter(None, map(warning_of, result.log))
        warnings += [KernelWarning(f"warn.{place}") for place in result.warnings]
        if result.line_count > len(result.log):
            warnings.append(KernelWarning("unrecognised.one line of too many"))
        return tuple(warnings)


@cache
def _table(count: int) -> Struct:
    """Return the layout of a table of MSRs, struct nvmx_msr."""
    return Struct("<" + "I4xQ" * count)


def _cpuid(
    family: int, model: int, stepping: int, has_sgx: bool
) -> tuple[tuple[int, int, int, int, int, int], ...]:
    """Return what CPUID says of an Intel processor with VMX, as far as the function asks for it."""
    signature = (
        max(family - 0xF, 0) << 20 & 0xFF << 20
        | model >> 4 << 16
        | min(family, 0xF) << 8
        | (model & 0xF) << 4
        | stepping
    )
    ebx, ecx, edx = _VENDOR
    return (
        (0, 0, 0x1F, ebx, ecx, edx),
        (1, 0, signature, 0, 1 << 5, 0x0787_FBFF),
        (7, 0, 0, has_sgx << 2, 0, 0),
        (0x12, 0, int(has_sgx), 0, 0, 0),
        (0x8000_0000, 0, 0x8000_0008, 0, 0, 0),
        (0x8000_0001, 0, 0, 0, 0, 0x2010_0800),
        (0x8000_0008, 0, 0x3028, 0, 0, 0),
    )
