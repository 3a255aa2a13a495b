# SPDX-License-Identifier: GPL-2.0-only
"""From the arguments of `nvmxfuzz migrate` to its report."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from nvmxfuzz.cli.files import read_file
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.msr_table import parse_processor
from nvmxfuzz.inputs.msr_table.complete import missing_msrs, unknown_registers
from nvmxfuzz.kvm.host import HostCpu, ModuleParams, parse_params
from nvmxfuzz.kvm.source import Kernel, find_kernel
from nvmxfuzz.machine.profile import DEFAULT_PROFILE, Profile, load_profile, profile_names
from nvmxfuzz.oracles.migration.policies import Policy, consequences
from nvmxfuzz.oracles.migration.table import MigrationTable, migration_table, offering
from nvmxfuzz.oracles.restore.witness import ModelMsrs, MsrWitness, MsrWorld
from nvmxfuzz.reports.migration import End, MigrationReport, number


def report_of(args: argparse.Namespace, policies: tuple[Policy, ...]) -> MigrationReport:
    """Carry the VM that the arguments describe; bad ones are an InputError."""
    source, dest = find_kernel(args.source), find_kernel(args.dest)
    profile, notes = _processor(args.msrs, args.profile)
    same = args.dest_msrs is None and args.dest_profile is None
    other, more = (profile, notes) if same else _processor(args.dest_msrs, args.dest_profile)
    worlds = (
        _world(profile, _parameters(source, args.param), args),
        _world(other, _parameters(dest, args.dest_param), args),
    )
    witnesses, spoke = _witnesses(source, dest, real=args.real)
    table = _carried(witnesses, worlds)
    differences = different(table, _carried(_models(source, dest), worlds)) if args.real else None
    return MigrationReport(
        End(source.version, spoke[0], profile.name),
        End(dest.version, spoke[1], other.name),
        table,
        consequences(table, profile, other, policies),
        tuple(dict.fromkeys((*notes, *more))),
        differences,
    )


def _processor(path: Path | None, name: str | None) -> tuple[Profile, tuple[str, ...]]:
    """Return the processor of one side, and what has to be said of its table."""
    if path is None:
        return load_profile(name or DEFAULT_PROFILE), ()
    data = read_file(path)
    try:
        profile = parse_processor(data, str(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    missing = missing_msrs(profile.msrs)
    if missing:
        raise InputError(
            f"{path}: {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing, and this "
            "processor has such an MSR: add what rdmsr prints"
        )
    unknown = unknown_registers(profile.msrs)
    if not unknown:
        return profile, ()
    note = f"{path} does not tell {', '.join(unknown)}: CPUID features that show there alone "
    return profile, (note + "are taken to be absent",)


def _world(profile: Profile, params: ModuleParams, args: argparse.Namespace) -> MsrWorld:
    host = HostCpu.of(profile, args.sgx or None, args.evmcs)
    # The real KVM takes from that profile what a table of MSRs does not tell.
    known = profile.name in profile_names()
    return MsrWorld(profile.name if known else DEFAULT_PROFILE, host, params)


def _parameters(kernel: Kernel, settings: list[str]) -> ModuleParams:
    names = [field.name for field in fields(ModuleParams)]
    if not kernel.has_error_on_inconsistent_vmcs_config:
        names.remove("error_on_inconsistent_vmcs_config")
    params = parse_params(kernel, settings, names)
    if not params.nested:
        raise InputError("with nested=N no VM has VMX capabilities: leave that parameter out")
    return params


Witnesses = tuple[MsrWitness, MsrWitness]


def _models(source: Kernel, dest: Kernel) -> Witnesses:
    return ModelMsrs(source.version), ModelMsrs(dest.version)


def _witnesses(source: Kernel, dest: Kernel, *, real: bool) -> tuple[Witnesses, tuple[str, str]]:
    """Return who speaks for each kernel, and what that is called."""
    models = _models(source, dest)
    if not real:
        return models, ("model", "model")
    # Imported late: only this needs the library's bindings.
    from nvmxfuzz.targets.kvm_native.build.objects import find_object, usable
    from nvmxfuzz.targets.kvm_native.msrs import msr_witness

    built = [not usable(kernel.version) for kernel in (source, dest)]
    if not any(built):
        find_object(dest.version)
    chosen = [
        msr_witness(model.kernel) if is_built else model
        for model, is_built in zip(models, built, strict=True)
    ]
    names = ["kernel" if is_built else "model" for is_built in built]
    return (chosen[0], chosen[1]), (names[0], names[1])


def _carried(witnesses: Witnesses, worlds: tuple[MsrWorld, MsrWorld]) -> MigrationTable:
    start = offering(witnesses[0], worlds[0])
    return migration_table(start, witnesses[1], worlds[1])


def different(real: MigrationTable, model: MigrationTable) -> tuple[str, ...]:
    """Return a sentence for each MSR of which the model says something else."""
    found = []
    for one, other in zip(real.msrs, model.msrs, strict=True):
        if one != other:
            ours = f"{number(other.source)}, then {number(other.carried)}, {other.write}"
            theirs = f"{number(one.source)}, then {number(one.carried)}, {one.write}"
            found.append(
                f"{one.index:#x} {one.name} is {theirs} in the kernel, in the model {ours}"
            )
    return tuple(found)
