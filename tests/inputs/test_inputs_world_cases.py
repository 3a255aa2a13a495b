# SPDX-License-Identifier: GPL-2.0-only
"""Cases in worlds: any bytes are one, and bytes, TOML and mutations keep what they are."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import get_args

import pytest
from hypothesis import given, settings

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import Case, MigrationCase, RestoreCase, WorldCase, WorldKind
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.expectation import BreachExpectation, Vector
from nvmxfuzz.inputs.mutate import cross_over, mutator
from nvmxfuzz.inputs.random_steps import random_step
from nvmxfuzz.inputs.step_codec import MSRS, pack_step, read_steps, writes_of
from nvmxfuzz.inputs.steps import (
    MOST_STEPS,
    MOST_WRITES,
    STEPS,
    Offer,
    Rdmsr,
    SetCpuid,
    SetMsrs,
    Step,
    Value,
    Vmxon,
    Write,
    absolute,
)
from nvmxfuzz.inputs.strategies import migration_cases, restore_cases
from nvmxfuzz.inputs.text import dump_text, load_text
from nvmxfuzz.inputs.world import world_on

KINDS: tuple[WorldKind, ...] = ("capability_restore", "migration")

EXAMPLE = b"""\
format = 1
note = "The rate gets in while the timer is hidden"
harness = "capability_restore"
profile = "haswell"
kernel = "6.1"
pmu_version = 0x5
stuffs_feature_msrs = false
toggled = ["MPX", "XSAVE"]

[parameters]
ept = false

[msrs]
IA32_VMX_EPT_VPID_CAP = "absent"

[[steps]]
do = "set-cpuid"
toggled = ["INVPCID", "VMX"]
pmu_version = "absent"
hyperv = true

[[steps]]
do = "set-msrs"
values = [
    "IA32_VMX_TRUE_PINBASED_CTLS = offered unset 0x4000000000",
    "IA32_VMX_MISC = offered by 5.18 on penryn unset 0x1f set 0x9 flip 0x20",
    "IA32_FEATURE_CONTROL = 0x0000000000000005",
    "IA32_VMX_EXIT_CTLS2 = offered on penryn",
]

[[steps]]
do = "rdmsr"
msr = "IA32_VMX_BASIC"

[[steps]]
do = "vmxon"

[expect]
breaches = ["restore.never-widens: IA32_VMX_MISC timer-rate"]
"""


def test_the_example_is_canonical() -> None:
    vector = load_text(EXAMPLE, "example")
    case = vector.case
    assert isinstance(case, RestoreCase)
    assert dump_text(vector).encode() == EXAMPLE
    assert vector.expectation == BreachExpectation(
        ("restore.never-widens: IA32_VMX_MISC timer-rate",)
    )
    assert case.world.kernel == "6.1"
    assert case.world.parameters == (("ept", 0),)
    assert case.world.toggled == {"MPX", "XSAVE"}
    assert 0x48C not in case.profile.msrs
    assert case.steps == (
        SetCpuid(frozenset({"INVPCID", "VMX"}), "absent", hyperv=True),
        SetMsrs(
            (
                Write(0x48D, Value(Offer(), unset=1 << 38)),
                Write(0x485, Value(Offer("5.18", "penryn"), 0x1F, 9, 0x20)),
                Write(0x3A, absolute(5)),
                Write(0x493, Value(Offer("", "penryn"))),
            )
        ),
        Rdmsr(0x480),
        Vmxon(),
    )


@settings(settings.get_profile("repeatable"), max_examples=100)
@given(restore_cases())
def test_a_restore_survives_bytes_and_text(case: RestoreCase) -> None:
    assert decode(encode(case), "capability_restore") == case
    assert load_text(dump_text(case).encode(), "").case == case


@settings(settings.get_profile("repeatable"), max_examples=60)
@given(migration_cases())
def test_a_migration_survives_bytes_and_text(case: MigrationCase) -> None:
    assert decode(encode(case), "migration") == case
    again = load_text(dump_text(case).encode(), "").case
    assert again == case
    assert dump_text(again) == dump_text(case)


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_are_a_case(kind: WorldKind) -> None:
    rng = Random(7)
    for _ in range(400):
        data = rng.randbytes(rng.randrange(300))
        case = decode(data, kind)
        assert case.harness == kind
        assert decode(encode(case), kind) == case
        assert load_text(dump_text(case).encode(), "").case == case


def test_no_bytes_are_the_plain_world() -> None:
    case = decode(b"", "capability_restore")
    assert case == RestoreCase(world_on("skylake-x", "6.12"))


def test_a_case_is_bounded() -> None:
    found = decode(bytes(1 << 16), "capability_restore")
    assert isinstance(found, RestoreCase)
    assert len(found.steps) == MOST_STEPS
    assert max(len(writes_of(step)) for step in read_steps(bytes([0, 0xFF]))) <= MOST_WRITES


def test_every_kind_of_step_survives_and_is_made() -> None:
    rng, seen = Random(3), set()
    for _ in range(2000):
        step = random_step(rng)
        seen.add(type(step))
        assert read_steps(pack_step(step)) == (step,)
    assert seen == set(STEPS) == set(get_args(Step))


def test_the_numbers_of_the_format_stay() -> None:
    words = " ".join(kind.__name__ for kind in STEPS)
    assert words.startswith("SetMsrs RestoreMsr SetCpuid Vmxon Vmxoff EnableEvmcs Rdmsr Wrmsr Smi")
    assert MSRS[:2] == (0x3A, 0x480)
    data = bytes.fromhex("0100 0200 00  00 00 06 21 2000000000000000")
    case = decode(data, "capability_restore")
    assert isinstance(case, RestoreCase)
    flipped = Write(0x485, Value(Offer(), flip=0x20))
    assert (case.base, case.steps) == ("arrandale", (SetMsrs((flipped,)),))


def test_a_name_without_a_number_is_told_as_text() -> None:
    odd = Write(0x485, Value(Offer("9.9")))
    data = encode(RestoreCase(world_on("skylake-x", "6.1"), (SetMsrs((odd,)),)))
    assert data[1] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_reach_worlds_steps_and_entries(kind: WorldKind) -> None:
    mutate, cross = mutator(kind, lambda data, _: data, ()), cross_over(kind)
    data = b""
    seen: set[object] = set()
    for seed in range(600):
        data = mutate(data, 4096, seed)
        assert data == mutate(data, 4096, 0) or len(data) <= 4096
        case = decode(data, kind)
        seen.update(_parts(case))
        if seed % 50 == 49:
            data = cross(data, b"", 4096, seed)
    expected = {"world", "kernel", "parameters", "msrs", "toggled"}
    assert expected | (set(STEPS) if kind == "capability_restore" else {"entry", "order"}) <= seen
    assert mutate(data, 4096, 5) == mutate(data, 4096, 5)


def _parts(case: Case) -> set[object]:
    assert isinstance(case, WorldCase)
    found: set[object] = set()
    if not isinstance(case, MigrationCase):
        world = case.world
        found |= {type(step) for step in case.steps}
    else:
        world = case.destination
        plain = decode(b"", "migration")
        assert isinstance(plain, MigrationCase)
        found |= {
            name for name in ("entry", "order") if getattr(case, name) != getattr(plain, name)
        }
    plain_world = world_on(world.base, "6.12")
    if world.base != "skylake-x":
        found.add("world")
    if world.profile.msrs != plain_world.profile.msrs:
        found.add("msrs")
    for name in ("kernel", "parameters", "toggled"):
        if getattr(world, name) != getattr(plain_world, name):
            found.add(name)
    return found


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b'"vmxon"', b'"vmxonn"', "step 4: do is 'vmxonn'; give one of set-msrs"),
        (
            b'msr = "IA32_VMX_BASIC"',
            b'msr = "IA32_VMX_BASIX"',
            "step 3: 'IA32_VMX_BASIX' is no VMX capability MSR",
        ),
        (b"flip 0x20", b"flop 0x20", "step 2: 'offered by 5.18 on penryn unset 0x1f set 0x9"),
        (b"by 5.18", b"by 5.19", "step 2: '5.19' is no kernel; give one of 5.18"),
        (b"on penryn unset", b"on penrin unset", "step 2: "),
        (b"0x0000000000000005", b"five", "step 2: the value of an MSR is 'five'"),
        (b'"absent"\nhyperv', b"9\nhyperv", "step 1: pmu_version is 0x9; it has 3 bits"),
        (b'["INVPCID", "VMX"]', b'["INVPCIDD"]', "step 1: 'INVPCIDD' is no CPUID feature"),
        (b"hyperv = true", b"hyperv = 1", "step 1: hyperv is 0x1; give true or false"),
        (b"ept = false", b"eptt = false", "parameters has no key 'eptt'"),
        (b'profile = "haswell"', b"profile = 5", "profile is 0x5; give the name of one"),
        (b"values = [", b"valuess = [", "step 2: set-msrs has no key 'valuess'"),
        (b"[[steps]]\ndo", b"[[stepz]]\ndo", "this case has no key 'stepz'"),
        (b"breaches", b"broken", "expect has no key 'broken'"),
    ],
)
def test_bad_text_is_refused_in_a_sentence(old: bytes, new: bytes, sentence: str) -> None:
    assert old in EXAMPLE
    with pytest.raises(InputError) as caught:
        load_text(EXAMPLE.replace(old, new), "x.toml")
    assert str(caught.value).startswith(f"x.toml: {sentence}")


def test_too_many_steps_are_refused() -> None:
    text = dump_text(RestoreCase(world_on("skylake-x", "6.1"), (Vmxon(),) * MOST_STEPS))
    assert load_text(text.encode(), "").case.harness == "capability_restore"
    with pytest.raises(InputError, match="25 steps; a case has at most 24"):
        load_text((text + '\n[[steps]]\ndo = "vmxon"\n').encode(), "")


def test_a_migration_says_where_it_is_wrong() -> None:
    case = decode(b"", "migration")
    text = dump_text(Vector(replace(case, note="n"))).encode()
    for old, new, sentence in (
        (b"[source]", b"[source]\nfoo = 1", "source: this world has no key 'foo'"),
        (b"[entry]", b"[entry]\nnote = 'x'", "entry: this case has no key 'note'"),
        (b'"listed"', b'"sorted"', "order is 'sorted'; give one of listed"),
    ):
        swapped = text.replace(old, new) if old in text else text
        assert swapped != text
        with pytest.raises(InputError) as caught:
            load_text(swapped, "x")
        assert str(caught.value).startswith(f"x: {sentence}")
