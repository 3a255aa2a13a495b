# SPDX-License-Identifier: GPL-2.0-only
"""The table of a case file that says what the case shows."""

from __future__ import annotations

import pytest

from nvmxfuzz.errors import InputError
from nvmxfuzz.inputs.case import CASE_KINDS, CaseKind
from nvmxfuzz.inputs.codec import decode
from nvmxfuzz.inputs.expectation import Vector
from nvmxfuzz.inputs.shown import Shown
from nvmxfuzz.inputs.text import dump_text, load_text

SHOWN = Shown("an.oracle", ("a.rule", "b.rule"), ("cpu", "kvm-6.12"), 'a "site"', "kvm-6.12")


@pytest.mark.parametrize("kind", CASE_KINDS)
@pytest.mark.parametrize("shown", [SHOWN, Shown("an.oracle", (), ("a", "b"))])
def test_it_is_read_as_it_was_written_in_cases_of_every_kind(kind: CaseKind, shown: Shown) -> None:
    vector = Vector(decode(b"", kind), shown=shown)
    assert load_text(dump_text(vector).encode(), "file") == vector


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('between = ["a", "b"]', "names no oracle"),
        ('oracle = "x"\nbetween = ["a"]', "give the names of the two sides"),
        ('oracle = "x"', "give the names of the two sides"),
        ('oracle = "x"\nbetween = ["a", 3]', "give a list of names"),
        ('oracle = "x"\nbetween = ["a", "b"]\nrule = "c"', "has no key 'rule'"),
        ('oracle = 3\nbetween = ["a", "b"]', "oracle"),
    ],
)
def test_what_is_wrong_with_it_is_a_sentence(table: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as problem:
        load_text(f"[finding]\n{table}\n".encode(), "a file")
    assert str(problem.value).startswith("a file: ")
