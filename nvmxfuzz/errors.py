# SPDX-License-Identifier: GPL-2.0-only
"""The one exception for what a user can do wrong."""


class InputError(Exception):
    """Bad input from outside: the message is one sentence that says what was wrong and what to do.

    The command line prints it on stderr and exits with status 2.
    """
