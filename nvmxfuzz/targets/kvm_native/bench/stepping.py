# SPDX-License-Identifier: GPL-2.0-only
"""Executing one call of this process instruction by instruction, in a child, by ptrace(2).

The child is a fork: it has the same objects at the same addresses, and what it does to them is
gone with it. Each instruction is seen, none is estimated: the trace is the same each time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from nvmxfuzz.errors import InputError

MOST_STEPS: Final = 5_000_000
"""How many instructions a call may have, those of what stands below it included."""

_TRACEME: Final = 0
_PEEKTEXT: Final = 1
_POKETEXT: Final = 4
_POKEUSER: Final = 6
_CONT: Final = 7
_SINGLESTEP: Final = 9
_GETREGS: Final = 12
_REGISTERS: Final = 27
"""Words of struct user_regs_struct, of which two are wanted."""
_RIP: Final = 16
_RSP: Final = 19
_WORD: Final = (1 << 64) - 1
_WORD_SIZE: Final = 8
_BREAKPOINT: Final = 0xCC


class Step(NamedTuple):
    """An instruction about to be executed: where it is, and the stack pointer."""

    pc: int
    sp: int


def trace(work: Callable[[], object], start: int, number: int = 1) -> list[Step]:
    """Return the instructions of a call of the function at `start` that `work` makes.

    It is the first call, or that of another number. The instructions end with the return. A string
    instruction that repeats is one. InputError if the system refuses.
    """
    if platform.machine() != "x86_64":
        raise InputError("counting instructions needs an x86-64 computer: use one")
    with _stopped_before(work) as child:
        if not all(_run_to(child, start) for _ in range(number)):
            raise InputError("the call to be counted is not made: there is nothing to count")
        steps = [_here(child)]
        for step in _steps_of(child):
            if step.sp > steps[0].sp:
                return steps
            if step.pc != steps[-1].pc:
                steps.append(step)
    raise InputError("the call to be counted does not return: its instructions cannot be counted")


@contextmanager
def _stopped_before(work: Callable[[], object]) -> Iterator[int]:
    """Yield the number of a traced child that waits to do `work`; it is gone afterwards."""
    child = os.fork()
    if child == 0:
        _be_traced(work)
    try:
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            raise InputError("the system does not let a process be traced: allow ptrace")
        yield child
    finally:
        _end(child)


def _be_traced(work: Callable[[], object]) -> None:
    """Do `work` as a child, and end."""
    try:
        if _ptrace(_TRACEME, 0, 0, 0) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
    finally:
        # Nothing of the parent's may be flushed or cleaned up twice.
        os._exit(1)


def _end(child: int) -> None:
    try:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _run_to(child: int, start: int) -> bool:
    """Let a child run to the beginning of a function, after where it is; tell whether it came."""
    _step(child)
    word = _ptrace(_PEEKTEXT, child, start, 0) & _WORD
    _ptrace(_POKETEXT, child, start, word & ~0xFF | _BREAKPOINT)
    if _resume(child, _CONT) != signal.SIGTRAP:
        return False
    _ptrace(_POKETEXT, child, start, word)
    _ptrace(_POKEUSER, child, _RIP * _WORD_SIZE, start)
    return True


def _steps_of(child: int) -> Iterator[Step]:
    """Yield each instruction of a stopped child behind the current one, before it is executed."""
    for _ in range(MOST_STEPS):
        if not _step(child):
            return
        yield _here(child)


def _step(child: int) -> bool:
    """Let a child execute an instruction; tell whether it is still there."""
    return _resume(child, _SINGLESTEP) is not None


def _resume(child: int, how: int) -> int | None:
    """Let a child go on to its next trap, None if it ends; other signals it gets."""
    passed_on = 0
    while True:
        _ptrace(how, child, 0, passed_on)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            return None
        passed_on = os.WSTOPSIG(status)
        if passed_on == signal.SIGTRAP:
            return passed_on


def _here(child: int) -> Step:
    registers = (ctypes.c_ulong * _REGISTERS)()
    _ptrace(_GETREGS, child, 0, ctypes.addressof(registers))
    return Step(registers[_RIP], registers[_RSP])


def _ptrace(request: int, process: int, address: int, data: int) -> int:
    return int(_PTRACE(request, process, address, data))


_PTRACE: Final = ctypes.CDLL(None, use_errno=True).ptrace
_PTRACE.restype = ctypes.c_long
_PTRACE.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong)
