# SPDX-License-Identifier: GPL-2.0-only
"""The programs that a build needs, and the Debian package that each comes in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.shell import tool_environment

PACKAGES: Final = MappingProxyType(
    {
        "gcc": "gcc",
        "make": "make",
        "flex": "flex",
        "bison": "bison",
        "bc": "bc",
        "ld": "binutils",
        "nm": "binutils",
        "objcopy": "binutils",
        "readelf": "binutils",
        "tar": "tar",
        "xz": "xz-utils",
        "gzip": "gzip",
        "bzip2": "bzip2",
        "zstd": "zstd",
        "clang": "clang",
    }
)
ALWAYS: Final = ("gcc", "make", "flex", "bison", "bc", "ld", "nm", "objcopy", "readelf")


def demand_tools(names: Iterable[str]) -> None:
    """InputError with the command that installs them if some are not there."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = dict.fromkeys(PACKAGES[name] for name in missing)
        raise InputError(
            f"the build needs {', '.join(missing)}: run apt-get install {' '.join(packages)}"
        )


def demand_headers(compiler: str) -> None:
    """InputError if the compiler does not find the headers of the C library."""
    words = [compiler, "-E", "-include", "stdio.h", "-x", "c", "/dev/null"]
    if _run(words).returncode != 0:
        raise InputError(f"{compiler} has no stdio.h: run apt-get install libc6-dev")


def compiler_version(compiler: str) -> str:
    """Return the first line of what a compiler says of itself; InputError if it does not run."""
    done = _run([compiler, "--version"])
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise InputError(f"{compiler} does not run: install it again")
    return lines[0]


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=tool_environment(),
        )
    except OSError as error:
        raise InputError(f"{words[0]} does not run ({error.strerror}): install it again") from error
