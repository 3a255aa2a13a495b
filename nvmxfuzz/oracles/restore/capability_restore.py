# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of the capability MSRs of a vCPU over whatever userspace does with them.

An oracle gets a sequence and a witness that is loaded, and lives through the sequence on a new
vCPU. It reports the first breach that `nvmxfuzz.oracles.restore.known` does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from nvmxfuzz.arch import msr
from nvmxfuzz.kvm.guest_cpuid import GuestCpuid
from nvmxfuzz.kvm.source import find_kernel
from nvmxfuzz.kvm.vmcs_config import VmcsConfig, setup_vmcs_config
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.oracles.migration.entry import contradictions, processor_of_l1, satisfying
from nvmxfuzz.oracles.oracle import Oracle
from nvmxfuzz.oracles.restore.known import known
from nvmxfuzz.oracles.restore.offer import EMULATED, NAMES, Found, Offer, flaws, offer, wider
from nvmxfuzz.oracles.restore.witness import (
    VMX_MSRS,
    WATCHED,
    MsrWitness,
    Rdmsr,
    RestoreMsr,
    Rsm,
    Sequence,
    SetCpuid,
    SetMsrs,
    Smi,
    Step,
    Wrmsr,
    msr_name,
)

Breaches = Callable[[Sequence, MsrWitness], Iterator[Found]]

_FEATURE_CONTROL: Final = msr.MSR_IA32_FEAT_CTL
_WORDS: Final = {
    msr.MSR_IA32_VMX_TRUE_PINBASED_CTLS: "pin_based_exec_ctrl",
    msr.MSR_IA32_VMX_TRUE_PROCBASED_CTLS: "cpu_based_exec_ctrl",
    msr.MSR_IA32_VMX_PROCBASED_CTLS2: "cpu_based_2nd_exec_ctrl",
    msr.MSR_IA32_VMX_TRUE_EXIT_CTLS: "vmexit_ctrl",
    msr.MSR_IA32_VMX_TRUE_ENTRY_CTLS: "vmentry_ctrl",
}


def _live(steps: Sequence, witness: MsrWitness) -> None:
    witness.renew()
    for step in steps:
        step.on(witness)


def _values(witness: MsrWitness) -> dict[int, int]:
    return dict(zip(WATCHED, witness.read(), strict=False))


def _failed(step: Step, result: int | None) -> bool:
    """Whether a step was refused, as a whole or from some value on."""
    if isinstance(step, SetMsrs):
        return result != len(step.values)
    return not isinstance(step, Rdmsr) and result != 0


# ---------------------------------------------------------------------- the nine


def round_trip(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """What is read of an MSR that userspace is told to save can be written back, to no effect."""
    _live(steps, witness)
    before = _values(witness)
    for index in (_FEATURE_CONTROL, *witness.loaded.indices):
        if index not in before:
            yield "not readable", f"{msr_name(index)} is listed and cannot be read"
            return
        if witness.set_msrs(((index, before[index]),)) != 1:
            yield _why_refused(index, before[index], witness), f"{msr_name(index)} is refused"
            return
        if _values(witness) != before:
            yield f"{msr_name(index)} changed", f"writing back {msr_name(index)} changes something"
            return


def _why_refused(index: int, value: int, witness: MsrWitness) -> str:
    if value == 0 and not witness.world.stuffs_feature_msrs:
        return "never set"
    witness.vmxoff()
    if witness.set_msrs(((index, value),)) == 1:
        return "in VMX operation"
    return msr_name(index)


def never_widens(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """No step lets L1 be offered what the system's feature MSRs do not have."""
    if not witness.loaded.system:
        return
    limit = offer(witness.loaded.system)
    witness.renew()
    for step in steps:
        step.on(witness)
        values = witness.read()[1:]
        if not values:
            continue
        for site, message in wider(offer(values), limit):
            index = next(index for index, name in NAMES.items() if site.split()[0] == name)
            unset = offer(values)[index] == 0
            yield (f"{site} of 0" if unset else site), f"{message}, after {step}"


def atomic(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """A step that is refused changes nothing."""
    witness.renew()
    before = witness.read()
    for step in steps:
        result = step.on(witness)
        after = witness.read()
        if _failed(step, result) and before != after:
            partly = isinstance(step, SetMsrs) and len(step.values) > 1
            site = "partly taken" if partly else type(step).__name__
            yield site, f"{step} returns {result}, and MSRs have changed"
        before = after


def reads_back(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """A value that KVM takes from userspace is what userspace reads then."""
    witness.renew()
    for step in steps:
        taken = _taken(step, step.on(witness))
        values = _values(witness) if taken else {}
        for index, value in taken.items():
            if values.get(index, value) != value:
                name, read = msr_name(index), values[index]
                yield name, f"{name} reads {read:#x} after {value:#x} was taken, in {step}"


def _taken(step: Step, result: int | None) -> dict[int, int]:
    """Return the MSRs that userspace has written in a step, and the value that each has got."""
    if isinstance(step, SetMsrs):
        return dict(step.values[: result or 0])
    if isinstance(step, RestoreMsr) and result == 0:
        return {step.index: step.value}
    return {}


def order_free(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """Two steps one after the other, of different MSRs or one of CPUID, could change places."""
    for at in range(len(steps) - 1):
        one, other = steps[at : at + 2]
        subjects = _subject(one), _subject(other)
        if None in subjects or subjects[0] == subjects[1]:
            continue
        prelude = steps[:at]
        ended, swapped = (_ended(prelude, pair, witness) for pair in ((one, other), (other, one)))
        if ended[0] == swapped[0] and ended[1:] == (swapped[2], swapped[1]):
            continue
        site = " and ".join(sorted(str(subject) for subject in subjects))
        yield site, f"{one} and {other} come to something else in the other order"


def _ended(prelude: Sequence, pair: tuple[Step, Step], witness: MsrWitness) -> tuple[object, ...]:
    _live(prelude, witness)
    first, second = pair[0].on(witness), pair[1].on(witness)
    return witness.read(), first, second


def _subject(step: Step) -> str | None:
    if isinstance(step, SetCpuid):
        return "CPUID"
    if isinstance(step, RestoreMsr):
        return msr_name(step.index)
    if isinstance(step, SetMsrs) and len(step.values) == 1:
        return msr_name(step.values[0][0])
    return None


def idempotent(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """A step of userspace that is made twice comes to what it came to the first time."""
    witness.renew()
    for step in steps:
        result, values = step.on(witness), witness.read()
        if isinstance(step, Rdmsr | Wrmsr | Smi | Rsm):
            continue
        if step.on(witness) != result or witness.read() != values:
            several = isinstance(step, SetMsrs) and len(step.values) > 1
            site = "several MSRs" if several else _subject(step) or type(step).__name__
            yield site, f"{step} comes to something else when it is made again"
            return


def survives_cpuid(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """A value that userspace has written is there after KVM_SET_CPUID2."""
    witness.renew()
    written: set[int] = set()
    for step in steps:
        before = _values(witness)
        result = step.on(witness)
        written |= _taken(step, result).keys()
        if isinstance(step, SetCpuid):
            after = _values(witness)
            for index in sorted(written & before.keys() & after.keys()):
                if before[index] != after[index]:
                    said = f"{before[index]:#x} has become {after[index]:#x}"
                    yield msr_name(index), f"{msr_name(index)}: {said}"


def within_config(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """What is offered KVM has or emulates, can be satisfied, and lacks no part that it needs."""
    if not witness.loaded.system:
        return
    world = witness.world
    config = setup_vmcs_config(world.host, find_kernel(witness.kernel), world.params).config
    system = offer(witness.loaded.system)
    if config is not None:
        for site, message in beyond_config(system, config):
            yield f"system: {site}", message
    for site, message in flaws(system):
        yield f"system: {site}", message
    place, _ = _settled(steps, witness)
    values = witness.read()[1:]
    if values:
        for site, message in flaws(offer(values)):
            yield f"{place}: {site}", message


def usable(steps: Sequence, witness: MsrWitness) -> Iterator[Found]:
    """Some VMCS satisfies what L1 is offered in the end, as far as the rules of VM entry go."""
    place, cpuid = _settled(steps, witness)
    values = witness.read()[1:]
    if not values or cpuid is None:
        return
    processor = processor_of_l1(witness.world, cpuid, offer(values))
    against = tuple(contradictions(processor))
    for what in against:
        yield f"{place}: {what}", f"{what} in what L1 is offered in the end"
    if not against and satisfying(processor) is None:
        yield f"{place}: no VMCS is found that the rules permit", "L1 can enter no L2 in the end"


def _settled(steps: Sequence, witness: MsrWitness) -> tuple[str, GuestCpuid | None]:
    """Live through it; return "written" if a VMX MSR was, else "vcpu"; and the CPUID."""
    witness.renew()
    place, cpuid = "vcpu", None
    for step in steps:
        result = step.on(witness)
        if _taken(step, result).keys() - {_FEATURE_CONTROL}:
            place = "written"
        if isinstance(step, SetCpuid) and result == 0:
            cpuid = step.cpuid
    return place, cpuid


def beyond_config(system: Offer, config: VmcsConfig) -> Iterator[Found]:
    """Yield controls that are offered, neither in the config nor emulated by KVM."""
    for index, word in _WORDS.items():
        beyond = system[index] >> 32 & ~(getattr(config, word) | EMULATED[index])
        if beyond:
            yield f"{msr_name(index)} beyond", f"{beyond:#x} is not in the config"


# ---------------------------------------------------------------------- as oracles


def _oracle(name: str, breaches: Breaches) -> Oracle[Sequence, MsrWitness]:
    def check(steps: Sequence, witness: MsrWitness) -> Finding | None:
        for site, message in breaches(steps, witness):
            if known(name, site, witness.kernel) is None:
                return Finding(name, (name,), (f"kvm {witness.kernel}", "promise"), site, message)
        return None

    check.__doc__ = breaches.__doc__
    return Oracle(name, "KVM_SET_MSRS as user space migrates a VM with it", check)


BREACHES: Final[dict[str, Breaches]] = {
    "restore.round-trip": round_trip,
    "restore.never-widens": never_widens,
    "restore.atomic": atomic,
    "restore.reads-back": reads_back,
    "restore.order-free": order_free,
    "restore.idempotent": idempotent,
    "restore.survives-cpuid": survives_cpuid,
    "nested.within-config": within_config,
    "nested.usable": usable,
}
"""Every breach that a sequence shows, those that are known too."""

ORACLES: Final = tuple(_oracle(name, breaches) for name, breaches in BREACHES.items())

assert set(NAMES) >= set(VMX_MSRS)
