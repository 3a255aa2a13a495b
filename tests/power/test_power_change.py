# SPDX-License-Identifier: GPL-2.0-only
"""A piece of a module becomes another, in the one process that asks for it."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.power.change import Change, changed, make

SOURCE = """
LIMIT = 3

class Door:
    def is_open(self, key: int) -> bool:
        if key & 1 or key & 1:
            return True
        self.tries = key
        return False
"""


def text(function: str, before: str, becomes: str, nth: int = 0) -> str:
    return ast.unparse(changed(SOURCE, Change("door", function, before, becomes, nth)))


def test_an_expression_is_replaced() -> None:
    assert "if key & 2 or key & 1:" in text("Door.is_open", "key & 1", "key & 2")


def test_the_nth_one_is_replaced() -> None:
    assert "if key & 1 or key & 2:" in text("Door.is_open", "key & 1", "key & 2", nth=1)


def test_a_statement_is_replaced() -> None:
    assert "self.tries" not in text("Door.is_open", "self.tries = key", "pass")


def test_the_module_itself_has_statements() -> None:
    assert "LIMIT = 4" in text("", "LIMIT = 3", "LIMIT = 4")


@pytest.mark.parametrize(
    ("function", "before", "nth", "said"),
    [
        ("Door.is_shut", "key", 0, "no Door.is_shut"),
        ("Door.is_open", "key & 4", 0, "stands 0 time"),
        ("Door.is_open", "key & 1", 2, "stands 2 time"),
    ],
)
def test_what_has_no_place_is_an_error(function: str, before: str, nth: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        text(function, before, "0", nth)


def test_it_is_made_when_the_module_is_imported() -> None:
    program = (
        "from nvmxfuzz.power.change import Change, make\n"
        "make(Change('nvmxfuzz.arch.exit_reasons', '', '34', '35'))\n"
        "make(Change('nvmxfuzz.arch.exit_reasons', '', '33', '36'))\n"
        "from nvmxfuzz.arch.exit_reasons import ExitReason\n"
        "print(sorted(value for value in vars(ExitReason).values() if value in range(33, 37)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[35, 36, 36]"


def test_too_late_is_an_error() -> None:
    with pytest.raises(InputError, match="too late"):
        make(Change("nvmxfuzz.errors", "", "1", "2"))
