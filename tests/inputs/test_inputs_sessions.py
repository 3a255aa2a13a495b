# SPDX-License-Identifier: GPL-2.0-only
"""Sessions: any bytes are one, and bytes, TOML, mutations and strategies keep what they are."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import SessionCase
from nvmxfuzz.inputs.codec import decode, encode
from nvmxfuzz.inputs.course import Course, courses
from nvmxfuzz.inputs.mutate import cross_over, mutator
from nvmxfuzz.inputs.random_session import edited_step, following_step, random_session
from nvmxfuzz.inputs.session_codec import pack_session, read_session
from nvmxfuzz.inputs.session_steps import (
    MOST_STEPS,
    STEP_KINDS,
    VCPUS,
    SessionStep,
    session_step,
)
from nvmxfuzz.inputs.session_text import step_script
from nvmxfuzz.inputs.strategies import session_cases
from nvmxfuzz.inputs.text import dump_text, load_text
from nvmxfuzz.inputs.world import world_on

EXAMPLE = b"""\
format = 1
note = "RFLAGS of L2 loses its fixed bit, and gets it back"
harness = "session"
profile = "skylake-x"

[parameters]
unrestricted_guest = false

[[steps]]
do = "vmxon"

[[steps]]
do = "vmptrld"
region = "vmcs-1"

[[steps]]
do = "set-sregs"
vcpu = 1
register = "cr4"
unset = 0x2000

[expect]
breaches = ["session.no-warn: 6.12"]
"""


def test_the_example_is_canonical() -> None:
    vector = load_text(EXAMPLE, "example")
    assert isinstance(vector.case, SessionCase)
    assert vector.case.steps == (
        session_step("vmxon"),
        session_step("vmptrld", region="vmcs-1"),
        session_step("set-sregs", vcpu=1, register="cr4", unset=0x2000),
    )
    assert dump_text(vector).encode() == EXAMPLE


@settings(settings.get_profile("repeatable"), max_examples=100)
@given(session_cases())
def test_a_session_survives_bytes_and_text(case: SessionCase) -> None:
    assert decode(encode(case), "session") == case
    assert load_text(dump_text(case).encode(), "").case == case


def test_any_bytes_are_a_session() -> None:
    rng = Random(7)
    for _ in range(400):
        case = decode(rng.randbytes(rng.randrange(400)), "session")
        assert isinstance(case, SessionCase)
        assert len(case.steps) <= MOST_STEPS
        assert decode(encode(case), "session") == case
        assert load_text(dump_text(case).encode(), "").case == case
    assert decode(b"", "session") == SessionCase(world_on("skylake-x", "6.12"))


def test_the_numbers_of_the_format_stay() -> None:
    names = " ".join(kind.name for kind in STEP_KINDS)
    assert names.startswith("vmxon vmxoff vmclear vmptrld vmptrst vmread vmwrite prepare vmlaunch")
    assert "set-mp-state save restore set-nested-state l2-other-exit vmread-memory" in names
    assert names.endswith("no-memory enlighten assist-page prepare-enlightened")
    found = read_session(bytes.fromhex("06 06 0300 feca000000000000 19 0b 02 20"))
    assert found == (
        session_step("vmwrite", field="tertiary_vm_exec_control", value=0xCAFE),
        session_step("set-msr", vcpu=1, msr="IA32_PAT", flip=0x20),
    )


def test_the_flags_have_a_bit_for_each_operand() -> None:
    assert max(len(kind.operands) for kind in STEP_KINDS) <= 7
    assert VCPUS == 2
    assert len(STEP_KINDS) <= 256


def test_numbers_that_mean_the_same_are_one() -> None:
    odd = SessionStep("sipi", 0, (0x105,))
    assert odd.number("vector") == 5
    assert read_session(pack_session([odd])) == (session_step("sipi", vector=5),)
    assert SessionStep("save", 0, (3,)).chosen("slot") == "b"


def test_random_sessions_mostly_make_sense() -> None:
    rng, phases, kinds = Random(5), Counter[str](), Counter[str]()
    for _ in range(300):
        course, seen = Course(), {"off"}
        for step in random_session(rng):
            kinds[step.kind] += 1
            if not step.vcpu:
                course.take(step)
                seen.add(course.phase)
        phases.update(seen)
    assert phases["l2"] > 200
    assert phases["smm"] > 80
    assert set(kinds) == {kind.name for kind in STEP_KINDS}


def test_the_course_of_a_session() -> None:
    names = ("vmxon", "vmptrld", "prepare", "vmlaunch", "smi", "rsm")
    steps = tuple(map(session_step, names))
    phases = [courses(steps[:at])[0].phase for at in range(len(steps) + 1)]
    assert phases == ["off", "root", "current", "ready", "l2", "smm", "l2"]
    left = (*steps, session_step("l2-exit", exit="triple-fault"))
    assert courses(left)[0].phase == "ready"
    assert courses((*left, session_step("vmlaunch")))[0].phase == "ready"
    assert courses((*left, session_step("vmresume")))[0].phase == "l2"
    assert courses((*left, session_step("vmclear")))[0].phase == "root"
    assert courses(steps)[1].phase == "off"


def test_what_follows_depends_on_what_came_before() -> None:
    rng = Random(2)
    first = Counter(following_step(rng, ()).kind for _ in range(200))
    assert first.most_common(1)[0][0] == "vmxon"
    inside = tuple(map(session_step, ("vmxon", "vmptrld", "prepare", "vmlaunch")))
    then = Counter(following_step(rng, inside).kind for _ in range(200))
    assert then.most_common(1)[0][0] == "l2-exit"


def test_edits_reach_every_operand_and_the_vcpu() -> None:
    rng, step = Random(3), session_step("set-nested-state", part="vmcs12", flip=1)
    edited = [edited_step(step, rng) for _ in range(300)]
    same = [each for each in edited if each.kind == step.kind]
    for at in range(len(step.operands)):
        assert len({each.operands[at] for each in same}) > 1
    assert {each.vcpu for each in same} == {0, 1}
    assert read_session(pack_session(edited[:MOST_STEPS])) == tuple(edited[:MOST_STEPS])


def test_mutations_reach_world_and_steps() -> None:
    mutate, cross = mutator("session", lambda data, _: data, ()), cross_over("session")
    data, kinds, worlds = b"", set[str](), set[object]()
    for seed in range(2400):
        data = mutate(data, 4096, seed)
        case = decode(data, "session")
        assert isinstance(case, SessionCase)
        kinds.update(step.kind for step in case.steps)
        worlds.add((case.world.kernel, case.world.parameters, case.world.base))
        if seed % 50 == 49:
            data = cross(data, encode(SessionCase(case.world)), 4096, seed)
    assert kinds == {kind.name for kind in STEP_KINDS}
    assert len(worlds) > 5
    assert mutate(data, 4096, 5) == mutate(data, 4096, 5)


def test_a_script_has_the_words_that_matter() -> None:
    assert step_script(session_step("vmptrld", vcpu=1)) == ("vcpu 1 vmptrld", "vmcs-0")
    step = session_step("set-sregs", register="cr4", unset=0x2000)
    assert step_script(step) == ("set-sregs", "cr4 unset 0x2000")
    assert step_script(session_step("run")) == ("run", "")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (b'"vmxon"', b'"vmxxon"', "step 1: do is 'vmxxon'; give one of vmxon, vmxoff"),
        (b'"vmcs-1"', b'"vmcs-9"', "step 2: region is 'vmcs-9' (did you mean 'vmcs-"),
        (b"vcpu = 1", b"vcpu = 2", "step 3: vcpu is 0x2; a session has the vCPUs 0 to 1"),
        (b"unset = 0x2000", b"unset = 0x20000000000000000", "step 3: unset is "),
        (b"unset = 0x2000", b"set = 1", "step 3: set-sregs has no key 'set'"),
    ],
)
def test_what_is_wrong_with_a_session_is_a_sentence(old: bytes, new: bytes, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        load_text(EXAMPLE.replace(old, new, 1), "example")
    assert sentence in str(raised.value)


def test_there_are_steps_of_the_table_alone() -> None:
    with pytest.raises(KeyError, match="vmxon has no fish"):
        session_step("vmxon", fish=1)
    assert session_step("vmread", field="guest_rip").chosen("field") == "guest_rip"
