# SPDX-License-Identifier: GPL-2.0-only
"""The bases are good wherever they claim to be."""

import pytest

from nvmxfuzz.arch.controls import Secondary, VmEntry, VmExit
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.bases import base, base_names, default_base
from nvmxfuzz.machine.outcome import ENTERED
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names

EVERY = [
    (name, profile) for profile in profile_names() for name in base_names(load_profile(profile))
]


@pytest.mark.parametrize(("name", "profile"), EVERY)
def test_a_base_enters_the_guest(name: str, profile: str) -> None:
    judgement = vm_entry(base(name, load_profile(profile)))
    assert judgement.broken_names == ()
    assert judgement.permitted == (ENTERED,)


@pytest.mark.parametrize("area", ["msr_load", "link"])
@pytest.mark.parametrize(("name", "profile"), EVERY)
def test_what_a_base_points_to_is_good_too(name: str, profile: str, area: str) -> None:
    attempt = base(name, load_profile(profile))
    edits = {"vm_entry_msr_load_count": 8} if area == "msr_load" else {"vmcs_link_pointer": 0x2D000}
    edited = type(attempt)(
        attempt.profile, attempt.vmcs.replace(edits), attempt.processor, attempt.memory
    )
    assert vm_entry(edited).broken_names == ()


def test_a_32_bit_processor_has_a_32_bit_host() -> None:
    yonah = load_profile("yonah")
    attempt = base(default_base(yonah), yonah)
    assert "guest-64" not in base_names(yonah)
    assert not attempt.vmcs.vm_exit_controls & VmExit.HOST_ADDRESS_SPACE_SIZE
    assert not attempt.processor.efer
    assert max(attempt.vmcs.host_rip, attempt.vmcs.host_gs_base, attempt.vmcs.guest_rip) < 1 << 32


def test_the_kinds_of_guest_are_what_their_names_say() -> None:
    profile = load_profile("skylake-x")
    assert base("guest-64", profile).vmcs.vm_entry_controls & VmEntry.IA_32E_MODE_GUEST
    assert not base("guest-32", profile).vmcs.vm_entry_controls & VmEntry.IA_32E_MODE_GUEST
    assert base("guest-pae", profile).vmcs.guest_cr3 == 0x24000
    assert base("guest-real", profile).vmcs.guest_cr0 & 0x8000_0001 == 0
    assert base("guest-real", profile).vmcs.secondary_vm_exec_control & Secondary.UNRESTRICTED_GUEST
    assert base("guest-v86", profile).vmcs.guest_rflags == 0x20002


def test_zero_supposes_nothing() -> None:
    attempt = base("zero", load_profile("skylake-x"))
    assert not any(attempt.vmcs.items().values())
    assert attempt.memory.regions == ()


def test_a_base_can_be_built_on_a_processor_without_vmx() -> None:
    empty = Profile.from_mapping({})
    assert [base(name, empty).profile for name in ("guest-64", "guest-real", "zero")] == [empty] * 3


def test_an_unknown_base_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"'guest-46' \(did you mean 'guest-64'\?\)"):
        base("guest-46", load_profile("skylake-x"))
