# SPDX-License-Identifier: GPL-2.0-only
"""Which profiles Bochs stands for: its models, what is left of them, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from nvmxfuzz.arch.controls import Pin, Primary, Secondary, VmEntry, VmExit
from nvmxfuzz.arch.registers import Cr4
from nvmxfuzz.arch.vmx_msr import EptVpidCap
from nvmxfuzz.inputs.bases import base
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.outcome import ENTERED, Outcome, exit_on_entry, fail_valid
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.targets.bochs.models import MODELS, model_for, refusal
from nvmxfuzz.targets.bochs.target import Bochs, BochsComplete

RICH = load_profile("skylake-x")


def without(msrs: Mapping[int, int], name: str = "custom") -> Profile:
    """Return the rich profile with bits of MSRs cleared."""
    left = {index: value & ~msrs.get(index, 0) for index, value in RICH.msrs.items()}
    return replace(RICH, name=name, msrs=left)


def with_fields(profile: Profile, **fields: int) -> Attempt:
    plain = base("guest-64", profile)
    return replace(plain, vmcs=plain.vmcs.replace(fields))


@pytest.mark.parametrize("model", MODELS)
def test_each_model_stands_for_its_profile(model: str) -> None:
    assert model_for(load_profile(model)) == model


def test_other_processors_are_refused_with_a_sentence() -> None:
    others = [load_profile(name) for name in profile_names() if name not in MODELS]
    assert others
    for profile in others:
        assert model_for(profile) is None
        said = refusal(profile)
        assert any(word in said for word in ("bits", "lacks", "cannot do without", "revision"))


@pytest.mark.parametrize(
    ("taken", "fields", "outcome"),
    [
        (
            {0x481: Pin.NMI_EXITING << 32, 0x48D: Pin.NMI_EXITING << 32},
            {"pin_based_vm_exec_control": RICH.caps.pin_must | Pin.NMI_EXITING},
            fail_valid(7),
        ),
        (
            {0x482: Primary.HLT_EXITING << 32, 0x48E: Primary.HLT_EXITING << 32},
            {"cpu_based_vm_exec_control": RICH.caps.primary_must | Primary.HLT_EXITING},
            fail_valid(7),
        ),
        (
            {0x48B: Secondary.ENABLE_VPID << 32},
            {
                "cpu_based_vm_exec_control": RICH.caps.primary_must
                | Primary.ACTIVATE_SECONDARY_CONTROLS,
                "secondary_vm_exec_control": int(Secondary.ENABLE_VPID),
            },
            fail_valid(7),
        ),
        (
            {0x483: VmExit.LOAD_IA32_PAT << 32, 0x48F: VmExit.LOAD_IA32_PAT << 32},
            {
                "vm_exit_controls": RICH.caps.exit_must
                | VmExit.HOST_ADDRESS_SPACE_SIZE
                | VmExit.LOAD_IA32_PAT
            },
            fail_valid(7),
        ),
        (
            {0x484: VmEntry.LOAD_IA32_PAT << 32, 0x490: VmEntry.LOAD_IA32_PAT << 32},
            {
                "vm_entry_controls": RICH.caps.entry_must
                | VmEntry.IA_32E_MODE_GUEST
                | VmEntry.LOAD_IA32_PAT
            },
            fail_valid(7),
        ),
        ({0x489: Cr4.SMEP}, {"host_cr4": Cr4.PAE | Cr4.VMXE | Cr4.SMEP}, fail_valid(8)),
        ({0x489: Cr4.SMEP}, {"guest_cr4": Cr4.PAE | Cr4.VMXE | Cr4.SMEP}, exit_on_entry(33)),
        (
            {0x48C: EptVpidCap.ACCESSED_DIRTY},
            {
                "cpu_based_vm_exec_control": RICH.caps.primary_must
                | Primary.ACTIVATE_SECONDARY_CONTROLS,
                "secondary_vm_exec_control": int(Secondary.ENABLE_EPT),
                "ept_pointer": 0x2A05E,
            },
            fail_valid(7),
        ),
    ],
    ids=["pin", "primary", "secondary", "exit", "entry", "host-cr4", "cr4", "ept"],
)
def test_what_is_taken_away_is_refused(
    bochs: Bochs, taken: Mapping[int, int], fields: Mapping[str, int], outcome: Outcome
) -> None:
    reduced = without(taken)
    assert bochs.run(with_fields(RICH, **fields)).outcome == ENTERED
    assert bochs.run(with_fields(reduced)).outcome == ENTERED
    assert bochs.run(with_fields(reduced, **fields)).outcome == outcome
    assert bochs.run(with_fields(RICH, **fields)).outcome == ENTERED


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (replace(RICH, maxphyaddr=39), "Bochs has 40 physical-address bits, the profile 39"),
        (replace(RICH, linear_address_bits=57), "Bochs has 48 linear-address bits"),
        (replace(RICH, features=RICH.features | {"cet-ss"}), "Bochs' skylake-x lacks cet-ss"),
        (replace(RICH, features=RICH.features - {"nx"}), "Bochs' skylake-x cannot do without nx"),
        (without({0x480: 1}, "skylake-x"), "revision is 0x2b on Bochs' skylake-x, 0x2a"),
        (without({0x485: 1 << 6}, "skylake-x"), "activity_supported is"),
        (without({0x48C: EptVpidCap.MEMORY_TYPE_UC}, "skylake-x"), "ept_vpid_cap is"),
        (
            replace(RICH, msrs={**RICH.msrs, 0x492: 1 << 8}),
            "Bochs' skylake-x lacks bits 0x100 of tertiary_may",
        ),
    ],
)
def test_what_cannot_be_had_is_named(bochs: Bochs, profile: Profile, reason: str) -> None:
    seen = bochs.run(with_fields(RICH))
    assert seen.outcome == ENTERED
    seen = bochs.run(replace(with_fields(RICH), profile=profile))
    assert seen.status == "not-representable"
    assert reason in seen.reason


def test_a_control_of_the_default1_class_cannot_be_taken_away(bochs: Bochs) -> None:
    bit = Primary.CR3_LOAD_EXITING << 32
    seen = bochs.run(with_fields(without({0x482: bit, 0x48E: bit})))
    assert seen.status == "not-representable"
    assert "primary_may is" in seen.reason


def test_a_processor_may_inject_nmis_under_blocking_by_sti_or_not(bochs: Bochs) -> None:
    lax = replace(RICH, name="lax", features=RICH.features - {"nmi-requires-no-sti-blocking"})
    assert bochs.run(with_fields(lax)).outcome == ENTERED


def test_more_profiles_than_are_kept(bochs: Bochs) -> None:
    profiles = [replace(RICH, note=str(number)) for number in range(100)]
    for profile in (*profiles, *profiles[::-1]):
        assert bochs.run(with_fields(profile)).outcome == ENTERED


def test_the_complete_path_says_that_it_needs_a_64_bit_host() -> None:
    attempt = base(
        "guest-32", without(dict.fromkeys((0x484, 0x490), VmEntry.IA_32E_MODE_GUEST << 32))
    )
    with BochsComplete() as complete:
        seen = complete.run(attempt)
    assert seen.status == "not-representable"
    assert "64-bit host" in seen.reason
