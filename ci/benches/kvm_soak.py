#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Run random entries through nested_vmx_run() of the real KVM, and print what came of them.

Each life of the module has random parameters and a random table of capability MSRs. The arguments
are the number of entries for each kernel, the seed and the kernels. The harness must neither die
nor hang, and its memory must not grow; whatever KVM does is a result. What caches its results is
called without that, since no life has the processor of another.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from zlib import crc32

from nvmxfuzz.arch.fields import Field
from nvmxfuzz.arch.msr import VMX_CAPABILITY_MSRS
from nvmxfuzz.inputs.bases import base, base_names
from nvmxfuzz.inputs.case import ZERO
from nvmxfuzz.inputs.interesting import interesting
from nvmxfuzz.inputs.layout import layout
from nvmxfuzz.inputs.repair import repair
from nvmxfuzz.inputs.words import build_attempt
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile, load_profile, profile_names
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject, find_object, usable
from nvmxfuzz.targets.kvm_native.direct import Batch, Direct, l1_of
from nvmxfuzz.targets.kvm_native.errors import IoctlError
from nvmxfuzz.targets.kvm_native.hardware import hardware_of
from nvmxfuzz.targets.kvm_native.library import Library
from nvmxfuzz.targets.kvm_native.native import Entry
from nvmxfuzz.targets.kvm_native.results import Stopped
from nvmxfuzz.targets.kvm_native.vcpu import offered
from nvmxfuzz.targets.kvm_native.vm import Fresh, fresh
from nvmxfuzz.targets.kvm_native.vmcs12 import Vmcs12Layout

ENTRIES = 50_000
KERNELS = ("6.1", "6.12")
BATCH = 250
BATCHES = 40
"""Of a life: KVM is loaded again after so many."""
SHOWN = 12
MSR_COUNTS = ("vm_entry_msr_load_count", "vm_exit_msr_store_count", "vm_exit_msr_load_count")
SLOTS = tuple(slot for slot in layout("vm_entry").slots if slot.area == "vmcs")


@dataclass(slots=True)
class Tally:
    """What came of the entries of one kernel."""

    entries: int = 0
    lives: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    rss: list[int] = field(default_factory=list)
    checksum: int = 0


class Life:
    """One life of the module: a vCPU whose L1 executes VMLAUNCH of one VMCS after the other."""

    def __init__(self, library: Library, source: random.Random, made: Fresh, host: Profile) -> None:
        self.library = library
        self.source = source
        profile = replace(host, name="of-l1", msrs=offered(made.vcpu))
        names = [name for name in base_names(profile) if name != ZERO]
        self.start = base.__wrapped__(source.choice(names), profile)
        for area, data in self.start.memory.regions:
            made.vm.memory.write(area, data)
        self.layout = Vmcs12Layout(library)
        self.l1 = l1_of(self.start.processor)
        direct = Direct(library, made.vcpu.address)
        self.batch = Batch(library, direct, self.layout.size, BATCH)
        direct.reset_l1(self.l1)
        library.set_port(Processor(source))

    def fill(self) -> None:
        """Make images that are a few edits away from a legal VMCS, which is any one."""
        layout, source, images = self.layout, self.source, self.batch.images
        start = scattered(self.start, source) if source.random() < 0.8 else self.start
        vmcs = start.vmcs
        if source.random() < 0.95:
            # Lists of thousands of MSRs take a hundred times as long as all the rest.
            counts = {name: min(vmcs.__dict__[name], source.randrange(8)) for name in MSR_COUNTS}
            vmcs = vmcs.replace(counts)
        values = vmcs.__dict__
        images[:] = layout.pack(vmcs) * BATCH
        for index in range(BATCH):
            for _ in range(source.randrange(5)):
                chosen = source.choice(layout.fields)
                value = edited(values[chosen.name], chosen, source)
                layout.write(images, index, chosen.name, value)

    def run(self, tally: Tally) -> None:
        """Run the images, and count what came of them."""
        self.batch.run(BATCH, self.l1)
        tally.entries += BATCH
        for numbers in self.batch.numbers(BATCH):
            name = outcome_name(self.library, numbers)
            tally.outcomes[name] += 1
            tally.checksum = crc32(name.encode(), tally.checksum)
        result = self.library.result()
        tally.warnings.update(str(warning) for warning in result.warnings)


class Processor:
    """The hardware below KVM: now and then it refuses what KVM enters."""

    def __init__(self, source: random.Random) -> None:
        self.source = source

    def __call__(self, _entry: Entry) -> int:
        """Fail with any error, or exit for the guest state."""
        return self.source.randrange(2)


def scattered(start: Attempt, source: random.Random) -> Attempt:
    """Return a legal state that is anywhere: some slots at random, then repaired."""
    share = source.choice((1.0, 0.5, 0.2, 0.05))
    words = {
        slot: slot.fit(
            source.choice(interesting.__wrapped__(slot, start.profile))
            if source.random() < 0.3
            else source.getrandbits(slot.width)
        )
        for slot in SLOTS
        if source.random() < share
    }
    return repair(build_attempt(start, words, ()))


def edited(old: int, chosen: Field, source: random.Random) -> int:
    """Return another value of a field: a bit flipped, an edge, or any."""
    choice = source.random()
    if choice < 0.5:
        return old ^ 1 << source.randrange(chosen.width)
    if choice < 0.8:
        edges = (0, chosen.max_value, 0x1000, 0x9000, 0x3F_FFFF, 0x40_0000, 0xFEE0_0000)
        return source.choice(edges) & chosen.max_value
    return source.getrandbits(chosen.width)


def outcome_name(library: Library, numbers: tuple[int, ...]) -> str:
    """Return the name of an outcome: where it ended, and the check that ended it."""
    value, in_l2, _, _, error, reason, qualification, *_, to_user, check, _ = numbers
    if in_l2:
        return "in L2"
    if check:
        return f"refused: {library.reader.text(check)[:80]}"
    if value == 0:
        return f"exit to user space {to_user}"
    return f"VMfail {error}" if error else f"exit {reason:#x} qualification {qualification}"


def random_host(source: random.Random) -> Profile:
    """Return a processor: a profile in which some bits of the capability MSRs are flipped."""
    profile = load_profile(source.choice(profile_names()))
    msrs = dict(profile.msrs)
    for _ in range(source.randrange(4)):
        index, _ = source.choice(VMX_CAPABILITY_MSRS)
        if index in msrs:
            msrs[index] ^= 1 << source.randrange(64)
    return replace(profile, name="flipped", msrs=msrs)


def random_parameters(library: Library, source: random.Random) -> dict[str, int]:
    """Return some parameters with other values: all that are bool, each now and then.

    Without `nested` there is no L1. With `enable_shadow_vmcs` KVM takes most of vmcs12 from the
    shadow VMCS, in which the images are not.
    """
    return {
        "enable_shadow_vmcs": source.random() < 0.05,
    } | {
        name: 1 - (parameter.value & 1)
        for name, parameter in library.parameters.items()
        if parameter.is_bool
        and name not in ("nested", "enable_shadow_vmcs")
        and source.random() < 0.15
    }


def live(library: Library, source: random.Random, tally: Tally, most: int) -> None:
    """Load KVM once, and run up to `most` entries."""
    tally.lives += 1
    host = random_host(source)
    library.restore()
    parameters = random_parameters(library, source)
    try:
        made = fresh(library, hardware_of.__wrapped__(host), parameters)
    except IoctlError as refusal:
        tally.refusals[str(refusal)] += 1
    except Stopped as stopped:
        tally.stops[str(stopped)] += 1
    else:
        run_life(Life(library, source, made, host), tally, most)
        made.discard()


def run_life(life: Life, tally: Tally, most: int) -> None:
    """Run batches until one does not return: the state is of no use then."""
    try:
        for _ in range(min(BATCHES, -(-most // BATCH))):
            life.fill()
            life.run(tally)
        life.library.call("nvmx_check_heap")
    except Stopped as stopped:
        tally.stops[str(stopped)] += 1


def soak(built: BuiltObject, entries: int, seed: int) -> Tally:
    """Run random entries on one kernel."""
    library = Library(built.path, built.symbols)
    tally = Tally()
    source = random.Random(seed)
    while tally.entries < entries:
        live(library, source, tally, entries - tally.entries)
        library.restore()
        tally.rss.append(resident())
    return tally


def resident() -> int:
    """Return how many KiB of memory the process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def report(kernel: str, tally: Tally, seconds: float) -> None:
    """Print the figures of one kernel."""
    rss = tally.rss
    quarter, half = rss[len(rss) // 4], rss[len(rss) // 2]
    print(
        f"soak of kvm-{kernel}: {tally.entries:,} entries in {tally.lives:,} lives, "
        f"{tally.entries / seconds:,.0f} a second; {len(tally.outcomes)} distinct outcomes, "
        f"{sum(tally.warnings.values())} warnings, {sum(tally.stops.values())} stops, "
        f"{sum(tally.refusals.values())} lives refused; "
        f"memory {quarter:,} KiB after a quarter of the lives, {half:,} after a half, "
        f"{rss[-1]:,} at the end; checksum {tally.checksum:08x}"
    )
    for title in ("outcomes", "warnings", "stops", "refusals"):
        for name, number in getattr(tally, title).most_common(SHOWN):
            print(f"  {title}: {name} {number:,}")


def main() -> int:
    """Soak each kernel that is built."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for kernel in sys.argv[3:] or KERNELS:
        reason = usable(kernel)
        if reason:
            print(f"soak of kvm-{kernel}: skipped, {reason}")
            continue
        start = perf_counter()
        tally = soak(find_object(kernel), entries, seed)
        report(kernel, tally, perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
