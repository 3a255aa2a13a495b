# SPDX-License-Identifier: GPL-2.0-only
"""One instance of KVM in this process: guarded calls into the built object, and its state.

The object is loaded from a copy in memory. So each `Library` is an instance of its own (the loader
takes two files of one path for the same library), and nothing happens to it if the file is built
again. An object that has been loaded stays until the process ends, since signal handlers lead into
it. There is nothing to close, and a program that needs many machines restores one library instead
of loading many: each takes 1 GiB of addresses, of which it uses some MiB.

Everything is for one thread, and the lock of the interpreter is held during calls.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Callable, Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native import native
from nvmxfuzz.targets.kvm_native.build.objects import BuiltObject, sound_content
from nvmxfuzz.targets.kvm_native.parameters import Parameter, Parameters
from nvmxfuzz.targets.kvm_native.reading import ResultReader
from nvmxfuzz.targets.kvm_native.results import CallResult, Stopped
from nvmxfuzz.targets.kvm_native.symbols import Symbols, code_of

PortFunction = Callable[[native.Entry], int]
"""The hardware port: gets an entry, and says what nvmx_port of shim/nvmx.h does."""

_PORT_FAILED: Final = -1
_FREE: Final = ""
_NOT_RESTORED: Final = "the last call did not return: restore a snapshot before the next one"
_IN_PORT: Final = "the hardware port cannot call what is guarded: KVM is in the middle of a call"
_NO_SNAPSHOT: Final = -1
_NO_MEMORY: Final = -2
"""Of enum nvmx_refusal."""
_MOST_SNAPSHOTS: Final = 64
_MSR: Final = struct.Struct("<II Q")
_CPUID: Final = struct.Struct("<6I")


class Library:
    """One instance. `functions` are those of shim/nvmx.h that need no guard, by name.

    Arguments that stand for memory are an address, bytes, an array, byref() of a structure or
    None. `pristine` is a snapshot of the state after loading.
    """

    def __init__(
        self, path: Path, symbols: Path | None = None, content: bytes | None = None
    ) -> None:
        """Load the object at `path`; `symbols` is the output of nm for it.

        `content` is what the file holds, if it has been read already.
        """
        data = path.read_bytes() if content is None else content
        self._library = _load(data, path)
        self._call = _address(self._library, "nvmx_call")
        self._prepared: dict[str, Callable[..., int]] = {}
        self._barred = _FREE
        self._port: PortFunction | None = None
        self._port_error: BaseException | None = None
        self._enter = native.Port(self._entered)
        self.functions = _Functions(self._library)
        self.symbols = Symbols(symbols, code_of(data))
        self.reader = ResultReader(native.Result.in_dll(self._library, "nvmx_result"), self.symbols)
        self._steps = ctypes.c_uint32.in_dll(self._library, "nvmx_step_limit")
        self._seconds = ctypes.c_uint32.in_dll(self._library, "nvmx_seconds")
        self._restore = self.functions.nvmx_restore
        self.functions.nvmx_install_signal_handlers()
        try:
            self.pristine = self.snapshot()
        except InputError as error:
            if not _address_limit():
                raise
            raise InputError(
                f"the built object {path.name} has no room{_beyond_limit()}"
            ) from error

    @classmethod
    def of(cls, built: BuiltObject) -> Self:
        """Load what was built; InputError if it is damaged."""
        return cls(built.path, built.symbols, sound_content(built))

    # ------------------------------------------------------------------ calls

    def call(self, name: str, *arguments: Any) -> int:  # noqa: ANN401 # as ctypes takes them
        """Call a function that shim/nvmx.h marks as guarded; Stopped if it does not return."""
        function = self._prepared.get(name)
        if function is None:
            function = self._prepared[name] = self.prepare(name)
        return function(*arguments)

    def prepare(self, name: str) -> Callable[..., int]:
        """Return a function that calls `name` guarded: for loops, it is faster than `call`."""
        result, arguments = native.GUARDED[name]
        # nvmx_call() hands on six arguments; those that the function does not have may be
        # anything. Converting six of them would cost more than the call.
        enter = ctypes.PYFUNCTYPE(result, ctypes.c_void_p, *arguments)(self._call)
        function = _address(self._library, name)
        status = self.reader.words
        at = self.reader.STATUS

        def call(*values: Any) -> int:  # noqa: ANN401
            if self._barred:
                raise RuntimeError(self._barred)
            value: int = enter(function, *values)
            if status[at]:
                raise self._stop()
            return value

        return call

    def _stop(self) -> BaseException:
        self._barred = _NOT_RESTORED
        error, self._port_error = self._port_error, None
        if error is not None and not isinstance(error, Exception):
            # Somebody wants the program to end.
            return error
        stopped = Stopped(self.reader.result())
        stopped.__cause__ = error
        return stopped

    def run_burst(self, burst: native.Burst) -> None:
        """Run a burst, whose calls C guards itself; the state is that of its snapshot then.

        An error of the hardware port is what came of a neighbour, and ended the burst.
        """
        if self._barred:
            raise RuntimeError(self._barred)
        refusal = self.functions.nvmx_run_burst(ctypes.byref(burst))
        error, self._port_error = self._port_error, None
        if refusal:
            self._barred = _NOT_RESTORED
            raise InputError("a burst found no memory to restore its snapshot: leave more")
        if error is not None and not isinstance(error, Exception):
            raise error

    @property
    def stopped(self) -> bool:
        """Whether the last call did not return, and nothing has been restored since."""
        return self._barred is _NOT_RESTORED

    def result(self) -> CallResult:
        """Return what came of the last guarded call."""
        return self.reader.result()

    def forget_once(self) -> None:
        """Let what the kernel warns about or prints only once be reported again."""
        self.functions.nvmx_forget_once()

    # ------------------------------------------------------------------ limits

    @property
    def step_limit(self) -> int:
        """How many steps (field and MSR accesses, entries, allocations) a call may take."""
        return int(self._steps.value)

    @step_limit.setter
    def step_limit(self, steps: int) -> None:
        self._steps.value = steps

    @property
    def seconds(self) -> int:
        """How long a call may take; 0 is for ever."""
        return int(self._seconds.value)

    @seconds.setter
    def seconds(self, seconds: int) -> None:
        self._seconds.value = seconds

    # ------------------------------------------------------------------ the whole state

    def snapshot(self) -> int:
        """Remember all state: data of the object, heap, guest memory; return its number.

        There can be 64 at a time, `pristine` among them; InputError if this is one more.
        """
        if self._barred:
            raise RuntimeError(self._barred)
        number: int = self.functions.nvmx_snapshot()
        if number == _NO_SNAPSHOT:
            raise InputError(
                f"there are {_MOST_SNAPSHOTS} snapshots, which is the most: discard some"
            )
        if number < 0:
            raise InputError("a snapshot found no memory: discard others, or leave more memory")
        return number

    def restore(self, number: int | None = None) -> None:
        """Go back to a snapshot, `pristine` if none is named.

        The limits, the port and the last result are not part of it.
        """
        if self._barred is _IN_PORT:
            raise RuntimeError(_IN_PORT)
        chosen = self.pristine if number is None else number
        refusal = self._restore(chosen)
        if refusal == _NO_MEMORY:
            self._barred = _NOT_RESTORED
            raise InputError("restoring a snapshot found no memory: leave more, and restore again")
        if refusal:
            raise ValueError(f"there is no snapshot {chosen}")
        self._barred = _FREE

    def discard(self, number: int) -> None:
        """Give a snapshot's memory back."""
        self.functions.nvmx_discard(number)

    def heap_used(self) -> int:
        """Return how many bytes of kernel memory are allocated."""
        return int(self.functions.nvmx_heap_used())

    # ------------------------------------------------------------------ what KVM finds

    @cached_property
    def parameters(self) -> Parameters:
        """The module parameters by name."""
        found: dict[str, Parameter] = {}
        address, kind = ctypes.c_void_p(), ctypes.c_int()
        while True:
            name = self.functions.nvmx_parameter(
                len(found), ctypes.byref(address), ctypes.byref(kind)
            )
            if name is None:
                return Parameters(found)
            found[name.decode()] = Parameter(name.decode(), address.value or 0, kind.value)

    @cached_property
    def kernel_version(self) -> tuple[int, int, int]:
        """The version of the kernel that the object was built from."""
        code = int(self.functions.nvmx_kernel_version())
        return code >> 16, code >> 8 & 0xFF, code & 0xFF

    def counters(self) -> tuple[int, int, int]:
        """Return where the 8-bit coverage counters are, where their PC table is, and their number.

        The number is 0 if the object was built without. Restoring leaves the counters alone.
        """
        counters, table = ctypes.POINTER(ctypes.c_ubyte)(), ctypes.c_void_p()
        number = self.functions.nvmx_counters(ctypes.byref(counters), ctypes.byref(table))
        start = ctypes.cast(counters, ctypes.c_void_p).value
        return start or 0, table.value or 0, int(number)

    def counters_of(self, functions: Collection[str]) -> range:
        """Return the numbers of the counters in functions of one file, which lie side by side."""
        _, table, number = self.counters()
        if not number:
            return range(0)
        start = self._call - self.symbols.address("nvmx_call")
        # Two words each: where it is, and flags.
        places = (ctypes.c_uint64 * (2 * number)).from_address(table)[::2]
        names = [self.symbols.place(place - start).partition("+")[0] for place in places]
        within = [at for at, name in enumerate(names) if name in functions]
        return range(within[0], within[-1] + 1) if within else range(0)

    def set_msrs(self, table: Iterable[tuple[int, int]]) -> None:
        """Let the hardware have these MSRs (index, value) and no others."""
        packed = b"".join([_MSR.pack(index, 0, value) for index, value in table])
        self.functions.nvmx_set_msrs(packed, len(packed) // _MSR.size)

    def set_msr(self, index: int, value: int) -> None:
        """Let one MSR of the hardware have a value."""
        self.functions.nvmx_set_msr(index, value)

    def get_msr(self, index: int) -> int | None:
        """Return the value of an MSR of the hardware, None if it is absent."""
        value = ctypes.c_uint64()
        absent = self.functions.nvmx_get_msr(index, ctypes.byref(value))
        return None if absent else int(value.value)

    def set_cpuid(self, table: Iterable[tuple[int, int, int, int, int, int]]) -> None:
        """Let CPUID have these leaves (leaf, subleaf, EAX, EBX, ECX, EDX) and no others."""
        packed = b"".join([_CPUID.pack(*leaf) for leaf in table])
        self.functions.nvmx_set_cpuid(packed, len(packed) // _CPUID.size)

    # ------------------------------------------------------------------ the hardware port

    def set_port(self, port: PortFunction | None) -> None:
        """Let `port` be the processor that executes VM entries; None: each entry is Stopped.

        What it raises ends the call as Stopped, of which it is the cause. It may read and write
        the VMCS and memory, but call nothing that is guarded.
        """
        self._port = port
        self.functions.nvmx_set_port(None if port is None else self._enter)

    def port_of(self, port: PortFunction) -> Any:  # noqa: ANN401 # a ctypes function
        """Return `port` as C calls it; it must live as long as C may."""
        return native.Port(lambda entry: self._ask(port, entry))

    def _entered(self, entry: Any) -> int:  # noqa: ANN401 # a ctypes pointer
        return _PORT_FAILED if self._port is None else self._ask(self._port, entry)

    def _ask(self, port: PortFunction, entry: Any) -> int:  # noqa: ANN401 # a ctypes pointer
        self._barred = _IN_PORT
        try:
            return port(entry.contents)
        except BaseException as error:  # noqa: BLE001 # it must not unwind C: _stop() passes it on
            self._port_error = error
            return _PORT_FAILED
        finally:
            self._barred = _FREE


class _Functions:
    """The unguarded functions as attributes; what the object lacks fails when it is used."""

    def __init__(self, library: ctypes.PyDLL) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 # a ctypes function
        prototype = native.PROTOTYPES.get(name)
        if prototype is None:
            raise AttributeError(f"{name} is no unguarded function of shim/nvmx.h")
        function = getattr(self._library, name)
        function.restype, function.argtypes = prototype
        # From now on the attribute is found without this.
        self.__dict__[name] = function
        return function


def _load(data: bytes, path: Path) -> ctypes.PyDLL:
    # The descriptor is never closed: its number is in the name that the loader goes by. That
    # name has the process in it, so that a debugger can open it too.
    descriptor = os.memfd_create(path.name)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(data)
    try:
        return ctypes.PyDLL(
            f"/proc/{os.getpid()}/fd/{descriptor}", mode=os.RTLD_NOW | os.RTLD_LOCAL
        )
    except OSError as problem:
        os.close(descriptor)
        raise InputError(
            f"the built object {path.name} cannot be loaded{_why_not(str(problem))}"
        ) from None


def _address_limit() -> int:
    """Return how many bytes of addresses this process may have, 0 for any number."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 0 if limit == resource.RLIM_INFINITY else limit


def _beyond_limit() -> str:
    return f" within {_address_limit() >> 20} MiB of addresses: it takes 1 GiB, raise ulimit -v"


def _why_not(said: str) -> str:
    """Return what the loader says, without the name of our copy, or the limit that is too low."""
    if _address_limit() and ("map" in said or "allocate" in said):
        return _beyond_limit()
    return f": {said.rpartition(f'/proc/{os.getpid()}/fd/')[2].partition(': ')[2] or said}"


def _address(library: ctypes.PyDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
