# SPDX-License-Identifier: GPL-2.0-only
"""Running a command in this process."""

from collections.abc import Callable
from typing import TypeAlias

import pytest

from nvmxfuzz.cli.command_line import run as run_command_line

Run: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit status, what it printed, and what it complained of."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        try:
            status = run_command_line([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run_command
