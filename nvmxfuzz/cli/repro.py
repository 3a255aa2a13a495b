# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz repro`: a finding again, on everything here, told so that others understand it."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from typing import Final

from nvmxfuzz.campaign.memory import memory_bound, memory_uncounted
from nvmxfuzz.campaign.plan import (
    DEFAULT_MEMORY,
    harness_file,
    load_harness,
    referenced_harness,
)
from nvmxfuzz.campaign.second_witness import with_target
from nvmxfuzz.cli.compare import relation_text
from nvmxfuzz.cli.comparing import Compared, compared
from nvmxfuzz.cli.finding import Named, add_arguments, named
from nvmxfuzz.cli.invocation import command as command_words
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.reports.case_text import case_rows
from nvmxfuzz.reports.observation_text import summary
from nvmxfuzz.reports.reproduction import Reproduction, Side, to_json, to_text
from nvmxfuzz.targets.registry import Entry, all_targets
from nvmxfuzz.triage.case_finding import CaseFinding
from nvmxfuzz.triage.standing import GONE, Replayer

_RULES: Final = "python-model"
_MODEL: Final = "kvm-model-"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "repro",
        help="a finding again, told so that others understand it",
        description="Run a finding, or a case, on every target that can stand for its machine, and "
        "print a page that needs no knowledge of this project: what L1 sets, against a valid VMCS; "
        "what the SDM says; what each KVM does, with the condition and the function of the check; "
        "and what the processor below makes of it.",
        epilog="Exit status: 0 if the finding is gone, or a case shows nothing wrong; 1 if it is "
        "still there or another one is; 2 for bad input.",
    )
    add_arguments(command)
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the page; return 1 if an oracle fires."""
    found = named(args.finding, args.store)
    told = reproduction(found)
    print(json.dumps(to_json(told)) if args.json else to_text(told))
    return 1 if told.seen or told.state not in ("", GONE) else 0


def reproduction(found: Named) -> Reproduction:
    """Run a finding on everything here; return what is told of it."""
    case = found.case
    state, seen = _seen(found)
    judgement = vm_entry(case.attempt) if isinstance(case, EntryCase) else None
    return Reproduction(
        name=found.name,
        case=case,
        rows=tuple(case_rows(case, everything=False)),
        finding=found.shows.finding if found.shows else None,
        promise=_promise(found.shows) if found.shows else "",
        state=state,
        seen=seen,
        judgement=judgement,
        sides=tuple(_sides(case.attempt, judgement))
        if isinstance(case, EntryCase) and judgement
        else (),
        commands=tuple(_commands(found)),
    )


def _seen(found: Named) -> tuple[str, tuple[Finding, ...]]:
    """Return what became of the finding, and what is seen; "" where none was known."""
    if found.shows is not None:
        with Replayer() as replayer:
            standing = replayer.standing(found.shows)
        return standing.status, standing.seen
    with memory_uncounted():
        harness = load_harness(harness_file(found.case.harness))
    with memory_bound(DEFAULT_MEMORY):
        return "", harness.examine(found.case)


def _promise(shows: CaseFinding) -> str:
    """Return the sentence of the oracle that fired."""
    file = referenced_harness(shows.setting.harness)
    harness = with_target(load_harness(file), shows.setting.target, isolated=True)
    oracles = (*harness.always, *harness.oracles)
    name = shows.finding.oracle
    return next((oracle.sentence for oracle in oracles if oracle.name == name), name)


def _sides(attempt: Attempt, judgement: Judgement) -> Iterator[Side]:
    """Yield what every target makes of an attempt; the models of KVM where it is not built."""
    usable = [entry for entry in all_targets().values() if not entry.usable()]
    built = {entry.kernel for entry in usable if entry.kernel}
    for entry in usable:
        model = entry.name.startswith(_MODEL)
        if entry.name == _RULES or (model and entry.name.removeprefix(_MODEL) in built):
            continue
        target = entry.make_isolated()
        try:
            yield _side(entry, compared(target, attempt), judgement)
        except InputError as error:
            yield Side(entry.name, entry.kernel, f"not usable: {error}", (), "", "")
        finally:
            target.close()


def _side(entry: Entry, seen: Compared, judgement: Judgement) -> Side:
    own = seen.judgement.permitted
    return Side(
        name=entry.name,
        kernel=entry.kernel or _kernel_of_model(entry.name),
        outcome=summary(seen.observation),
        said=tuple(message.text for message in seen.observation.messages),
        end="" if seen.end is None else summary(seen.end),
        relation=relation_text(seen),
        permitted="" if own == judgement.permitted else ", ".join(map(str, own)),
    )


def _kernel_of_model(name: str) -> str:
    return f"{name.removeprefix(_MODEL)}, modelled" if name.startswith(_MODEL) else ""


def _commands(found: Named) -> Iterator[str]:
    call = shlex.join(command_words())
    yield f"{call} replay {found.again}"
    if isinstance(found.case, EntryCase):
        yield f"{call} export {found.reference} --as selftest"
    yield f"{call} export {found.reference} --as toml"
