# SPDX-License-Identifier: GPL-2.0-only
"""What capability MSRs offer, by name."""

from __future__ import annotations

from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.msr_witness import VMX_MSRS
from nvmxfuzz.oracles.offer_names import features, names_of

BASIC, PIN, MISC, CR0_FIXED0, CR0_FIXED1, ENUM = 0x480, 0x48D, 0x485, 0x486, 0x487, 0x48A
SECONDARY, EPT_VPID, VMFUNC = 0x48B, 0x48C, 0x491


def test_a_control_is_named_where_it_may_be_1_and_where_it_may_be_0() -> None:
    nmi_exiting = "pin-based: NMI exiting"
    assert nmi_exiting in names_of(PIN, 8 << 32)
    assert nmi_exiting not in names_of(PIN, 0)
    assert f"{nmi_exiting} may be 0" in names_of(PIN, 0)
    assert f"{nmi_exiting} may be 0" not in names_of(PIN, 8)
    assert "pin-based: bit 1 may be 0" in names_of(PIN, 0)


def test_registers_features_and_numbers_are_named() -> None:
    assert names_of(CR0_FIXED1, 1 << 31) == {"CR0: paging"}
    assert "CR0: paging may be 0" not in names_of(CR0_FIXED0, 1 << 31)
    assert names_of(VMFUNC, 1) == {"VM function: EPTP switching"}
    assert "EPT and VPID: execute-only translations by EPT" in names_of(EPT_VPID, 1)
    assert names_of(ENUM, 0x2E) == {"fields: highest index value of any field encoding is 0x17"}
    assert "basic: size of the VMXON region and of each VMCS region, in bytes is 0x1000" in (
        names_of(BASIC, 0x1000 << 32)
    )
    assert names_of(0x123, 1) == frozenset()


def test_every_bit_that_l1_reads_changes_the_names() -> None:
    for index in VMX_MSRS:
        for bit in range(64):
            assert names_of(index, 0) != names_of(index, 1 << bit), (hex(index), bit)


def test_sets_with_the_same_names_are_the_same() -> None:
    seen: dict[frozenset[str], dict[int, int]] = {}
    for name in profile_names():
        msrs = {index: load_profile(name).msrs.get(index, 0) for index in VMX_MSRS}
        assert seen.setdefault(features(msrs), msrs) == msrs
    assert len(seen) > 5
