# SPDX-License-Identifier: GPL-2.0-only
"""The model of a kernel as one side of a migration.

Modelled are the MSRs and VM entry. Of nested state it is what KVM_SET_NESTED_STATE checks: what
KVM_GET_NESTED_STATE writes into vmcs12 from L2's state is not, so that vmcs12 stays L1's.
"""

from __future__ import annotations

from dataclasses import replace

from nvmxfuzz.kvm.entry_behaviour import entry_behaviour
from nvmxfuzz.kvm.nested_enter import check_controls_and_host_state, check_guest_state, vm_entry
from nvmxfuzz.kvm.nested_kvm import entry_request, kvm_of
from nvmxfuzz.kvm.vcpu import Kvm, Vcpu
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.oracles.migration.carrier import ENTERED, Entry, Saved
from nvmxfuzz.oracles.migration.entry import USUAL_COUNTERS, processor_of_l1
from nvmxfuzz.oracles.restore.offer import offer
from nvmxfuzz.oracles.restore.witness import ModelMsrs

_INVALID = "errno 22"
_VMEXIT = "returns 2"
"""NVMX_VMENTRY_VMEXIT: an entry that fails behind the checks is told so, and not by an errno."""
_BEHIND_THE_CHECKS = frozenset({"guest.cr3.width", "guest.perf-global-ctrl.msr"})
"""What prepare_vmcs02() refuses, also where no instruction enters L2."""


class ModelSide(ModelMsrs):
    """The model, with one vCPU on which L1 may enter L2."""

    def enter(self, attempt: Attempt) -> Entry:
        """Return what nested_vmx_run() comes to; what it would run is not run."""
        ended = vm_entry(self._kvm(), entry_request(attempt))
        check = ended.fired[0] if ended.fired else ""
        return Entry(str(ended.outcome) if ended.outcome else ended.died, check)

    def save(self, attempt: Attempt, in_l2: bool) -> Saved:
        """KVM_GET_NESTED_STATE, as far as it is modelled."""
        return Saved(attempt, in_l2)

    def resume(self, saved: Saved) -> Entry:
        """KVM_SET_NESTED_STATE: in L2, vmcs12 is checked."""
        if not self.vcpu.vmx_allowed:
            return Entry(_INVALID)
        if saved.in_l2:
            failed = self._resume_l2(saved.attempt)
            if failed is not None:
                return failed
        self.vmxon()
        return Entry(ENTERED)

    def _resume_l2(self, attempt: Attempt) -> Entry | None:
        kvm, request = self._kvm(), entry_request(attempt)
        vcpu = Vcpu(kvm, request)
        failed = check_controls_and_host_state(vcpu, vcpu.vmcs12)[0]
        failed = failed or check_guest_state(vcpu, vcpu.vmcs12)[0]
        if failed:
            return Entry(_INVALID, failed)
        ended = vm_entry(kvm, request)
        if ended.check in _BEHIND_THE_CHECKS:
            return Entry(_VMEXIT, ended.fired[0] if ended.fired else "")
        return None

    def _kvm(self) -> Kvm:
        assert self.module is not None
        host = self.world.host
        plain = load_profile(self.world.profile)
        # The world may have LA57 where its profile has not: KVM's own checks go by that.
        wide = frozenset({"la57"} if "LA57" in host.features else ())
        hardware = replace(
            plain,
            features=plain.features - {"la57"} | wide,
            msrs=host.msrs,
            family=host.family,
            model=host.model,
            stepping=host.stepping,
        )
        virtual = processor_of_l1(self.world, self.vcpu.cpuid, offer(self.read()[1:]))
        if virtual.perf_global_ctrl_mask is None and "perf-global-ctrl" in virtual.features:
            virtual = replace(virtual, perf_global_ctrl_mask=USUAL_COUNTERS)
        return kvm_of(self.module, entry_behaviour(self.kernel), hardware, virtual)
