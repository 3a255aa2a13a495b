# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of each capability of a VM that is carried: by name, and on witnesses that lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.controls import Pin, Secondary
from nvmxfuzz.arch.vmx_msr import EptVpidCap, VmxBasic, VmxMisc
from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu, ModuleParams
from nvmxfuzz.kvm.msr_behaviour import MSR_KERNELS
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.migration.table import (
    MigrationTable,
    conform,
    migration_table,
    offering,
)
from nvmxfuzz.oracles.restore.bit_names import NAMED_MSRS, Capability, capabilities
from nvmxfuzz.oracles.restore.offer import offer, wider
from nvmxfuzz.oracles.restore.witness import ModelMsrs, MsrWorld
from nvmxfuzz.targets.kvm_native.msrs import msr_witness

SECONDARY, MISC, BASIC, EPT_VPID = 0x48B, 0x485, 0x480, 0x48C
ENCLS = Secondary.ENABLE_ENCLS_EXITING << 32
WORD = (1 << 32) - 1
LAX = replace(DEFAULT_PARAMS, error_on_inconsistent_vmcs_config=False)


def on(profile: str, params: ModuleParams = DEFAULT_PARAMS, hyperv: bool = False) -> MsrWorld:
    """Return the world of a profile."""
    host = HostCpu.of(load_profile(profile), on_hyperv_evmcs=hyperv)
    return MsrWorld(profile, host, params)


def table(
    source: str,
    destination: str | ModelMsrs,
    profile: str = "arrow-lake",
    other: str | None = None,
    params: ModuleParams = DEFAULT_PARAMS,
) -> MigrationTable:
    """Carry a VM between two models."""
    witness = ModelMsrs(destination) if isinstance(destination, str) else destination
    start = offering(ModelMsrs(source), on(profile))
    return migration_table(start, witness, on(other or profile, params))


def names(found: tuple[Capability, ...]) -> list[str]:
    """Return the names of capabilities."""
    return [each.text for each in found]


def row(found: MigrationTable, index: int) -> tuple[str, str]:
    """Return what became of an MSR as a whole."""
    return next((each.write, each.check) for each in found.msrs if each.index == index)


# ---------------------------------------------------------------------- names


def test_every_bit_of_an_msr_that_kvm_offers_has_one_name() -> None:
    values = offering(ModelMsrs("6.12"), on("everything")).offered
    for index in NAMED_MSRS:
        told = 0
        for each in capabilities(index, values[index]):
            if each.kind != "may-be-0":
                assert not told & each.mask, each
                told |= each.mask
        high = values[index] & ~WORD if index in (SECONDARY, *range(0x48D, 0x491)) else None
        fixed0 = index in (0x486, 0x488)
        assert fixed0 or (values[index] if high is None else high) & ~told == 0, hex(index)


def test_a_number_is_another_capability_with_another_value() -> None:
    one, other = 5, 5 | 4 << VmxMisc.CR3_TARGETS.position
    found = {each.text: each for each in capabilities(MISC, one, other)}
    four = found["number of CR3-target values: 0x4"]
    assert four.is_offered(other)
    assert not four.is_offered(one)
    assert found["number of CR3-target values: 0x0"].is_offered(one)


def test_a_bit_without_a_name_has_its_number() -> None:
    assert "bit 29" in names(capabilities(SECONDARY, 1 << 61))
    assert "bit 45" in names(capabilities(BASIC, 1 << 45))
    assert "CR4 bit 40" in names(capabilities(0x489, 1 << 40))
    assert "bit 29" not in names(capabilities(SECONDARY, 1 << 29))


# ---------------------------------------------------------------------- fates


def test_encls_exiting_of_5_18_is_refused() -> None:
    found = table("5.18", "6.12")
    assert names(found.of("refused")) == ["enable ENCLS exiting"]
    assert found.of("lost") == found.of("gained") == ()
    assert row(found, SECONDARY) == ("refused", "restore.controls.may-be-1")
    assert [each.index for each in found.refused] == [SECONDARY]
    assert found.clearing == {SECONDARY: found.source.offered[SECONDARY] & ~ENCLS}
    assert found.totals == {"kept": 122, "gained": 0, "lost": 0, "refused": 1}


def test_the_way_back_gains_it() -> None:
    found = table("6.12", "5.18")
    assert names(found.of("gained")) == ["enable ENCLS exiting"]
    assert found.of("refused") == ()
    assert row(found, 0x489) == ("not written", "")


def test_a_vm_without_vmx_on_the_destination_loses_everything() -> None:
    found = table("6.12", "6.1", params=replace(LAX, nested=False))
    assert found.of("kept") == ()
    assert row(found, BASIC) == ("refused", "set-msr.vmx.no-cpuid")
    assert set(found.clearing.values()) == {None}


def test_a_world_without_kvm_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"6\.12 does not load on this processor \(-E"):
        table("6.1", "6.12", profile="penryn", other="core-duo-t2600")


class Liar(ModelMsrs):
    """A KVM that takes every value, and does something of its own with it."""

    def __init__(self, edit: Callable[[int, int], int]) -> None:
        super().__init__("6.12")
        self.edit = edit

    def set_msrs(self, values: tuple[tuple[int, int], ...]) -> int:
        """Keep what the edit makes of each value."""
        for index, value in values:
            edited = self.edit(index, value)
            if index == SECONDARY:
                self.vcpu.msrs.secondary_ctls_low = edited & WORD
                self.vcpu.msrs.secondary_ctls_high = edited >> 32
            else:
                super().set_msrs(((index, edited),))
        return len(values)


def test_a_bit_that_vanishes_without_a_word_is_lost() -> None:
    found = table(
        "5.18", Liar(lambda index, value: value & ~ENCLS if index == SECONDARY else value)
    )
    assert names(found.of("lost")) == ["enable ENCLS exiting"]
    assert found.of("refused") == ()


def test_a_bit_that_is_taken_unseen_is_kept() -> None:
    found = table("5.18", Liar(lambda _, value: value))
    assert found.of("lost") == found.of("refused") == ()
    assert "enable ENCLS exiting" in names(found.of("kept"))


def test_a_bit_that_must_be_1_from_now_on_is_lost_too() -> None:
    found = table(
        "6.12", Liar(lambda index, value: value | 1 << 1 if index == SECONDARY else value)
    )
    assert names(found.of("lost")) == ["enable EPT may be 0"]


# ---------------------------------------------------------------------- accept and clear

PAIRS = [(one, other) for one in MSR_KERNELS for other in MSR_KERNELS]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_is_cleared_is_taken_and_offers_no_more_than_both(one: str, other: str) -> None:
    rich, refused = "everything", 0
    for profile in profile_names():
        try:
            found = table(one, other, rich, profile, LAX)
        except InputError:
            continue
        refused += len(found.refused)
        system = offer(tuple(found.destination.system.values()))
        for index, value in found.clearing.items():
            assert value is not None, (profile, hex(index))
            assert not list(wider({**system, index: value}, system)), (profile, hex(index))
            mine = {**system, index: found.source.offered[index]}
            widened = [site for site, _ in wider({**system, index: value}, mine)]
            assert widened == [], (profile, hex(index))
    assert refused


@pytest.mark.parametrize(
    ("index", "value", "limit", "wanted"),
    [
        (0x48D, 0x7F_0000_0016, 0x3F_0000_0016, 0x3F_0000_0016),
        (0x48D, 0x7F_0000_0016, 0x7F_0000_001E, 0x7F_0000_001E),
        (0x486, 0x21, 0x8000_0021, 0x8000_0021),
        (EPT_VPID, int(EptVpidCap.INVEPT | EptVpidCap.INVVPID), 1 << 20, 1 << 20),
        (MISC, 5 | 4 << 16, 5, 5),
        (BASIC, int(VmxBasic.INS_OUTS_INFORMATION) | 7, 5, 5),
        (msr.MSR_IA32_VMX_VMFUNC, 3, 1, 1),
    ],
)
def test_conform(index: int, value: int, limit: int, wanted: int) -> None:
    assert conform(index, value, limit) == wanted
    assert conform(index, wanted, limit) == wanted


def test_the_timer_may_be_hidden_from_a_vm() -> None:
    index = msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS
    value = 0x7F_0000_0016 & ~(Pin.ACTIVATE_VMX_PREEMPTION_TIMER << 32)
    assert conform(index, value, 0x7F_0000_0016) == value


# ---------------------------------------------------------------------- the real kernels


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("profile", ["arrow-lake", "haswell", "sapphire-rapids"])
def test_the_real_kernels_come_to_the_same_table(kernel: str, profile: str) -> None:
    try:
        real = msr_witness(kernel)
    except InputError as missing:
        pytest.skip(str(missing))
    start = offering(ModelMsrs("5.18"), on("sapphire-rapids"))
    model = migration_table(start, ModelMsrs(kernel), on(profile))
    assert migration_table(start, real, on(profile)) == model
    assert model.totals["kept"] > 50
