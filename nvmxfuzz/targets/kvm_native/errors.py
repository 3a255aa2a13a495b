# SPDX-License-Identifier: GPL-2.0-only
"""Errors that KVM returns, as exceptions."""

from __future__ import annotations

import errno


class IoctlError(OSError):
    """An error number that KVM returned: a legal result of a case, not a defect of the harness.

    `name` is the command's ("KVM_SET_SREGS"), or "insmod". The text has the error's name, not its
    message, which depends on the language.
    """

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, f"{name}: {errno.errorcode.get(number, number)}")
        self.name = name

    def __reduce__(self) -> tuple[type[IoctlError], tuple[int, str]]:
        return IoctlError, (self.errno or 0, self.name)

    def __str__(self) -> str:
        return str(self.strerror)
