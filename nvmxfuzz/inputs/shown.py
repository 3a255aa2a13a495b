# SPDX-License-Identifier: GPL-2.0-only
"""What a case file says that its case shows: the table `finding`, which a replay asks about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs import values
from nvmxfuzz.machine.outside import show

_KEYS: Final = ("oracle", "rules", "between", "site", "target")


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding as far as its identity goes: who is at odds with whom (`between`), over what.

    `target` is the target it shows on, "" where it takes none.
    """

    oracle: str
    rules: tuple[str, ...]
    between: tuple[str, str]
    site: str = ""
    target: str = ""


def parse_shown(table: Mapping[str, Any]) -> Shown:
    """Return the finding that the table `finding` states."""
    values.only_keys(table, _KEYS, "finding")
    oracle = values.text(table, "oracle", "")
    if not oracle:
        raise InputError("finding names no oracle; give the name of one, such as 'entry.dry-run'")
    between = values.names(table, "between")
    if len(between) != 2:
        raise InputError(f"between is {show(list(between))}; give the names of the two sides")
    return Shown(
        oracle,
        values.names(table, "rules"),
        (between[0], between[1]),
        values.text(table, "site", ""),
        values.text(table, "target", ""),
    )


def shown_table(shown: Shown) -> dict[str, Any]:
    """Return the table `finding`, without what it need not say."""
    table: dict[str, Any] = {"oracle": shown.oracle}
    if shown.rules:
        table["rules"] = list(shown.rules)
    table["between"] = list(shown.between)
    if shown.site:
        table["site"] = shown.site
    if shown.target:
        table["target"] = shown.target
    return table
