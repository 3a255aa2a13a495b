# SPDX-License-Identifier: GPL-2.0-only
"""The direct calls: checks, nested_vmx_run(), batches, the config and the capability MSRs."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.fields import FIELD_BY_NAME, FIELDS
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.kvm.host import HostCpu, ModuleParams
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vmcs_config import setup_vmcs_config
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.processor import NO_POINTER
from nvmxfuzz.machine.profile import load_profile
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject
from nvmxfuzz.targets.kvm_native.direct import (
    CONFIG_WORDS,
    CONTROLS,
    GUEST_STATE,
    HOST_STATE,
    PASSED,
    Batch,
    ConfigSetup,
    Direct,
    Ran,
    Verdict,
    l1_of,
)
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.vcpu import offered
from nvmxfuzz.targets.kvm_native.vm import fresh
from nvmxfuzz.targets.kvm_native.vmcs12 import LAUNCH_STATE, REVISION, SHADOW, Vmcs12Layout

HOST = load_profile("skylake-x")
VMCLEAR_NEVER = 4
INVALID_CONTROL = 7
INVALID_HOST = 8
INVALID_OPCODE = 0x106
GENERAL_PROTECTION = 0x10D


class Ready:
    """A vCPU of which L1 is about to execute VMLAUNCH."""

    def __init__(self, built: BuiltObject) -> None:
        self.library = Library(built.path, built.symbols)
        self.made = fresh(self.library, hardware_of(HOST), {"enable_shadow_vmcs": 0})
        self.layout = Vmcs12Layout(self.library)
        self.direct = Direct(self.library, self.made.vcpu.address)
        self.attempt = self._attempt()
        self.l1 = l1_of(self.attempt.processor)
        self.renew()

    def _attempt(self) -> Attempt:
        profile = replace(HOST, name="of-l1", msrs=offered(self.made.vcpu))
        return base("guest-64", profile)

    def renew(self) -> None:
        """Be as new."""
        self.made.renew()
        for address, data in self.attempt.memory.regions:
            self.made.vm.memory.write(address, data)
        self.direct.reset_l1(self.l1)

    def image(self, **edits: int) -> bytes:
        """Return the image of the base after edits."""
        return self.layout.pack(self.attempt.vmcs.replace(edits))


@pytest.fixture(scope="module")
def loaded(built: BuiltObject) -> Ready:
    return Ready(built)


@pytest.fixture
def ready(loaded: Ready) -> Ready:
    loaded.renew()
    return loaded


def test_a_field_lies_where_kvm_says(ready: Ready) -> None:
    layout = ready.layout
    assert {field.name for field in (*layout.fields, *layout.missing)} == {
        field.name for field in FIELDS
    }
    for number, field in enumerate(layout.fields, 1):
        image = ready.layout.pack(ready.attempt.vmcs.replace({field.name: number}))
        size = field.width // 8
        at = layout.offsets[field.name]
        assert int.from_bytes(image[at : at + size], "little") == number
        assert len(image) == layout.size


def test_an_image_can_be_read_again(ready: Ready) -> None:
    layout = ready.layout
    values = {field.name: field.max_value for field in layout.fields}
    full = ready.attempt.vmcs.replace(values)
    assert layout.unpack(layout.pack(full)).items() == {
        **full.items(),
        **dict.fromkeys([field.name for field in layout.missing], 0),
    }


def test_the_header_of_an_image(ready: Ready) -> None:
    vmcs = ready.attempt.vmcs
    image = ready.layout.pack(vmcs, launched=True, shadow=True)
    assert struct.unpack_from("<I", image) == (REVISION | SHADOW,)
    assert struct.unpack_from("<I", image, LAUNCH_STATE) == (1,)
    assert struct.unpack_from("<I", ready.layout.pack(vmcs)) == (REVISION,)


def test_what_vmcs12_lacks_is_told(ready: Ready) -> None:
    layout = ready.layout
    plain = layout.writable(ready.attempt.vmcs)
    assert FIELD_BY_NAME["guest_ia32_pkrs"] in layout.missing
    assert layout.lost(plain) == ()
    assert layout.lost(plain.replace({"guest_ia32_pkrs": 1, "hlat_pointer": 2})) == (
        "hlat_pointer",
        "guest_ia32_pkrs",
    )
    assert layout.pack(plain) == layout.pack(ready.attempt.vmcs)
    assert layout.unpack(layout.pack(plain)) == plain


def test_the_base_passes(ready: Ready) -> None:
    direct, image = ready.direct, ready.image()
    assert direct.check(image) == PASSED
    assert direct.verdict() == Verdict(PASSED, 0, None)
    assert direct.check_controls(image) == 0
    assert direct.check_address_space_size(image) == 0
    assert direct.check_host_state(image) == 0
    assert direct.check_guest_state(image) == 0


@pytest.mark.parametrize(
    ("edits", "stage", "function"),
    [
        ({"pin_based_vm_exec_control": 0}, CONTROLS, "nested_check_vm_execution_controls"),
        ({"vm_exit_controls": 0}, CONTROLS, "nested_check_vm_exit_controls"),
        ({"vm_entry_controls": 0}, CONTROLS, "nested_check_vm_entry_controls"),
        ({"host_cr0": 0}, HOST_STATE, "nested_vmx_check_host_state"),
        ({"guest_cr0": 0}, GUEST_STATE, "nested_vmx_check_guest_state"),
        ({"vmcs_link_pointer": 0x123}, GUEST_STATE, "nested_vmx_check_vmcs_link_ptr"),
    ],
)
def test_a_failing_check_is_told(
    ready: Ready, edits: dict[str, int], stage: int, function: str
) -> None:
    direct, image = ready.direct, ready.image(**edits)
    assert direct.check(image) == stage
    verdict = direct.verdict()
    assert verdict.stage == stage
    assert verdict.check is not None
    assert verdict.check.function == function
    assert verdict.check.text
    assert direct.check(ready.image()) == PASSED
    assert direct.verdict().check is None


def test_the_parts_fail_each_for_itself(ready: Ready) -> None:
    direct = ready.direct
    assert direct.check_controls(ready.image(pin_based_vm_exec_control=0)) == -errno.EINVAL
    assert direct.check_host_state(ready.image(host_cr0=0)) == -errno.EINVAL
    assert direct.check_guest_state(ready.image(vmcs_link_pointer=0x123)) == -errno.EINVAL
    assert direct.guest_state_code == 4
    assert ready.library.result().checks[0].text


def test_entering_l2(ready: Ready) -> None:
    direct = ready.direct
    assert direct.run(ready.image(guest_rip=0x1234)) == 1
    ran = direct.ran()
    assert (ran.in_l2, ran.rip, ran.check) == (True, 0x1234, None)
    assert ready.library.functions.nvmx_is_guest_mode(direct.vcpu)
    assert direct.reset_l1(ready.l1) == 0
    assert not ready.library.functions.nvmx_is_guest_mode(direct.vcpu)


def test_failing_for_a_control_or_the_host(ready: Ready) -> None:
    for edits, number in (
        ({"pin_based_vm_exec_control": 0}, INVALID_CONTROL),
        ({"host_cr0": 0}, INVALID_HOST),
    ):
        ready.direct.run(ready.image(**edits))
        ran = ready.direct.ran()
        assert (ran.in_l2, ran.instruction_error, ran.exit_reason) == (False, number, 0)
        assert ran.rflags & 0x40
        assert ran.check is not None
        ready.direct.reset_l1(ready.l1)


def test_failing_for_the_launch_state(ready: Ready) -> None:
    ready.direct.run(ready.layout.pack(ready.attempt.vmcs, launched=True), launch=True)
    assert ready.direct.ran().instruction_error == VMCLEAR_NEVER
    ready.direct.reset_l1(ready.l1)
    ready.direct.run(ready.layout.pack(ready.attempt.vmcs, launched=True), launch=False)
    assert ready.direct.ran().in_l2


def test_failing_for_the_guest_state(ready: Ready) -> None:
    ready.direct.run(ready.image(vmcs_link_pointer=0x123))
    ran = ready.direct.ran()
    assert (ran.in_l2, ran.exit_reason, ran.exit_qualification) == (False, 0x8000_0021, 4)


def test_outside_of_vmx_operation_there_is_an_exception(ready: Ready) -> None:
    processor = replace(ready.attempt.processor, vmxon_pointer=NO_POINTER)
    ready.direct.reset_l1(l1_of(processor))
    ready.direct.run(ready.image())
    assert ready.direct.ran().exception == INVALID_OPCODE


def test_outside_of_ring_0_there_is_an_exception(ready: Ready) -> None:
    ready.direct.reset_l1(l1_of(replace(ready.attempt.processor, cpl=3)))
    ready.direct.run(ready.image())
    assert ready.direct.ran().exception == GENERAL_PROTECTION


def without_requests(ran: Ran) -> Ran:
    """Return an outcome without what is left to do: that hangs on what ran before."""
    return replace(ran, requests=0)


def test_a_batch_says_what_single_calls_say(ready: Ready) -> None:
    direct = ready.direct
    edits: list[dict[str, int]] = [{}, {"host_cr0": 0}, {"guest_cr0": 0}, {"guest_rip": 5}]
    images = [ready.image(**edit) for edit in edits]
    batch = Batch(ready.library, direct, ready.layout.size, 8)
    singles = []
    for index, (edit, image) in enumerate(zip(edits, images, strict=True)):
        ready.layout.pack_into(batch.images, index, ready.attempt.vmcs.replace(edit))
        direct.check(image)
        direct.run(image)
        singles.append((direct.verdict(), without_requests(direct.ran())))
        direct.reset_l1(ready.l1)
    assert batch.check(len(images)) == 2
    assert [batch.verdict(index) for index in range(4)] == [verdict for verdict, _ in singles]
    assert batch.run(len(images), ready.l1) == 2
    assert [without_requests(batch.ran(index)) for index in range(4)] == [ran for _, ran in singles]
    assert [numbers[1] for numbers in batch.numbers(4)] == [1, 0, 0, 1]
    with pytest.raises(ValueError, match="a batch of 9 where there is room for 8"):
        batch.check(9)


def test_a_batch_resumes_what_is_launched(ready: Ready) -> None:
    batch = Batch(ready.library, ready.direct, ready.layout.size, 2)
    for index, launched in enumerate((False, True)):
        ready.layout.pack_into(batch.images, index, ready.attempt.vmcs, launched)
    assert batch.run(2, ready.l1) == 2


def test_runs_do_not_wear_the_machine(ready: Ready) -> None:
    ready.direct.run(ready.image())
    ready.direct.reset_l1(ready.l1)
    used = ready.library.heap_used()
    for _ in range(500):
        ready.direct.run(ready.image())
        ready.direct.reset_l1(ready.l1)
    assert ready.library.heap_used() == used


@pytest.mark.parametrize("rejects", [False, True])
def test_the_config_is_that_of_the_model(ready: Ready, rejects: bool) -> None:
    library = ready.library
    library.restore()
    hardware_of(HOST).install(library)
    library.parameters["error_on_inconsistent_vmcs_config"] = rejects
    setup = ConfigSetup(library)
    host = HostCpu.of(HOST)
    broken = {
        **HOST.msrs,
        msr.MSR_IA32_VMX_ENTRY_CTLS: HOST.msrs[msr.MSR_IA32_VMX_ENTRY_CTLS] & ~(1 << 47),
    }
    for msrs in (dict(HOST.msrs), broken):
        for index, value in msrs.items():
            library.set_msr(index, value)
        expected = setup_vmcs_config(
            replace(host, msrs=msrs),
            find_kernel("{}.{}".format(*library.kernel_version)),
            ModuleParams(error_on_inconsistent_vmcs_config=rejects),
        )
        assert setup.run() == expected.errno
        if expected.config is not None:
            words = dict(zip(CONFIG_WORDS, setup.words(), strict=True))
            assert words == {name: getattr(expected.config, name) for name in CONFIG_WORDS}


def test_capability_msrs_of_l1(ready: Ready) -> None:
    direct = ready.direct
    # Outside of VMX operation alone they can be set.
    outside = replace(ready.attempt.processor, vmxon_pointer=NO_POINTER)
    assert direct.set_vmx_msr(msr.MSR_IA32_VMX_MISC, 0) == -errno.EBUSY
    direct.reset_l1(l1_of(outside))
    pin = direct.get_vmx_msr(msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS)
    assert pin == ready.attempt.profile.msrs[msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS]
    fewer = pin & ~(1 << 63 | 1 << 32 + 6)
    assert direct.set_vmx_msr(msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS, fewer) == 0
    assert direct.get_vmx_msr(msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS) == fewer
    assert direct.set_vmx_msr(msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS, pin | 1 << 63) == -errno.EINVAL
    assert direct.get_vmx_msr(0x10) is None
