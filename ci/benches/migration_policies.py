#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Print what a default VM loses between any two kernels on each profile, and what policies change.

For each capability that the destination revokes: on how many profiles it does, and on how many of
them a VM entry that used it fails if it were kept, or cleared. With the argument `real` the kernels
that are built are asked too; any difference from the model is an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter

from nvmxfuzz.errors import InputError
from nvmxfuzz.kvm.host import DEFAULT_PARAMS, HostCpu
from nvmxfuzz.kvm.source import KERNELS
from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.migration.policies import consequences
from nvmxfuzz.oracles.migration.table import MigrationTable, migration_table, offering
from nvmxfuzz.oracles.restore.witness import ModelMsrs, MsrWitness, MsrWorld
from nvmxfuzz.targets.kvm_native.build.objects import usable
from nvmxfuzz.targets.kvm_native.msrs import msr_witness


@dataclass(slots=True)
class Row:
    """One pair of kernels; the counters are by the name of a capability."""

    profiles: int = 0
    revoked: Counter[str] = field(default_factory=Counter)
    keep: Counter[str] = field(default_factory=Counter)
    clear: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    different: int = 0


def carried(source: MsrWitness, destination: MsrWitness, world: MsrWorld) -> MigrationTable:
    """Return what becomes of a default VM."""
    return migration_table(offering(source, world), destination, world)


def witness(kernel: str) -> MsrWitness:
    """Return the kernel itself if it is built, else the model."""
    return ModelMsrs(kernel) if usable(kernel) else msr_witness(kernel)


def row_of(source: str, destination: str, *, hyperv: bool, real: bool) -> Row:
    """Carry a VM on every profile on which both kernels load."""
    row = Row()
    for name in profile_names():
        profile = load_profile(name)
        world = MsrWorld(name, HostCpu.of(profile, on_hyperv_evmcs=hyperv), DEFAULT_PARAMS)
        try:
            table = carried(ModelMsrs(source), ModelMsrs(destination), world)
        except InputError:
            continue
        row.profiles += 1
        if real:
            row.asked += 1
            row.different += carried(witness(source), witness(destination), world) != table
        row.revoked.update({each.label for each in (*table.of("refused"), *table.of("lost"))})
        for each in consequences(table, profile, profile, ("keep", "clear")):
            counter = row.keep if each.policy == "keep" else row.clear
            counter.update({fail.uses.label if fail.uses else fail.base for fail in each.failing})
    return row


def main() -> int:
    """Print the table; return 1 if a kernel differs from the model."""
    real = sys.argv[1:] == ["real"]
    started, carries, different = perf_counter(), 0, 0
    print(f"{'from':6}{'to':6}{'on':9}{'revoked on':12}{'keep fails':12}{'clear fails':12}what")
    for hyperv in (False, True):
        for source in KERNELS:
            for destination in KERNELS:
                if source == destination:
                    continue
                row = row_of(source, destination, hyperv=hyperv, real=real)
                carries += row.profiles + row.asked
                different += row.different
                where = f"{source:6}{destination:6}{'Hyper-V' if hyperv else 'bare':9}"
                for name in sorted(row.revoked | row.keep | row.clear) or ["nothing"]:
                    counts = (row.revoked[name], row.keep[name], row.clear[name])
                    print(where + "".join(f"{count:<12}" for count in counts) + name)
    seconds = perf_counter() - started
    print(f"{carries} migrations in {seconds:.1f} s, {different} differ from the model")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
