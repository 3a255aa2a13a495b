# SPDX-License-Identifier: GPL-2.0-only
"""Which coverage counters of an object are those of nested.c."""

from __future__ import annotations

from nvmxfuzz.errors import InputError
from nvmxfuzz.targets.kvm_native.build.objects import find_object
from nvmxfuzz.targets.kvm_native.checks_in_source import functions_of, nested_source
from nvmxfuzz.targets.kvm_native.library import Library


def nested_counters(library: Library, kernel: str) -> range:
    """Return their numbers; none if the source is not in the cache any more.

    The object knows its functions by name, and the source says which ones nested.c defines.
    """
    try:
        source = nested_source(find_object(kernel, "coverage"))
    except InputError:
        return range(0)
    return library.counters_of(functions_of(source))
