# SPDX-License-Identifier: GPL-2.0-only
"""Who can be asked what KVM does in a session, and what can be asked.

A witness is loaded with a world: a VM with `VCPUS` vCPUs, each of them an L1 about to execute
VMXON. Steps happen to it; after each, everything that userspace can read of a vCPU is a view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from nvmxfuzz.inputs.places import CURRENT_VMCS, VMXON_REGION
from nvmxfuzz.inputs.session_steps import SessionStep
from nvmxfuzz.inputs.world import World

PLACE_ADDRESSES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "vmxon-region": VMXON_REGION,
        "vmcs-0": CURRENT_VMCS,
        "vmcs-1": 0x10_0000,
        "vmcs-2": 0x10_1000,
        "other-vmxon-region": 0x10_2000,
        "wrong-revision": 0x10_3000,
        "shadow-vmcs": 0x10_4000,
        "unaligned": 0x10_5008,
        "unbacked": 0x80_0000,
        "beyond-width": 1 << 52,
        "zero": 0,
        "all-ones": (1 << 64) - 1,
    }
)
"""Where the places of the steps are, by name.

The regions hold L1's VMCS revision identifier when a world is loaded, `shadow-vmcs` with the
shadow-VMCS indicator, `wrong-revision` the identifier with its lowest bit flipped.
"""

MEMORY_END: Final = 4 << 20
"""Where the memory of the VM ends: behind it nothing is backed."""

LINEAR_ADDRESSES: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "good": ("ds", 0x20_0000),
        "unmapped": ("ds", 0x20_1000),
        "read-only": ("ds", 0x20_2000),
        "non-canonical": ("ds", 0x8000_0000_0000_0000),
        "stack": ("ss", 0x8000_0000_0000_0000),
    }
)
"""Where a memory operand stands: the segment and the linear address; `stack` is not canonical."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step came to.

    `outcome` is told of the guest:

    - "done", "vmfail-invalid", "vmfail-valid N", "fault N": an instruction of L1;
    - "entered": L2 is to run from now on;
    - "exit N qualification Q", "exit N": L2 was left for L1 with that basic exit reason; of a VM
      entry that failed, with qualification;
    - "triple-fault": the same with reason 2;
    - "smm", "l1", "l2": what goes on running, of a step that comes to none of these;
    - "refused": KVM_SET_MSRS took nothing;
    - "unbacked": there is no memory to write to;
    - "": an ioctl.

    An instruction is executed by whoever runs: in L2 it is an exit to L1, and `mode` says nothing.
    """

    errno: int = 0
    """0, or -errno of the first ioctl that failed."""
    outcome: str = ""
    left: str = ""
    """Why KVM_RUN came back: the name of the exit reason; "" if it was not called or failed.

    "intr" is as it should be: a signal ends it before the next entry of the guest.
    """
    emulated: bool = False
    """KVM has emulated instructions of an L2 that it could not enter, for the state that L2 has.

    Emulation upon an exit that asks for it (#UD, I/O, MMIO, a task switch) does not count.
    """
    warnings: tuple[str, ...] = ()
    """WARNs, "FILE:LINE"."""
    checks: tuple[str, ...] = ()
    """Consistency checks that failed, "CONDITION in FUNCTION", or by the model's names."""
    stopped: str = ""
    """Why KVM did not return at all: a BUG, a signal, the step limit. No step may follow."""


@dataclass(frozen=True, slots=True)
class VcpuView:
    """All that userspace can read of a vCPU, each part as (name, value), sorted by name.

    `vmcs12` and `shadow_vmcs12` are empty if KVM_GET_NESTED_STATE has none. An MSR that cannot be
    read is not there.
    """

    regs: tuple[tuple[str, int], ...]
    sregs: tuple[tuple[str, int], ...]
    """KVM_GET_SREGS2: of a segment as "cs.base", of a table as "gdt.limit", "pdptr0"."""
    events: tuple[tuple[str, int], ...]
    """Named like `session_steps.EVENT_PARTS`."""
    mp_state: int
    msrs: tuple[tuple[str, int], ...]
    """Those of `session_steps.MSRS`."""
    nested: tuple[tuple[str, int], ...]
    """The header: flags, vmxon_pa, vmcs12_pa, smm_flags, vmx_flags, preemption_timer_deadline."""
    vmcs12: tuple[tuple[str, int], ...] = ()
    """Fields other than 0, by the names of `arch.fields`; "launch_state" is among them."""
    shadow_vmcs12: tuple[tuple[str, int], ...] = ()

    @property
    def in_l2(self) -> bool:
        """Whether L2 is active."""
        return dict(self.nested)["flags"] & 1 != 0

    @property
    def in_smm(self) -> bool:
        """Whether the vCPU is in SMM."""
        return dict(self.events)["smi.smm"] != 0


class SessionWitness(Protocol):
    """KVM of one version, and the vCPUs of a session."""

    @property
    def kernel(self) -> str:
        """The version."""

    @property
    def name(self) -> str:
        """The target that it is, as in "kvm-6.12" and "kvm-model-6.12"."""

    def load(self, world: World) -> str:
        """Load KVM in a world and make the VM; "" or why KVM refuses the processor."""

    def renew(self) -> None:
        """Have everything as `load` left it. ValueError if nothing is loaded."""

    def do(self, step: SessionStep) -> StepResult:
        """Carry a step out, and tell what it came to. KVM's errors are results."""

    def read(self, vcpu: int) -> VcpuView:
        """Return what userspace can read of a vCPU.

        KVM_GET_MP_STATE is first: in it KVM accepts an INIT or SIPI that is pending.
        """

    def late_warnings(self) -> tuple[str, ...]:
        """Return the WARNs since `do` returned: reading makes KVM do things too."""
