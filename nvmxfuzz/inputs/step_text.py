# SPDX-License-Identifier: GPL-2.0-only
"""Steps in TOML: a table each, in which every written value is a line that a person can read.

IA32_VMX_MISC = offered by 6.1 on haswell flip 0x20
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import values
from nvmxfuzz.inputs.layout import KERNELS
from nvmxfuzz.inputs.step_codec import writes_of
from nvmxfuzz.inputs.steps import (
    MOST_STEPS,
    MOST_WRITES,
    PLAIN,
    STEPS,
    Offer,
    PmuVersion,
    Rdmsr,
    RestoreMsr,
    SetCpuid,
    SetMsrs,
    Step,
    Value,
    Write,
    Wrmsr,
    absolute,
)
from nvmxfuzz.inputs.world import FEATURES, MOST_PMU
from nvmxfuzz.machine.outside import nearest, show
from nvmxfuzz.machine.profile import load_profile

_T = TypeVar("_T")

MSR_NAMES: Final[Mapping[int, str]] = {
    msr.MSR_IA32_FEAT_CTL: "IA32_FEATURE_CONTROL",
    **dict(VMX_CAPABILITY_MSRS),
}
"""The MSRs that a step may name."""
_MSR_BY_NAME: Final = {name: index for index, name in MSR_NAMES.items()}

_OFFERED: Final = re.compile(
    r"offered(?: by (?P<kernel>\S+))?(?: on (?P<profile>\S+))?"
    r"(?: unset (?P<unset>\S+))?(?: set (?P<ones>\S+))?(?: flip (?P<flip>\S+))?"
)


def _word(kind: type[Step]) -> str:
    """Return the word for a kind of step: `set-msrs` for SetMsrs."""
    return re.sub(r"(?<=.)([A-Z])", r"-\1", kind.__name__).lower()


KINDS: Final = {_word(kind): kind for kind in STEPS}
KEYS: Final[Mapping[type[Step], tuple[str, ...]]] = {
    SetMsrs: ("values",),
    RestoreMsr: ("value",),
    Wrmsr: ("value",),
    Rdmsr: ("msr",),
    SetCpuid: ("toggled", "pmu_version", "hyperv", "evmcs_perf_global_ctrl"),
}


def value_text(value: Value) -> str:
    """Return a value as a line has it."""
    if value.offer is None:
        return f"0x{value.of(0):016x}"
    words = ["offered"]
    for preposition, name in (("by", value.offer.kernel), ("on", value.offer.profile)):
        words += [preposition, name] if name else []
    for verb, word in (("unset", value.unset), ("set", value.ones), ("flip", value.flip)):
        words += [verb, f"{word:#x}"] if word else []
    return " ".join(words)


def write_text(write: Write) -> str:
    """Return a write as a line."""
    return f"{MSR_NAMES[write.index]} = {value_text(write.value)}"


def step_table(step: Step) -> dict[str, Any]:
    """Return a step as the table that TOML has of it."""
    table: dict[str, Any] = {"do": _word(type(step))}
    lines = [write_text(write) for write in writes_of(step)]
    if isinstance(step, SetMsrs):
        table["values"] = lines
    elif lines:
        table["value"] = lines[0]
    elif isinstance(step, Rdmsr):
        table["msr"] = MSR_NAMES[step.index]
    elif isinstance(step, SetCpuid):
        table.update(_cpuid_table(step))
    return table


def step_lines(step: Step) -> Iterator[str]:
    """Yield what a step does, for a reader: its word, and a line for each detail."""
    table = step_table(step)
    yield table.pop("do")
    for key, value in table.items():
        if key in ("value", "msr"):
            yield value
        elif key == "values":
            yield from value
        else:
            yield f"{key} {' '.join(value) if isinstance(value, list) else value}".lower()


def _cpuid_table(step: SetCpuid) -> Iterator[tuple[str, Any]]:
    if step.toggled:
        yield "toggled", sorted(step.toggled)
    if step.pmu_version != "supported":
        yield "pmu_version", step.pmu_version
    for key in ("hyperv", "evmcs_perf_global_ctrl"):
        if getattr(step, key):
            yield key, True


# ---------------------------------------------------------------------- reading


def parse_steps(found: object) -> tuple[Step, ...]:
    """Return the steps that the list `steps` of a case states."""
    return parse_tables(found, MOST_STEPS, _step)


def parse_tables(
    found: object, most: int, parse: Callable[[Mapping[str, Any]], _T]
) -> tuple[_T, ...]:
    """Return what `parse` makes of each table in a list `steps`, of which it has at most `most`."""
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(f"steps is {show(found)}; give tables [[steps]]")
    if len(found) > most:
        raise InputError(f"there are {len(found)} steps; a case has at most {most}")
    return tuple(_numbered(table, number, parse) for number, table in enumerate(found, 1))


def _numbered(
    table: Mapping[str, Any], number: int, parse: Callable[[Mapping[str, Any]], _T]
) -> _T:
    try:
        return parse(table)
    except InputError as problem:
        raise InputError(f"step {number}: {problem}") from None


def _step(table: Mapping[str, Any]) -> Step:
    word = table.get("do")
    kind = KINDS.get(word) if isinstance(word, str) else None
    if kind is None:
        raise InputError(f"do is {show(word)}; give one of {', '.join(KINDS)}")
    values.only_keys(table, ("do", *KEYS.get(kind, ())), str(word))
    if kind is SetMsrs:
        return SetMsrs(_parse_writes(table.get("values")))
    if kind is RestoreMsr:
        return RestoreMsr(_parse_write(table.get("value")))
    if kind is Wrmsr:
        return Wrmsr(_parse_write(table.get("value")))
    if kind is SetCpuid:
        return _parse_cpuid(table)
    return Rdmsr(_parse_msr(table.get("msr"))) if kind is Rdmsr else PLAIN[kind]


def _parse_writes(found: object) -> tuple[Write, ...]:
    if not isinstance(found, list) or not 0 < len(found) <= MOST_WRITES:
        raise InputError(f"values is {show(found)}; give a list of 1 to {MOST_WRITES} lines")
    return tuple(map(_parse_write, found))


def _parse_write(found: object) -> Write:
    name, equals, value = found.partition("=") if isinstance(found, str) else ("", "", "")
    if not equals:
        raise InputError(
            f"{show(found)} is no value of an MSR; write 'IA32_VMX_MISC = 0x5', "
            "or 'IA32_VMX_MISC = offered flip 0x20'"
        )
    return Write(_parse_msr(name.strip()), _parse_value(" ".join(value.split())))


def _parse_msr(found: object) -> int:
    name = found.upper() if isinstance(found, str) else ""
    index = values.number(name, "an MSR") if name[:1].isdigit() else _MSR_BY_NAME.get(name)
    if index is None or index not in MSR_NAMES:
        near = nearest(name[:60], _MSR_BY_NAME)
        raise InputError(f"{show(found)} is no VMX capability MSR, nor IA32_FEATURE_CONTROL{near}")
    return index


def _parse_value(text: str) -> Value:
    match = _OFFERED.fullmatch(text)
    if match is None:
        if text.startswith("offered"):
            raise InputError(
                f"{show(text)} is no offer; write 'offered by 6.1 on haswell unset 0x1 set 0x2 "
                "flip 0x4', in which each part but the first may be missing"
            )
        return absolute(_parse_word(text))
    kernel, profile = match["kernel"] or "", match["profile"] or ""
    if kernel not in ("", *KERNELS):
        raise InputError(f"{show(kernel)} is no kernel; give one of {', '.join(KERNELS)}")
    if profile:
        load_profile(profile)
    unset, ones, flip = (_parse_word(match[key] or "0") for key in ("unset", "ones", "flip"))
    return Value(Offer(kernel, profile), unset, ones, flip)


def _parse_word(text: str) -> int:
    return values.fitting(values.number(text, "the value of an MSR"), 64, "the value of an MSR")


def _parse_cpuid(table: Mapping[str, Any]) -> SetCpuid:
    version: PmuVersion = "supported"
    if "pmu_version" in table:
        version = "absent" if table["pmu_version"] == "absent" else _pmu(table["pmu_version"])
    return SetCpuid(
        parse_features(table.get("toggled", [])),
        version,
        values.truth(table, "hyperv"),
        values.truth(table, "evmcs_perf_global_ctrl"),
    )


def _pmu(found: object) -> int:
    return values.fitting(values.number(found, "pmu_version"), MOST_PMU.bit_length(), "pmu_version")


def parse_features(found: object) -> frozenset[str]:
    """Return the CPUID features of a list `toggled`."""
    if not isinstance(found, list):
        raise InputError(f"toggled is {show(found)}; give a list of CPUID features")
    for name in found:
        if name not in FEATURES:
            raise InputError(
                f"{show(name)} is no CPUID feature here; they are {', '.join(FEATURES)}"
            )
    return frozenset(found)
