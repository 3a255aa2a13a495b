# SPDX-License-Identifier: GPL-2.0-only
"""An entry of which only a part is known, as the rules look at it.

A rule that asks for what is not known is stopped by `NotKnown`, so that its answer is never made
up; of what it does look at, the fields are noted down. The rules are the same as ever: they do not
know that the entry has holes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nvmxfuzz.arch.fields import FIELD_BY_NAME
from nvmxfuzz.arch.segments import SEGMENTS
from nvmxfuzz.cpu.entry import Entry
from nvmxfuzz.cpu.reads import derived_words
from nvmxfuzz.machine.attempt import Attempt
from nvmxfuzz.machine.profile import Profile
from nvmxfuzz.machine.vmcs import Vmcs

MEMORY: Final = "memory"
HYPERVISOR: Final = "registers of the hypervisor"

_ASSUMED_MODE: Final = {"in_smm": False}
"""What is taken of the processor that executes VM entry: KVM never does so in SMM."""
_BY_SMM: Final = frozenset({"vm_entry_controls"})
"""What decides on a word in SMM only."""
_UNREAD: Final[Mapping[str, frozenset[str]]] = dict.fromkeys(
    ("vm_entry", "ia32e_guest"), frozenset()
)
"""By word, what is not noted down of its inputs."""
_PARTS: Final = {"selector": "selector", "base": "base", "limit": "limit", "ar": "ar_bytes"}


class NotKnown(Exception):  # noqa: N818 # an answer of its own, no error
    """A rule asks for what is not known: the names of it."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


class _Fields:
    """The fields of the VMCS that are known."""

    __slots__ = ("_read", "_values")

    def __init__(self, values: Mapping[str, int], read: set[str]) -> None:
        self._values = values
        self._read = read

    def __getattr__(self, name: str) -> int:
        value = self._values.get(name)
        if value is None:
            if name not in FIELD_BY_NAME:
                raise AttributeError(name)
            raise NotKnown(frozenset({name}))
        self._read.add(name)
        return value


class _Nothing:
    """A part of the machine of which nothing is known but what is `assumed`."""

    __slots__ = ("_assumed", "_name")

    def __init__(self, name: str, assumed: Mapping[str, Any]) -> None:
        self._name = name
        self._assumed = assumed

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 # whatever attribute it stands for
        if name in self._assumed:
            return self._assumed[name]
        raise NotKnown(frozenset({self._name}))


class KnownEntry:
    """What `Entry` is to the rules, where `fields` are all that is known of the VMCS.

    `read` is what the rules have looked at, for the owner to clear. A word that `Entry` derives is
    known if it comes out the same whatever the fields hold that are not known.
    """

    def __init__(self, profile: Profile, fields: Mapping[str, int]) -> None:
        self.read: set[str] = set()
        self.vmcs = _Fields(fields, self.read)
        self.profile = profile
        self.caps = profile.caps
        self.processor = _Nothing(HYPERVISOR, _ASSUMED_MODE)
        self.memory = _Nothing(MEMORY, {})
        self._zeros = Entry(Attempt(profile, Vmcs(fields)))
        ones = {name: (1 << field.width) - 1 for name, field in FIELD_BY_NAME.items()}
        self._ones = Entry(Attempt(profile, Vmcs({**ones, **fields})))
        self._known = fields

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 # one of the words of Entry
        inputs = derived_words().get(name)
        if inputs is None:
            raise NotKnown(frozenset({HYPERVISOR}))
        value = getattr(self._zeros, name)
        if value != getattr(self._ones, name):
            raise NotKnown(frozenset(inputs & FIELD_BY_NAME.keys()) - self._known.keys())
        self.read |= inputs & self._known.keys() - _UNREAD.get(name, _BY_SMM)
        return value


class KnownSegment:
    """What `GuestSegment` is to the rules: the register `name` of a `KnownEntry`."""

    def __init__(self, entry: KnownEntry, name: str, segment: Any) -> None:  # noqa: ANN401
        self.entry = entry
        self._name = name
        self._segment = segment

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 # one of the parts, or the traits
        part = _PARTS.get(name)
        if part is not None:
            self.entry.read.add(f"guest_{self._name}_{part}")
        return getattr(self._segment, name)


def segment_of(entry: KnownEntry, name: str, view: Any) -> KnownSegment:  # noqa: ANN401
    """Return a segment register of an entry; NotKnown if a field of it is not."""
    if name not in SEGMENTS:
        raise ValueError(f"{name} is no segment register")
    return KnownSegment(entry, name, view(entry)[0])
