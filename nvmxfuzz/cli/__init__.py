# SPDX-License-Identifier: GPL-2.0-only
"""The command `nvmxfuzz`: one file per command.

What is in this file is loaded before anything else: it is small, so that Ctrl-C is in good hands
while the rest is being loaded. Everything else is in `command_line`.
"""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130
_SAYING = b"nvmxfuzz: interrupted\n"


def main() -> int:
    """Run the command of `sys.argv`; return the exit status, 130 for Ctrl-C.

    For a process of its own: after the command Ctrl-C ends the process at once, so that it cannot
    interrupt the interpreter's own end, which would say so at length.
    """
    # A shell starts what is in the background with Ctrl-C ignored: then it stays so.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _end_at_once)
    from nvmxfuzz.cli.command_line import run

    try:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        os.write(2, _SAYING)
        return INTERRUPTED
    finally:
        if heeded:
            signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(*_: object) -> None:
    """Handle Ctrl-C where there is nothing to lose.

    No exception: within a callback of the interpreter one would be printed and forgotten.
    """
    os.write(2, _SAYING)
    os._exit(INTERRUPTED)
