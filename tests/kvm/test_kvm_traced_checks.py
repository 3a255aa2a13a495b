# SPDX-License-Identifier: GPL-2.0-only
"""The digests that lead from a trace event of the kernel to a check of the model."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

from nvmxfuzz import kvm
from nvmxfuzz.kvm.entry_run import UNTRACED
from nvmxfuzz.kvm.traced_checks import OUTER_SITES, SITES, check_names, text_digest

PACKAGE = Path(next(iter(kvm.__path__)))


def test_a_condition_that_nobody_knows_means_no_check() -> None:
    assert check_names("nested_vmx_run", "no such condition") == ()
    assert text_digest("") == "e3b0c442"


def test_a_site_is_a_function_and_eight_digits() -> None:
    for function, digest in (*SITES, *OUTER_SITES):
        assert re.fullmatch(r"[a-z_0-9]+", function)
        assert re.fullmatch(r"[0-9a-f]{8}", digest)
    assert not set(SITES) & set(OUTER_SITES)


def test_a_site_means_checks_that_the_model_makes_and_the_kernel_traces() -> None:
    named = set(chain(*SITES.values(), *OUTER_SITES.values()))
    source = "".join(
        path.read_text() for path in PACKAGE.glob("*.py") if path.name != "traced_checks.py"
    )
    assert {name for name in named if f'"{name}"' not in source} == set()
    assert not named & UNTRACED
