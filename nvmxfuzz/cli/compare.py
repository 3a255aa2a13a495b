# SPDX-License-Identifier: GPL-2.0-only
"""`nvmxfuzz compare`: the witnesses of VM entry side by side, rule by rule."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from nvmxfuzz.cli.files import entry_case
from nvmxfuzz.cli.streams import complain
from nvmxfuzz.cpu.judgement import Judgement
from nvmxfuzz.cpu.vm_entry import vm_entry
from nvmxfuzz.errors import InputError
from nvmxfuzz.oracles.agreement import Comparison, compare
from nvmxfuzz.oracles.bochs_messages import rules_of
from nvmxfuzz.reports.observation_text import to_text
from nvmxfuzz.targets.base import Observation, Target
from nvmxfuzz.targets.registry import TARGETS

_RULES = "python-model"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    command = commands.add_parser(
        "compare",
        help="the witnesses side by side",
        description="Run VM entries on the rules and on every target that is usable here, and "
        "say whether they agree, differ as is known, or differ without a known reason.",
        epilog="Exit status: 1 if witnesses differ without a known reason, or a target died of it.",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE")
    command.add_argument("--json", action="store_true", help="one JSON object a line and file")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare file by file; return 1 if there is a difference without a known reason."""
    status = 0
    targets = [
        entry.make_isolated()
        for entry in TARGETS.values()
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
        judgement = vm_entry(attempt)
        seen = [(target, target.run(attempt)) for target in targets]
        found = [
            (target, observed, compare(judgement, observed, attempt)) for target, observed in seen
        ]
        if any(
            comparison.relation == "unexplained" or observed.status == "died"
            for _, observed, comparison in found
        ):
            status = status or 1
        heading = f"{path}:\n" if len(args.files) > 1 else ""
        reply = _as_json if args.json else _as_text
        print(("" if args.json else heading) + reply(judgement, found))
    for target in targets:
        target.close()
    return status


_Found = Sequence[tuple[Target, Observation, Comparison]]


def _as_json(judgement: Judgement, found: _Found) -> str:
    return json.dumps(
        {
            "rules": {
                "broken": list(judgement.broken_names),
                "unknown": list(judgement.unknown_names),
                "permitted": [outcome.to_json() for outcome in judgement.permitted],
            },
            "targets": {
                target.name: {
                    **observed.to_json(),
                    "blames": list(rules_of(observed.messages) or ()),
                    "relation": comparison.relation,
                    "known": list(comparison.known),
                }
                for target, observed, comparison in found
            },
        }
    )


def _as_text(judgement: Judgement, found: _Found) -> str:
    lines = ["rules: " + ", ".join(map(str, judgement.permitted))]
    for target, observed, comparison in found:
        lines += [to_text(target.name, observed), f"    {_relation(comparison)}"]
    lines += _rule_by_rule(judgement, found)
    return "\n".join(lines)


def _relation(comparison: Comparison) -> str:
    match comparison.relation:
        case "none":
            return "has nothing to compare"
        case "agreed":
            return "agrees with the rules"
        case "known":
            return "differs as is known: " + ", ".join(comparison.known)
        case _:
            return "differs, and nothing known explains it"


def _rule_by_rule(judgement: Judgement, found: _Found) -> Iterator[str]:
    """Yield a line for each rule that somebody finds broken: who does."""
    blamed = {target.name: set(rules_of(seen.messages) or ()) for target, seen, _ in found}
    names = [*judgement.broken_names, *judgement.unknown_names]
    others = sorted(set().union(*blamed.values()) - set(names)) if blamed else []
    if names or others:
        yield "rule by rule:"
    for name in [*names, *others]:
        verdict = "unknown" if name in judgement.unknown_names else "broken"
        by_rules = verdict if name in names else "held"
        by_targets = [f"{target} blames it" for target, rules in blamed.items() if name in rules]
        yield f"    {name}: " + ", ".join([f"rules {by_rules}", *by_targets])
