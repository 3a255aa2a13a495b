# SPDX-License-Identifier: GPL-2.0-only
"""What all tests have in common."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Let Ctrl-C be what it is: a shell that puts a job into the background has it ignored.

    What is ignored stays so in programs that are started, and some tests send it to a campaign.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
