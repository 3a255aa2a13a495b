# SPDX-License-Identifier: GPL-2.0-only
"""Steps as bytes, one after the other: any bytes are some steps.

A step is the number of its kind, then what that kind has:

- set-msrs: how many, 1 added; then a write each;
- restore-msr, wrmsr: a write;
- set-cpuid: flags (bit 0 Hyper-V, 1 its PERF_GLOBAL_CTRL, 2 a PMU version follows, 3 none),
  the PMU version if it follows, how many features are toggled, and their numbers;
- rdmsr: an MSR.

An MSR is its number below. A write is an MSR and a value: flags (bits 2:0 the offer: none, own, a
profile's, a kernel's, both; bits 3 to 5: what is unset, set, flipped follows, 8 bytes each), the
numbers of kernel and profile as far as the offer has them, then those words. Numbers beyond what
there is wrap around, what is missing is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.inputs.layout import KERNELS
from nvmxfuzz.inputs.order import PROFILES
from nvmxfuzz.inputs.reader import Reader
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
from nvmxfuzz.machine.profile import profile_names

MSRS: Final = (msr.MSR_IA32_FEAT_CTL, *(index for index, _ in VMX_CAPABILITY_MSRS))
"""By the number that the format has for them: a new one goes last."""

_OFFERS: Final = 5
_BY_PROFILE: Final = (2, 4)
_BY_KERNEL: Final = (3, 4)


def read_steps(data: bytes) -> tuple[Step, ...]:
    """Return the steps that `data` is; what lies behind the last that a case may have is not."""
    reader = Reader(data)
    steps: list[Step] = []
    while not reader.ended and len(steps) < MOST_STEPS:
        steps.append(_read_step(reader))
    return tuple(steps)


def pack_steps(steps: Iterable[Step]) -> bytes:
    """Return the bytes of steps whose names all have numbers."""
    return b"".join(map(pack_step, steps))


def has_numbers(steps: Iterable[Step]) -> bool:
    """Whether all that is named in steps has a number."""
    offers = [write.value.offer for step in steps for write in writes_of(step)]
    return all(
        offer.kernel in ("", *KERNELS) and offer.profile in ("", *PROFILES)
        for offer in offers
        if offer is not None
    )


def writes_of(step: Step) -> tuple[Write, ...]:
    """Return what a step writes."""
    if isinstance(step, SetMsrs):
        return step.writes
    return (step.write,) if isinstance(step, RestoreMsr | Wrmsr) else ()


def _read_step(reader: Reader) -> Step:
    kind = STEPS[reader.number() % len(STEPS)]
    if kind is SetMsrs:
        count = reader.number() % MOST_WRITES + 1
        return SetMsrs(tuple(_read_write(reader) for _ in range(count)))
    if kind is RestoreMsr:
        return RestoreMsr(_read_write(reader))
    if kind is Wrmsr:
        return Wrmsr(_read_write(reader))
    if kind is SetCpuid:
        return _read_cpuid(reader)
    return Rdmsr(_read_msr(reader)) if kind is Rdmsr else PLAIN[kind]


def pack_step(step: Step) -> bytes:
    """Return the bytes of a step."""
    head = bytes([STEPS.index(type(step))])
    if isinstance(step, SetMsrs):
        head += bytes([len(step.writes) - 1])
    elif isinstance(step, SetCpuid):
        return head + _pack_cpuid(step)
    elif isinstance(step, Rdmsr):
        return head + _pack_msr(step.index)
    return head + b"".join(map(_pack_write, writes_of(step)))


def _read_cpuid(reader: Reader) -> SetCpuid:
    flags = reader.number()
    version: PmuVersion = "absent" if flags & 8 else "supported"
    if flags & 4:
        version = reader.number() & MOST_PMU
    count = reader.number() % (len(FEATURES) + 1)
    numbers = [reader.number() for _ in range(count)]
    features = frozenset(FEATURES[number % len(FEATURES)] for number in numbers)
    return SetCpuid(features, version, flags & 1 != 0, flags & 2 != 0)


def _pack_cpuid(step: SetCpuid) -> bytes:
    flags = step.hyperv | step.evmcs_perf_global_ctrl << 1
    version = b""
    if step.pmu_version == "absent":
        flags |= 8
    elif step.pmu_version != "supported":
        flags |= 4
        version = bytes([step.pmu_version])
    numbers = sorted(map(FEATURES.index, step.toggled))
    return bytes([flags, *version, len(numbers), *numbers])


def _read_msr(reader: Reader) -> int:
    return MSRS[reader.number() % len(MSRS)]


def _pack_msr(index: int) -> bytes:
    return bytes([MSRS.index(index)])


def _read_write(reader: Reader) -> Write:
    index = _read_msr(reader)
    flags = reader.number()
    kind = (flags & 7) % _OFFERS
    kernel = KERNELS[reader.number() % len(KERNELS)] if kind in _BY_KERNEL else ""
    profile = _profile(reader.number()) if kind in _BY_PROFILE else ""
    unset, ones, flip = (reader.number(8) if flags & bit else 0 for bit in (8, 16, 32))
    if not kind:
        return Write(index, absolute(ones ^ flip))
    return Write(index, Value(Offer(kernel, profile), unset, ones, flip))


def _profile(number: int) -> str:
    name = PROFILES[number % len(PROFILES)]
    # A profile that an installation lacks keeps its number all the same.
    return name if name in profile_names() else PROFILES[0]


def _pack_write(write: Write) -> bytes:
    value = write.value
    flags = 0
    names: list[int] = []
    if value.offer is not None:
        flags = 1 + 2 * bool(value.offer.kernel) + bool(value.offer.profile)
        names = list(_numbers(value.offer))
    words = b""
    for bit, word in ((8, value.unset), (16, value.ones), (32, value.flip)):
        if word:
            flags |= bit
            words += word.to_bytes(8, "little")
    return _pack_msr(write.index) + bytes([flags, *names]) + words


def _numbers(offer: Offer) -> Iterator[int]:
    if offer.kernel:
        yield KERNELS.index(offer.kernel)
    if offer.profile:
        yield PROFILES.index(offer.profile)
