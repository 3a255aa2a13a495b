#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Check that docs/input-format.md is what the layout generates; with --write, write it."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ci.pages import keep
from nvmxfuzz.inputs import codec, records, session_codec, session_steps, step_codec, world_codec
from nvmxfuzz.inputs.bases import GUEST_BASES, base
from nvmxfuzz.inputs.case import (
    DEFAULT_KERNEL,
    ORDERS,
    SLOT_KINDS,
    ConfigCase,
    EntryCase,
    MigrationCase,
    RestoreCase,
    SessionCase,
)
from nvmxfuzz.inputs.difference import Edit, apply
from nvmxfuzz.inputs.expectation import (
    BreachExpectation,
    ConfigExpectation,
    Expectation,
    Vector,
)
from nvmxfuzz.inputs.layout import KERNELS, VERSION, Slot, layout
from nvmxfuzz.inputs.order import BASES, PROFILES
from nvmxfuzz.inputs.session_steps import session_step
from nvmxfuzz.inputs.step_text import KEYS, KINDS, MSR_NAMES
from nvmxfuzz.inputs.steps import (
    MOST_STEPS,
    OWN,
    Offer,
    Rdmsr,
    SetCpuid,
    SetMsrs,
    Value,
    Write,
)
from nvmxfuzz.inputs.text import FORMAT, dump_text
from nvmxfuzz.inputs.world import FEATURES, world_on
from nvmxfuzz.machine.outcome import exit_on_entry
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, load_profile

PAGE = Path(__file__).resolve().parents[2] / "docs" / "input-format.md"

INTRODUCTION = f"""# The input format

<!-- generated: .venv/bin/python ci/checks/input_format_page.py --write -->

A case is one input of a harness. It is stored as the difference against a named base, in one of
two forms: TOML for people (vectors, seeds, findings) and bytes for the fuzzing engines. Both come
from the slots listed below. Programs that know nothing of bases use
[the raw JSON form](raw-format.md).

## TOML

Version {FORMAT}. Everything that is left out is as in the base, but an empty file is refused.
`profile` is the name of a profile or a table `[profile]` with `msrs`, `maxphyaddr`,
`linear_address_bits`, `features`, `family`, `model`, `stepping`, `name`, `note` and masks of MSRs;
[the raw form](raw-format.md) tells what they mean. The bases of a VM entry are
{", ".join(f"`{name}`" for name in GUEST_BASES)},
and `zero`, which supposes nothing: no field, no memory. Without `base` it is the first one that the
profile can run.
"""

MEMORY = """
Beside the named words, `[memory]` takes addresses: `"0x23000" = "00 11 22"` writes bytes,
`"0x23000" = "unbacked 16"` takes away what stands behind 16 of them, so that they read as all ones.
Addresses have 52 bits. Ranges win over named words, later ranges over earlier ones.
"""

EXPECT = """
`[expect]` says what must come of it. For a VM entry: `broken` and `unknown` (all rules with that
verdict, none by default), `held` and `na` (some of them), `outcome` (one text or a list: exactly
the permitted outcomes, unchecked without it). For a config: `outcome` (`"accepted"`, the default,
or `"-EIO"`), `warnings` (all sites that warn, unchecked without it) and `[expect.config]` (words of
the accepted config, by name). For a restore or a migration: `breaches`, what its oracles say of the
model, known or not, each as `"ORACLE: SITE"`.

`[finding]` says what the case shows, for `nvmxfuzz replay` and `nvmxfuzz bisect`: `oracle`,
`rules`, `between` (the two sides that disagree), `site`, and the `target` that it runs on, if any.
"""

MSRS = """
`[msrs]` takes the names of the MSRs or their indices (`"0x48b"`); the value `"absent"` says that
the MSR does not exist.
"""


WORLDS = f"""
The other kinds of cases have *worlds*: a profile as edited, with `kernel`, `[parameters]` of
the modules, and the CPUID features that are `toggled` against it. A restore (`capability_restore`)
is one world and what happens to a vCPU there, at most {MOST_STEPS} steps. A value that is written
is a number, or what a KVM `offered`, the world's own or another: `by` a kernel, `on` the plain
processor of a profile; of that the bits of `unset` are cleared, those of `set` are set, those of
`flip` flipped, in this order. `toggled` of a step is against the CPUID that KVM supports.
"""

STEPS = """
| step | keys | what happens |
| --- | --- | --- |"""

SESSION = f"""
A session is one world, whose VM has {session_steps.VCPUS} vCPUs (`vcpu`, 0 by default), and what
happens to them, at most {session_steps.MOST_STEPS} steps. Operands that are left out are 0, or the
first of their words.
"""

WORDS = """
| operand | words by number |
| --- | --- |"""

MIGRATION = f"""
A migration has two worlds and a VM entry. `order`, in which userspace writes the MSRs, is one of
{", ".join(f"`{each}`" for each in ORDERS)}.
"""


def page() -> Iterator[str]:
    """Yield the parts of the page."""
    yield INTRODUCTION
    yield from example(entry_example())
    yield MEMORY
    yield from example(config_example())
    yield MSRS
    yield WORLDS
    yield from example(restore_example())
    yield STEPS
    for word, kind in KINDS.items():
        keys = ", ".join(f"`{key}`" for key in KEYS.get(kind, ()))
        yield f"| `{word}` | {keys} | {' '.join((kind.__doc__ or '').split())} |"
    yield SESSION
    yield from example(session_example())
    yield STEPS
    for step in session_steps.STEP_KINDS:
        keys = ", ".join(f"`{operand.name}`" for operand in step.operands)
        yield f"| `{step.name}` | {keys} | {step.sentence} |"
    yield WORDS
    for name, choices in choices_of_sessions():
        yield f"| {name} | {', '.join(f'`{choice}`' for choice in choices)} |"
    yield MIGRATION
    yield from example(migration_example())
    yield EXPECT
    yield from binary()
    for harness in (*SLOT_KINDS, "world"):
        yield from slots(harness, layout(harness).slots)


def entry_example() -> Vector:
    """Return a vector of a VM entry."""
    start = EntryCase(base(BASES[0], load_profile(DEFAULT_PROFILE)), BASES[0])
    case = apply(start, [Edit("guest_rflags", 0xA), Edit("msr_load0_index", 0x10)])
    expected = Expectation(broken=("guest.rflags.reserved",), outcome=(exit_on_entry(33),))
    return Vector(case, expected)


def config_example() -> Vector:
    """Return a vector of a config."""
    start = ConfigCase(load_profile(DEFAULT_PROFILE), DEFAULT_PROFILE)
    changes = [Edit("kernel", 1), Edit("ia32_vmx_ept_vpid_cap_exists", 0)]
    return Vector(apply(start, changes), ConfigExpectation("-EIO"))


def restore_example() -> Vector:
    """Return a vector of a restore."""
    timer = Write(0x48D, Value(OWN, unset=1 << 38))
    rate = Write(0x485, Value(Offer("5.18", "haswell"), unset=0x1F, ones=9))
    steps = (SetCpuid(frozenset({"MPX"})), SetMsrs((timer, rate)), Rdmsr(0x485))
    world = replace(world_on(DEFAULT_PROFILE, "6.1"), parameters=(("pml", 0),))
    breaches = ("restore.never-widens: IA32_VMX_MISC timer-rate",)
    return Vector(RestoreCase(world, steps), BreachExpectation(breaches))


def session_example() -> Vector:
    """Return a session."""
    steps = (
        session_step("vmxon"),
        session_step("vmptrld"),
        session_step("prepare", base="guest-64"),
        session_step("vmwrite", field="guest_rflags", value=0xA),
        session_step("vmlaunch"),
        session_step("set-msr", vcpu=1, msr="IA32_EFER", flip=0x800),
    )
    return Vector(SessionCase(world_on(DEFAULT_PROFILE, "6.1"), steps))


def choices_of_sessions() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the words that operands take, each list once; VMCS fields are told elsewhere."""
    seen: set[tuple[str, ...]] = set()
    for kind in session_steps.STEP_KINDS:
        for operand in kind.operands:
            if operand.choices and operand.choices not in seen | {fields_of_sessions()}:
                seen.add(operand.choices)
                yield f"`{operand.name}` of `{kind.name}`", operand.choices


def fields_of_sessions() -> tuple[str, ...]:
    """Return the VMCS fields by the numbers that a step has for them."""
    return session_steps.STEP_BY_NAME["vmread"].operands[0].choices


def migration_example() -> Vector:
    """Return a migration."""
    old, new = (world_on(DEFAULT_PROFILE, kernel) for kernel in ("5.18", DEFAULT_KERNEL))
    return Vector(MigrationCase(old, new, EntryCase(base(BASES[0], old.profile), BASES[0])))


def example(vector: Vector) -> Iterator[str]:
    """Yield a vector as a block of TOML."""
    yield "```toml"
    yield dump_text(vector).rstrip()
    yield "```"


def binary() -> Iterator[str]:
    """Yield the description of the bytes."""
    yield "## Bytes\n"
    yield f"Version {VERSION}. Any bytes are some case.\n"
    yield body(codec.__doc__)
    yield ""
    yield body(records.__doc__)
    yield ""
    yield body(world_codec.__doc__)
    yield ""
    yield body(step_codec.__doc__)
    yield ""
    yield body(session_codec.__doc__)
    yield ""
    yield f"MSRs by number: {', '.join(MSR_NAMES[at] for at in step_codec.MSRS)}.\n"
    yield f"CPUID features by number: {', '.join(FEATURES)}.\n"
    yield f"Steps of a restore by number: {', '.join(KINDS)}.\n"
    yield f"Steps of a session by number: {', '.join(session_steps.STEP_BY_NAME)}.\n"
    yield f"VMCS fields of a session's steps by number: {', '.join(fields_of_sessions())}.\n"
    yield f"Kernels by number: {', '.join(KERNELS)}.\n"
    yield f"Profiles by number: {', '.join(PROFILES)}.\n"
    yield (
        f"Bases by number: {', '.join(BASES)}; a greater number means one of "
        f"{', '.join(GUEST_BASES)} that the profile can run."
    )


def body(docstring: str | None) -> str:
    """Return what stands below the first line of a docstring, lists kept as they are."""
    lines = (docstring or "").split("\n")[1:]
    return "\n".join(f"    {line}" if line[:1].isdigit() else line for line in lines).strip("\n")


def slots(harness: str, table: tuple[Slot, ...]) -> Iterator[str]:
    """Yield the table of the slots of one harness."""
    yield f"\n## Slots of {'worlds' if harness == 'world' else f'`{harness}`'}\n"
    yield "| number | slot | area | bits | bytes | meaning |"
    yield "| ---: | --- | --- | ---: | ---: | --- |"
    for number, slot in enumerate(table):
        meaning = slot.meaning
        if slot.choices:
            meaning += f" ({', '.join(slot.choices)})"
        if slot.area == "memory":
            meaning += f", at {slot.address:#x}"
        yield f"| {number} | `{slot.name}` | {slot.area} | {slot.width} | {slot.size} | {meaning} |"


def main() -> int:
    """Compare or write the page; return the exit status."""
    return keep({PAGE: "\n".join(page()) + "\n"}, "input_format_page.py")


if __name__ == "__main__":
    sys.exit(main())
