# SPDX-License-Identifier: GPL-2.0-only
"""The templates of what is exported, and what makes text from outside harmless in them."""

from __future__ import annotations

import re
from functools import cache

import jinja2


@cache
def environment() -> jinja2.Environment:
    """Return the templates of this package; a name that one lacks is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # no HTML; what comes from outside goes through one_line()
    )


def one_line(text: str) -> str:
    """Return a text that ends no comment of C, and no docstring of Python."""
    return " ".join(
        text.replace("*/", "* /").replace("/*", "/ *").replace('"', "'").replace("\\", "/").split()
    )


def symbol(name: str) -> str:
    """Return a name in C and Python for what is called `name`."""
    found = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:60]
    return found if found and not found[0].isdigit() else f"case_{found}"
