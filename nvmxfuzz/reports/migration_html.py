# SPDX-License-Identifier: GPL-2.0-only
"""A migration as one page: no script, nothing from elsewhere, readable on a phone and at night.

It is well-formed XML as well, so that any parser takes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Final

from nvmxfuzz.machine.outside import printable
from nvmxfuzz.oracles.migration.policies import Consequence
from nvmxfuzz.oracles.migration.table import FATES, MsrFate
from nvmxfuzz.reports.migration import (
    FATE_TEXT,
    POLICY_TEXT,
    MigrationReport,
    entry_text,
    fate_names,
    labels,
    number,
    written,
)


class Markup(str):
    """What needs no escaping any more."""

    __slots__ = ()


_STYLE: Final = """
:root { color-scheme: light dark; --line: #8886; --good: #1a7f37; --bad: #b42318; --new: #0a5cad; }
@media (prefers-color-scheme: dark) {
  :root { --good: #56d364; --bad: #ff8b80; --new: #79b8ff; }
}
body { font: 1rem/1.45 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem;
  overflow-wrap: break-word; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0;
  border-bottom: 1px solid var(--line); }
code { font-size: .9em; }
.values li { white-space: nowrap; }
ul { margin: 0; padding-left: 1.1rem; }
.kept, .yes { color: var(--good); } .lost, .refused, .no { color: var(--bad); }
.gained { color: var(--new); }
@media (max-width: 60rem) {
  thead { display: none; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td, tbody th { display: block; border: 0; padding: .1rem 0; }
  td:empty { display: none; }
  td[data-label]::before { content: attr(data-label) ": "; opacity: .7; }
}
"""

_ILLEGAL: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold, not even escaped."""


def to_html(report: MigrationReport) -> str:
    """Return the page."""
    title = f"{report.source.kernel} to {report.destination.kernel}: {report.verdict}"
    head = _tag(
        "head",
        Markup('<meta charset="utf-8"/>'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1"/>'),
        _tag("title", title),
        _tag("style", Markup(_STYLE)),
    )
    body = _tag("body", _tag("main", *_sections(report, title)))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def _tag(name: str, *children: str, **attributes: str) -> Markup:
    """Return an element; of a child that is plain text every character is shown as it is."""
    inner = "".join(child if isinstance(child, Markup) else _text(child) for child in children)
    given = "".join(
        f' {key.replace("_", "-").strip("-")}="{_text(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{inner}</{name}>")


def _text(text: str) -> str:
    return escape(_ILLEGAL.sub("\ufffd", text))


def _sections(report: MigrationReport, title: str) -> Iterable[Markup]:
    yield _tag("h1", title)
    yield _tag("p", f"From {report.source} to {report.destination}.")
    yield from (_tag("p", f"Note: {printable(note)}.") for note in report.notes)
    yield _tag("h2", "Capabilities")
    yield _totals(report)
    yield _tag("h2", "MSR by MSR")
    yield _msrs(report)
    yield _tag("h2", "What a restore could do instead")
    yield _policies(report.policies)
    for each in report.policies:
        yield from _consequence(each)
    if report.differences is not None:
        yield _tag("h2", "Model and kernel")
        yield (
            _list(report.differences)
            if report.differences
            else _tag("p", "The model says the same as the kernels that were asked.")
        )


def _table(headings: tuple[str, ...], rows: Iterable[Markup], caption: str) -> Markup:
    titles = (_tag("th", heading, scope="col") for heading in headings)
    return _tag(
        "table",
        _tag("caption", caption, style="text-align: left; opacity: .7"),
        _tag("thead", _tag("tr", *titles)),
        _tag("tbody", *rows),
    )


def _cell(label: str, *children: str, **attributes: str) -> Markup:
    return _tag("td", *children, data_label=label, **attributes)


def _totals(report: MigrationReport) -> Markup:
    totals = report.table.totals
    rows = (
        _tag(
            "tr",
            _tag("th", fate, scope="row", class_=fate),
            _cell("bits", str(totals[fate])),
            _cell("meaning", FATE_TEXT[fate]),
        )
        for fate in FATES
    )
    return _table(("fate", "bits", "meaning"), rows, "How many bits have which fate.")


def _msrs(report: MigrationReport) -> Markup:
    headings = ("MSR", "values", "written", "bits")
    rows = (_msr(row) for row in report.table.msrs)
    return _table(headings, rows, "What the VM had, has there, and what a new VM has there.")


def _msr(row: MsrFate) -> Markup:
    values = (("had", row.source), ("has", row.carried), ("new VM", row.fresh))
    shown = (_tag("li", f"{name} ", _tag("code", number(value))) for name, value in values)
    state = "refused" if row.write == "refused" else "kept"
    return _tag(
        "tr",
        _tag("th", f"{row.index:#x} {row.name}", scope="row"),
        _cell("values", _tag("ul", *shown), class_="values"),
        _cell("written", written(row), class_=state),
        _cell("bits", *_bits(row)),
    )


def _bits(row: MsrFate) -> Iterable[Markup]:
    for fate in reversed(FATES):
        names = fate_names(row, fate)
        if names and fate == "kept":
            summary = _tag("summary", f"{len(names)} kept", class_=fate)
            yield _tag("details", summary, _list(names))
        elif names:
            yield _tag("div", _tag("strong", fate, class_=fate), _list(names))


def _list(texts: Iterable[str]) -> Markup:
    return _tag("ul", *(_tag("li", text) for text in texts))


def _policies(policies: tuple[Consequence, ...]) -> Markup:
    headings = ("policy", "arrives", "vanished", "not backed", "entries that fail")
    return _table(headings, (_policy(each) for each in policies), "What L1 sees of each policy.")


def _policy(consequence: Consequence) -> Markup:
    name = _tag("th", f"{consequence.policy}: {POLICY_TEXT[consequence.policy]}", scope="row")
    if not consequence.arrives:
        return _tag("tr", name, _cell("arrives", "no", class_="no"), *[_tag("td", "")] * 3)
    failing = f"{len(consequence.failing)} of {consequence.tried}"
    return _tag(
        "tr",
        name,
        _cell("arrives", "yes", class_="yes"),
        _cell("vanished", str(len(consequence.vanished))),
        _cell("not backed", str(len(consequence.unbacked))),
        _cell("entries that fail", failing, class_="no" if consequence.failing else "yes"),
    )


def _consequence(consequence: Consequence) -> Iterable[Markup]:
    parts = (
        ("L1 is offered no more", labels(consequence.vanished)),
        ("L1 is offered, and this KVM does not have", labels(consequence.unbacked)),
        ("Enters no more", [entry_text(each) for each in consequence.failing]),
        ("No VM entry used it before", labels(consequence.unused)),
    )
    if any(texts for _, texts in parts):
        yield _tag("h3", f"If a restore would {consequence.policy}")
    for title, texts in parts:
        if texts:
            yield _tag("p", title)
            yield _list(texts)
