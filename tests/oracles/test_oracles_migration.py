# SPDX-License-Identifier: GPL-2.0-only
"""A VM that is carried: what is told of it, and a case for each known breach."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

import pytest

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.registers import Cr4, DebugCtl
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import ORDERS, MigrationCase
from nvmxfuzz.inputs.load import load_case
from nvmxfuzz.inputs.places import MSR_LOAD_AREA
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.memory import Memory
from nvmxfuzz.machine.profile import Profile, load_profile
from nvmxfuzz.oracles.known_breach import KnownBreach
from nvmxfuzz.oracles.migration.carrier import Carried, Carrier, Entry, Side
from nvmxfuzz.oracles.migration.cases import Migrator, breaches, migrate
from nvmxfuzz.oracles.migration.entry import attempt_on, everything, nothing
from nvmxfuzz.oracles.migration.known import ADDRESS_CHECKS, KNOWN, Pair, known
from nvmxfuzz.oracles.migration.model_side import ModelSide
from nvmxfuzz.oracles.migration.oracles import BREACHES, ORACLES
from nvmxfuzz.oracles.migration.tries import (
    Tried,
    attempts_of,
    plain_way,
    try_way,
    way,
    worlds,
)
from nvmxfuzz.oracles.restore.witness import MsrWorld
from nvmxfuzz.targets.kvm_native.migrating import side

ROOT: Final = Path(__file__).parents[2]
PAIRS: Final = (("5.18", "6.1"), ("5.18", "6.12"), ("6.1", "6.12"), ("6.12", "6.1"))
LAX: Final = replace(DEFAULT_PARAMS, error_on_inconsistent_vmcs_config=False)
SECONDARY, EPT_VPID, VMFUNC = 0x48B, 0x48C, 0x491
PIN, PIN_TRUE, ENTRY, TRUE_ENTRY = 0x481, 0x48D, 0x484, 0x490
LOAD_PAT: Final = 1 << 32 + 14


def on(profile: str = "skylake-x", **host: object) -> MsrWorld:
    """Return a world with what is given of its processor."""
    return MsrWorld(profile, replace(HostCpu.of(load_profile(profile)), **host), LAX)  # type: ignore[arg-type] # whatever HostCpu takes


def without(world: MsrWorld, index: int, bits: int) -> MsrWorld:
    """Return a world without bits of an MSR of its processor."""
    msrs = dict(world.host.msrs)
    msrs[index] &= ~bits
    return replace(world, host=replace(world.host, msrs=MappingProxyType(msrs)))


def with_(world: MsrWorld, index: int, bits: int) -> MsrWorld:
    """Return a world with bits of an MSR of its processor."""
    msrs = dict(world.host.msrs)
    msrs[index] |= bits
    return replace(world, host=replace(world.host, msrs=MappingProxyType(msrs)))


def few(profile: Profile) -> Sequence[Attempt]:
    """Return VM entries with few controls, and with all that are offered."""
    return attempt_on(profile, "guest-64", nothing), attempt_on(profile, "guest-64", everything)


def edited(**fields: int) -> Callable[[Profile], Sequence[Attempt]]:
    """Return what makes a VM entry that uses all that is offered, but for these fields."""

    def attempts(profile: Profile) -> Sequence[Attempt]:
        attempt = attempt_on(profile, "guest-64", everything)
        return (replace(attempt, vmcs=attempt.vmcs.replace(fields)),)

    return attempts


def loading(index: int, value: int) -> Callable[[Profile], Sequence[Attempt]]:
    """Return what makes a VM entry that loads an MSR."""
    entry = struct.pack("<IIQ", index, 0, value)
    fields = {"vm_entry_msr_load_count": 1, "vm_entry_msr_load_addr": MSR_LOAD_AREA}

    def attempts(profile: Profile) -> Sequence[Attempt]:
        (attempt,) = edited(**fields)(profile)
        return (replace(attempt, memory=Memory.of({MSR_LOAD_AREA: entry})),)

    return attempts


def far_cr3(profile: Profile) -> Sequence[Attempt]:
    """Return a VM entry into an L2 whose page tables are at 512 GiB."""
    attempt = attempt_on(profile, "guest-64", nothing)
    return (replace(attempt, vmcs=attempt.vmcs.replace({"guest_cr3": 1 << 39})),)


def tried(
    source: Side,
    destination: Side,
    here: MsrWorld,
    there: MsrWorld | None = None,
    attempts: Callable[[Profile], Sequence[Attempt]] = few,
) -> Tried:
    """Carry a VM as userspace usually does."""
    carrier = Carrier(source, destination)
    assert carrier.load(here, there or here)
    return try_way(carrier, plain_way(carrier), attempts)


def sites(name: str, what: Tried) -> list[str]:
    """Return the sites of an oracle, those that are known too."""
    return [site for site, _ in BREACHES[name](what)]


def found(name: str, what: Tried) -> bool:
    """Tell whether an oracle fires."""
    oracle = next(oracle for oracle in ORACLES if oracle.name == name)
    return oracle.check(None, lambda _: what) is not None


def real(kernel: str) -> Side:
    """Return the real KVM, or skip the test."""
    try:
        return side(kernel)
    except InputError as error:
        if kernel in os.environ.get("NVMXFUZZ_REQUIRE_KVM", "").split(","):
            pytest.fail(f"required by NVMXFUZZ_REQUIRE_KVM: {error}")
        pytest.skip(str(error))


# ---------------------------------------------------------------------- what is told


def test_nothing_changes_between_two_of_the_same_kernel() -> None:
    for kernel in ("5.18", "6.1", "6.12"):
        what = tried(ModelSide(kernel), ModelSide(kernel), on())
        carried = what.carried
        assert carried.complete
        assert carried.same
        assert not carried.gained | carried.lost
        assert "secondary: enable EPT" in carried.kept
        assert all(entry.entered for passage in what.passages for entry in passage)
        assert not any(found(name, what) for name in BREACHES)


def test_one_object_cannot_be_both_sides() -> None:
    model = ModelSide("6.1")
    with pytest.raises(ValueError, match="two objects"):
        Carrier(model, model)


def test_a_refused_msr_is_told_with_its_bit_and_check() -> None:
    carried = tried(ModelSide("5.18"), ModelSide("6.12"), on()).carried
    (fate,) = carried.refused
    assert fate.index == SECONDARY
    assert not fate.accepted
    assert fate.check == ("restore.controls.may-be-1")
    assert carried.reasons(fate) == ("secondary: enable ENCLS exiting",)
    assert carried.lost == {"secondary: enable ENCLS exiting"}
    assert not carried.gained
    assert not carried.complete


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_the_writes_changes_nothing_here(order: str) -> None:
    carrier = Carrier(ModelSide("6.1"), ModelSide("6.12"))
    assert carrier.load(on(), on())
    carried = carrier.carry(replace(plain_way(carrier), order=order))  # type: ignore[arg-type] # one of ORDERS
    indices = [fate.index for fate in carried.fates]
    assert carried.complete
    assert carried.same
    assert (indices == sorted(indices)) is (order == "ascending")
    assert (indices == sorted(indices, reverse=True)) is (order == "descending")


def test_a_vm_with_fewer_capabilities_keeps_them_few() -> None:
    carrier = Carrier(ModelSide("6.1"), ModelSide("6.12"))
    assert carrier.load(on(), on())
    plain = plain_way(carrier)
    value = carrier.carry(plain).source[EPT_VPID]
    carried = carrier.carry(replace(plain, writes=((EPT_VPID, value & ~1),)))
    assert carried.same
    assert carried.after[EPT_VPID] == value & ~1 != carried.fresh[EPT_VPID]


def test_a_smaller_processor_refuses_by_name_what_it_lacks() -> None:
    there = without(on(), SECONDARY, 1 << 32 + 1)
    carried = tried(ModelSide("6.1"), ModelSide("6.12"), on(), there).carried
    reasons = {reason for fate in carried.refused for reason in carried.reasons(fate)}
    assert "secondary: enable EPT" in reasons
    assert any(reason.startswith("EPT and VPID:") for reason in reasons)


def test_a_refused_vm_does_not_resume() -> None:
    what = tried(ModelSide("5.18"), ModelSide("6.12"), on(), attempts=few)
    before, resumed, after = what.passages[1]
    assert before == Entry("entered")
    assert resumed == Entry("errno 22", "execution.secondary.allowed")
    assert after == Entry("fail-valid 7", "execution.secondary.allowed")


# ---------------------------------------------------------------------- the real kernels


def test_model_and_kernels_come_to_the_same() -> None:
    native = Carrier(real("6.1"), real("6.12"))
    model = Carrier(ModelSide("6.1"), ModelSide("6.12"))
    count = 0
    for number in range(16):
        chosen = worlds(Random(f"agreement/{number}"))
        loads = model.load(*chosen)
        assert native.load(*chosen) is loads
        for each in range(4 if loads else 0):
            results = []
            for carrier in (native, model):
                source = Random(f"agreement/{number}/{each}")
                how = way(carrier, source)
                results.append(try_way(carrier, how, lambda p, s=source: attempts_of(p, s)))  # type: ignore[misc] # a default binds the loop's variable
            assert results[0] == results[1], (number, each)
            count += 1
    assert count > 20


def test_what_5_18_hands_out_the_real_kernels_refuse() -> None:
    for kernel in ("6.1", "6.12"):
        what = tried(ModelSide("5.18"), real(kernel), on())
        assert sites("migration.backward", what) == ["refused secondary: enable ENCLS exiting"]
        assert what.passages[0][0].entered
        assert not what.passages[1][2].entered


def test_on_hyper_v_6_12_refuses_what_6_1_hands_out() -> None:
    what = tried(real("6.1"), real("6.12"), on(on_hyperv_evmcs=True))
    refused = {fate.index for fate in what.carried.refused}
    assert refused == {PIN_TRUE, SECONDARY, VMFUNC}
    assert not found("migration.backward", what)
    assert what.passages[0] == (Entry("entered"),) * 3
    assert not what.passages[1][2].entered


def test_l2_goes_on_in_the_other_kernel() -> None:
    for kernels in (("6.1", "6.12"), ("6.12", "6.1")):
        what = tried(real(kernels[0]), real(kernels[1]), on())
        assert what.carried.complete
        assert what.carried.same
        assert what.passages == ((Entry("entered"),) * 3,) * 2


def test_an_l2_that_cannot_go_on_is_told_by_a_number_above_0() -> None:
    for kernels in (("6.1", "6.12"), ("6.12", "6.1")):
        wide = replace(on("core-i7-6700k"), profile="skylake-x")
        sides = real(kernels[0]), real(kernels[1])
        what = tried(*sides, wide, on("core-i7-6700k"), attempts=far_cr3)
        assert what.carried.complete
        assert what.passages[0][:2] == (Entry("entered"), Entry("returns 2", "guest.cr3.width"))


@pytest.mark.parametrize("name", ["addresses-of-57-bits", "msr-load-6.12", "freeze-while-smm"])
def test_what_6_12_lets_pass_the_real_6_1_refuses(name: str) -> None:
    file = ROOT / f"corpus/vectors/migration/migration.no-new-vmfail/{name}.toml"
    case = load_case(file.read_bytes(), str(file))
    assert isinstance(case, MigrationCase)
    what = Migrator(lambda world, _: real(world.kernel)).run(case)
    assert what is not None
    assert what == migrate(case)


def test_nested_state_of_the_model_is_taken_by_the_kernels() -> None:
    what = tried(ModelSide("6.1"), real("6.12"), on())
    assert what.passages == ((Entry("entered"),) * 3,) * 2


# ---------------------------------------------------------------------- what is known


def shown(name: str, pair: tuple[str, str]) -> Tried:
    """Return the shortest case that shows a known breach."""
    source, destination = ModelSide(pair[0]), ModelSide(pair[1])
    match name:
        case "encls-exiting-5.18":
            return tried(source, destination, on())
        case "half-of-a-pair-5.18":
            half = without(without(on(), ENTRY, LOAD_PAT), TRUE_ENTRY, LOAD_PAT)
            return tried(source, destination, half)
        case "evmcs-config" | "encls-exiting-5.18-on-hyper-v":
            return tried(source, destination, on(on_hyperv_evmcs=True))
        case "addresses-of-57-bits" | "msr-load-6.12":
            # Without MPX, which 5.18 refuses.
            ivy = on("core-i5-3570")
            wide = replace(ivy, host=replace(ivy.host, features=ivy.host.features | {"LA57"}))
            loads = loading(msr.MSR_LSTAR, 1 << 47)
            far = edited(host_fs_base=1 << 47) if name == "addresses-of-57-bits" else loads
            return tried(source, destination, wide, attempts=far)
        case "freeze-while-smm":
            freezes = edited(guest_ia32_debugctl=DebugCtl.FREEZE_IN_SMM)
            return tried(source, destination, on(), attempts=freezes)
        case "paging-5.18":
            flat = edited(guest_cr4=Cr4.VMXE)
            return tried(source, destination, on("core-i7-6700k"), attempts=flat)
        case "debugctl-5.18":
            # A processor with ENCLS exiting, so that every MSR is taken.
            return tried(
                source,
                destination,
                on("core-i7-6700k"),
                attempts=edited(guest_ia32_debugctl=DebugCtl.TR),
            )
        case "pin-must-be-1-5.18":
            return tried(source, destination, with_(with_(on(), PIN, 1 << 10), PIN_TRUE, 1 << 10))
        case "fewer-address-bits" | "nested-state-returns-2" | "fewer-features":
            # With ENCLS exiting, which 5.18 offers in any case; or without MPX, which it refuses.
            plain = "core-i5-3570" if pair[1] == "5.18" else "core-i7-6700k"
            narrow = on(plain, pmu_version=2)
            wide = replace(narrow, profile="skylake-x")
            if name == "fewer-features":
                rich = replace(narrow, profile="kvm-6.1-sapphire-rapids")
                loads = loading(msr.MSR_IA32_SPEC_CTRL, 1)
                return tried(source, destination, rich, wide, attempts=loads)
            return tried(source, destination, wide, narrow, attempts=far_cr3)
    raise AssertionError(f"no case shows {name}")


@pytest.mark.parametrize("entry", KNOWN, ids=[entry.name for entry in KNOWN])
def test_a_known_breach_is_still_there(entry: KnownBreach[Pair]) -> None:
    for pair in entry.kernels:
        what = shown(entry.name, pair)
        seen = [
            site for site in sites(entry.oracle, what) if known(entry.oracle, site, pair) is entry
        ]
        assert seen, pair


@pytest.mark.parametrize("entry", KNOWN, ids=[entry.name for entry in KNOWN])
def test_a_known_breach_has_a_vector_and_a_page(entry: KnownBreach[Pair]) -> None:
    file = ROOT / "corpus/vectors/migration" / entry.oracle / f"{entry.name}.toml"
    case = load_case(file.read_bytes(), str(file))
    assert isinstance(case, MigrationCase)
    assert case.note == entry.reason
    pair = case.source.kernel, case.destination.kernel
    said = (breach.partition(": ") for breach in breaches(case))
    assert any(known(name, site, pair) is entry for name, _, site in said)
    assert (ROOT / "docs/findings" / f"{entry.page}.md").is_file()


def test_an_entry_covers_its_kernels_and_whole_sites_only() -> None:
    site = "refused secondary: enable ENCLS exiting"
    assert known("migration.backward", site, ("5.18", "6.1")) is not None
    assert known("migration.backward", site, ("6.1", "6.12")) is None
    assert known("migration.no-new-vmfail", site, ("5.18", "6.1")) is None
    assert known("migration.backward", site + " and more", ("5.18", "6.1")) is None


def test_fewer_address_bits_excuse_what_looks_at_addresses_alone() -> None:
    sources = (ROOT / "nvmxfuzz/kvm").glob("*.py")
    text = "".join(path.read_text() for path in sources)
    for check in ADDRESS_CHECKS:
        assert f'"{check}"' in text, check
    for site, excused in (
        ("with fewer address bits, entry guest.cr3.width", True),
        ("entry guest.cr3.width", False),
        ("with fewer address bits, entry guest.activity.supported", False),
        ("with fewer address bits, resume execution.secondary.allowed", False),
        ("with fewer address bits and features, resume host.cr3.width", True),
        ("with fewer address bits and features, entry exit 34 qualification 2", True),
        ("with fewer features, resume host.cr3.width", False),
        ("with fewer features, entry fail-valid 7", False),
        ("with fewer address bits, resume errno 22", False),
    ):
        found_by = known("migration.no-new-vmfail", site, ("6.1", "6.12"))
        assert (found_by is not None) is excused, site


def test_an_l2_that_uses_counters_cannot_go_on_without_them() -> None:
    enables = edited(guest_ia32_perf_global_ctrl=1 << 7)
    eight, four = on("core-i5-3570"), on("ivy-bridge")
    for source, destination in ((eight, four), (four, eight)):
        what = tried(ModelSide("6.1"), ModelSide("6.12"), source, destination, attempts=enables)
        assert what.carried.complete
        lost = ["resume", "entry"] if source is eight else []
        said = [f"with fewer features, {each} guest.perf-global-ctrl.reserved" for each in lost]
        assert sites("migration.no-new-vmfail", what) == said
        assert not found("migration.no-new-vmfail", what)


@pytest.mark.parametrize("pair", PAIRS)
def test_nothing_beside_what_is_known(pair: tuple[str, str]) -> None:
    carrier = Carrier(ModelSide(pair[0]), ModelSide(pair[1]))
    for number in range(30):
        source = Random(f"known/{number}")
        if not carrier.load(*worlds(source)):
            continue
        for _ in range(4):
            what = try_way(carrier, way(carrier, source), lambda p: attempts_of(p, source))  # noqa: B023 # called at once
            for name, found_by in BREACHES.items():
                for site, message in found_by(what):
                    assert known(name, site, pair), (name, site, message, number)


def test_oracles_have_a_sentence() -> None:
    assert [oracle.name for oracle in ORACLES] == list(BREACHES)
    assert all(oracle.sentence.endswith(".") for oracle in ORACLES)
    assert isinstance(tried(ModelSide("6.1"), ModelSide("6.12"), on()).carried, Carried)
