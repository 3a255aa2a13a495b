# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz compare`: the witnesses of VM entry side by side, rule by rule."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nvmxfuzz.cli.comparing import Compared, compared, observation_text
from nvmxfuzz.cli.files import entry_case
from nvmxfuzz.cli.streams import complain
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.targets.base import Target
from nvmxfuzz.targets.registry import all_targets

_RULES = "python-model"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "compare",
        help="the witnesses side by side",
        description="Run VM entries on the rules and on every target that is usable here, and "
        "say whether they agree, differ as is known, or differ without a known reason.",
        epilog="Exit status: 1 if witnesses differ without a known reason, or a target died of it; "
        "2 if a file is no case, or a target turns out not to be usable.",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--json", action="store_true", help="one JSON object a line and file")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare file by file; return 1 if there is a difference without a known reason."""
    status = 0
    targets = [
        entry.make_isolated()
        for entry in all_targets().values()
        if entry.name != _RULES and not entry.usable()
    ]
    if not targets:
        complain("only the rules are usable here: see nvmxfuzz targets")
    for path in args.files:
        try:
            attempt = entry_case(path).attempt
        except InputError as error:
            status = 2
            complain(str(error))
            continue
        found, unusable = _compared(targets, attempt)
        if unusable:
            status = 2
        elif any(each.fails for each in found):
            status = status or 1
        heading = f"{path}:\n" if len(args.files) > 1 else ""
        reply = _as_json if args.json else _as_text
        print(("" if args.json else heading) + reply(vm_entry(attempt), found, unusable))
    for target in targets:
        target.close()
    return status


def _compared(targets: Sequence[Target], attempt: Attempt) -> tuple[list[Compared], dict[str, str]]:
    """Return what targets do, and of those that turn out not to be usable the sentence why."""
    found: list[Compared] = []
    unusable: dict[str, str] = {}
    for target in targets:
        try:
            found.append(compared(target, attempt))
        except InputError as error:
            unusable[target.name] = str(error)
    return found, unusable


def _as_json(judgement: Judgement, found: Sequence[Compared], unusable: Mapping[str, str]) -> str:
    return json.dumps(
        {
            "rules": {
                "broken": list(judgement.broken_names),
                "unknown": list(judgement.unknown_names),
                "permitted": [outcome.to_json() for outcome in judgement.permitted],
            },
            "targets": {
                **{each.name: each.to_json() for each in found},
                **{name: {"error": sentence} for name, sentence in unusable.items()},
            },
        }
    )


def _as_text(judgement: Judgement, found: Sequence[Compared], unusable: Mapping[str, str]) -> str:
    lines = [f"rules: {_permitted(judgement)}"]
    for each in found:
        lines.append(observation_text(each.name, each.observation, each.end))
        if each.judgement.permitted != judgement.permitted:
            lines.append(f"    on its virtual processor: {_permitted(each.judgement)}")
        lines.append(f"    {relation_text(each)}")
    lines += [f"{name}: not usable: {sentence}" for name, sentence in unusable.items()]
    lines += _rule_by_rule(judgement, found)
    return "\n".join(lines)


def _permitted(judgement: Judgement) -> str:
    return ", ".join(map(str, judgement.permitted))


def relation_text(found: Compared) -> str:
    """Return how a target relates to the rules, for a reader."""
    match found.relation:
        case "none":
            return "has nothing to compare"
        case "agreed":
            return "agrees with the rules"
        case "known":
            return "differs as is known: " + ", ".join(found.known)
        case _:
            because = f": {found.message}" if found.message else ""
            return f"differs, and nothing known explains it{because}"


def _rule_by_rule(judgement: Judgement, found: Sequence[Compared]) -> Iterator[str]:
    """Yield a line for each rule that somebody finds broken: who does."""
    blamed = {each.name: set(each.blames) for each in found}
    names = [*judgement.broken_names, *judgement.unknown_names]
    others = sorted(set().union(*blamed.values()) - set(names)) if blamed else []
    if names or others:
        yield "rule by rule:"
    for name in [*names, *others]:
        verdict = "unknown" if name in judgement.unknown_names else "broken"
        by_rules = verdict if name in names else "held"
        by_targets = [f"{target} blames it" for target, rules in blamed.items() if name in rules]
        yield f"    {name}: " + ", ".join([f"rules {by_rules}", *by_targets])
