# SPDX-License-Identifier: GPL-2.0-only
"""What is told of a worker that ended: the line that says most."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvmxfuzz.campaign.workers import _last_words


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("", ""),
        ("one\nthe last\n", "the last"),
        (
            "INFO: seed\n === Uncaught Python exception: ===\nInputError: why\nTraceback (most\n"
            '  File "x.py", line 1\n==7== ERROR: libFuzzer: fuzz target exited\nBase64: AQEAB\n',
            "InputError: why",
        ),
        ("early\n" * 5000 + " === Uncaught Python exception: ===\n", " === Uncaught Python"),
    ],
)
def test_the_line_that_says_most_is_told(tmp_path: Path, log: str, told: str) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    assert _last_words(path).startswith(told)
    assert bool(_last_words(path)) is bool(told)
