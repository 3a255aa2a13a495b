# SPDX-License-Identifier: GPL-2.0-only
"""The report as one page that needs nothing from elsewhere.

Its policy lets a browser load nothing and run no script but the one that is in it, known by its
hash; whatever is from a store is escaped by the templates.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from functools import cache

import jinja2
from markupsafe import Markup, escape

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.inputs.case import EntryCase
from nvmxfuzz.reports.campaign import content, plots
from nvmxfuzz.reports.campaign.content import Report, clipped
from nvmxfuzz.reports.reproduction import vmcs_of, who
from nvmxfuzz.reports.status import STATES, duration

_MOST_RANGES = 200
_BREAK = re.compile(r"([._/-]|-&gt;)(?=\w)")


def to_html(report: Report) -> str:
    """Return the page."""
    templates = environment()
    script = templates.get_template("report.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = tuple(plots.plots_of(report.samples, report.series))
    return templates.get_template("report.html.j2").render(
        report=report,
        state=STATES[report.standing.state],
        script=script,
        digest=digest,
        plots=drawn,
        shape=plots,
        bounds=content,
    )


@cache
def environment() -> jinja2.Environment:
    """Return the templates of this package: all they print is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "breaks": _breaks,
        "clipped": clipped,
        "date": _date,
        "duration": duration,
        "macro": _macro,
        "ranges": ranges,
        "vmcs": vmcs_of,
        "who": who,
        "is_entry": lambda case: isinstance(case, EntryCase),
    }
    return made


def ranges(lines: tuple[int, ...]) -> str:
    """Return ascending numbers in short: 3-5, 9."""
    found: list[list[int]] = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    texts = [f"{one}" if one == last else f"{one}-{last}" for one, last in found[:_MOST_RANGES]]
    return ", ".join(texts) + (" ..." if len(found) > _MOST_RANGES else "")


def _breaks(text: str) -> Markup:
    """Return a name that may be broken where it has its own breaks, and not within words."""
    return Markup(_BREAK.sub(r"\1<wbr>", str(escape(text))))


def _macro(name: str) -> str:
    """Return the kernel's name of a field of the VMCS, "" for what is none."""
    field = FIELD_BY_NAME.get(name)
    return field.macro or "" if field else ""


def _date(seconds: int) -> str:
    """Return a time since 1970 as a date; a number that is none as it is."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return clipped(str(seconds), 40)
