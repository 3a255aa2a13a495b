# SPDX-License-Identifier: GPL-2.0-only
"""Verdicts as coverage: what libFuzzer is told of a run.

libFuzzer takes any array of bytes as 8-bit coverage counters if it is registered through two
public functions of the sanitizer-coverage interface, which the extension module of Atheris that
contains libFuzzer exports. Writing a counter costs some 20 ns, where the bytecode instrumentation
of Atheris costs seven times as much for each basic block, and cannot tell the rules of a table
apart. The counters of a KVM that was built with coverage go the same way. The way in is not
documented by Atheris: all of it is in this module, and whoever calls it is told by
`FeedbackUnavailableError` to do without.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Sequence

from nvmxfuzz.campaign.harness import Verdicts

_LIBFUZZER_MODULE = "atheris.core_with_libfuzzer"
_MUTATOR_MODULES = ("atheris.custom_mutator", "atheris.custom_crossover")
_FIRST_PC = 1 << 32
_FUNCTION_ENTRY = 1
_PC_ENTRY = 16
_ONES = bytes.maketrans(b"01", b"\x00\x01")


class FeedbackUnavailableError(Exception):
    """Counters of our own cannot be given to libFuzzer in the Atheris that is installed."""


class Counters:
    """Counters that libFuzzer reads and clears around each input.

    `cells[i] = 1` marks feature i of the current input. Once registered they must live as long as
    the process: libFuzzer keeps their address.
    """

    def __init__(self, size: int) -> None:
        self.cells = bytearray(size)
        self._memory = (ctypes.c_uint8 * size).from_buffer(self.cells)
        # A table of program counters must go with them, two words each: address and flags.
        self._pcs = (ctypes.c_uint64 * (2 * size))()
        for index in range(size):
            self._pcs[2 * index] = _FIRST_PC + index
            self._pcs[2 * index + 1] = _FUNCTION_ENTRY

    def register(self) -> None:
        """Make libFuzzer read them; FeedbackUnavailableError if this Atheris has no way in."""
        register(ctypes.addressof(self._memory), ctypes.addressof(self._pcs), len(self.cells))


def register(counters: int, table: int, number: int) -> None:
    """Make libFuzzer read `number` counters at an address, with the PC table at another.

    FeedbackUnavailableError if this Atheris has no way in.
    """
    try:
        core = importlib.import_module(_LIBFUZZER_MODULE)
        library = ctypes.CDLL(core.__file__)
        counters_init = library["__sanitizer_cov_8bit_counters_init"]
        pcs_init = library["__sanitizer_cov_pcs_init"]
    except (ImportError, OSError, AttributeError) as error:
        raise FeedbackUnavailableError(str(error)) from error
    for init, start, size in ((counters_init, counters, 1), (pcs_init, table, _PC_ENTRY)):
        init.restype = None
        init(ctypes.c_void_p(start), ctypes.c_void_p(start + size * number))


def load_mutators() -> None:
    """Load what passes libFuzzer's calls for a mutation on to Python: before any counters.

    libFuzzer looks for them when it is loaded itself, and never again: as weak symbols, for all the
    process to see. `atheris.Fuzz` would load them too late, and libFuzzer do without them in
    silence. Whoever calls this is to give `atheris.Setup` both, a mutator and a crossover.
    """
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_GLOBAL | os.RTLD_LAZY)
    try:
        for name in _MUTATOR_MODULES:
            importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise FeedbackUnavailableError(str(error)) from error
    finally:
        sys.setdlopenflags(flags)


class VerdictFeedback:
    """Turns the verdicts of a run into features, four for each point.

    They are: asked where the first run was not, or the other way round (and not broken); broken;
    the only one broken; unknown. What every run shares is no feature, which keeps libFuzzer fast,
    and the features of an input depend on nothing but the input and the first one. "The only one
    broken" steers best: it rewards states that are valid but for one rule.
    """

    FEATURES = 4

    def __init__(self, counters: Counters, points: int) -> None:
        self._counters = counters
        self._cells = counters.cells
        self._points = points
        self._usual: int | None = None

    def note(self, verdicts: Verdicts) -> None:
        """Mark the features of one run."""
        cells = self._cells
        points = self._points
        asked = verdicts.asked
        if self._usual is None:
            self._usual = asked
        broken = _mark(cells, points, verdicts.broken)
        if broken and broken & (broken - 1) == 0:
            cells[2 * points + verdicts.broken[0]] = 1
        _mark(cells, 3 * points, verdicts.unknown)
        # Formatting in base two is the fastest way to spread the bits of an int over bytes.
        changed = (asked ^ self._usual) & ~broken
        cells[:points] = f"{changed:0{points}b}".encode().translate(_ONES)


def _mark(cells: bytearray, offset: int, points: Sequence[int]) -> int:
    """Set the cell of each point; return the points as a mask."""
    mask = 0
    for point in points:
        mask |= 1 << point
        cells[offset + point] = 1
    return mask
