# SPDX-License-Identifier: GPL-2.0-only
"""The command and its files in words that can be typed in the folder it was called from."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

MODULE = "nvmxfuzz.cli"


def command() -> tuple[str, ...]:
    """Return the words with which this command was called, or others that call it as well."""
    script = sys.argv[0]
    if not script.endswith(".py") and os.path.isfile(script) and os.access(script, os.X_OK):
        found = shutil.which(os.path.basename(script))
        if found is not None and os.path.samefile(found, script):
            return (os.path.basename(script),)
        typed = typed_path(Path(script))
        # Without a slash a shell would look for it elsewhere.
        return (typed if os.sep in typed else os.path.join(os.curdir, typed),)
    return (sys.executable, "-m", MODULE)


def typed_path(path: Path) -> str:
    """Return a path as one would type it here: relative if the file is below this folder."""
    try:
        here = Path.cwd()
        path = path.absolute()
    except OSError:  # this folder is not there any more
        return str(path)
    typed = str(path.relative_to(here) if path.is_relative_to(here) else path)
    # What begins with a dash would be taken for an option.
    return os.path.join(os.curdir, typed) if typed.startswith("-") else typed
