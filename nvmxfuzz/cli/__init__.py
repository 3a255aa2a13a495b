# SPDX-License-Identifier: GPL-2.0-only
"""The command `nvmxfuzz`: one file per command.

What is in this file is loaded before anything else: it is small, so that Ctrl-C is in good hands
while the rest is being loaded. Everything else is in `command_line`.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

INTERRUPTED = 130
_SAYING = b"nvmxfuzz: interrupted\n"
_SHOW_CURSOR = b"\x1b[?25h"


def main() -> int:
    """Run the command of `sys.argv`; return the exit status, 130 for Ctrl-C.

    For a process of its own: after the command Ctrl-C ends the process at once, so that it cannot
    interrupt the interpreter's own end, which would say so at length.
    """
    # A shell starts what is in the background with Ctrl-C ignored: then it stays so.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, end_at_once)
    from nvmxfuzz.cli.command_line import run

    try:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        with suppress(OSError):
            os.write(2, _SAYING)
        return INTERRUPTED
    finally:
        if heeded:
            signal.signal(signal.SIGINT, end_at_once)


def end_at_once(*_: object) -> None:
    """Handle Ctrl-C where there is nothing to lose, or where somebody insists.

    No exception: within a callback of the interpreter one would be printed and forgotten.
    """
    with suppress(OSError):
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)  # a status line hides it
        os.write(2, _SAYING)
    os._exit(INTERRUPTED)
