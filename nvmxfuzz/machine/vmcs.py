# SPDX-License-Identifier: GPL-2.0-only
"""The fields of one VMCS, as a frozen value."""

from __future__ import annotations

from collections.abc import Mapping

from nvmxfuzz.arch.fields import FIELDS
from nvmxfuzz.machine.vmcs_fields import VmcsFields

_ZERO = {field.name: 0 for field in FIELDS}


class Vmcs(VmcsFields):
    """All fields of a VMCS by their kernel name in lower case; a field not given is 0.

    Values are unsigned and no wider than their field; whoever reads them from outside checks that
    (`nvmxfuzz.inputs`). The fields live in the instance dictionary: copying 180 fields is one
    dictionary copy, which the fuzzing loop does for each case.
    """

    def __init__(self, fields: Mapping[str, int] = _ZERO) -> None:
        state = self.__dict__
        state.update(_ZERO)
        state.update(fields)
        if len(state) != len(_ZERO):
            unknown = sorted(set(state) - set(_ZERO))
            raise TypeError(f"no VMCS field is named {', '.join(unknown)}")

    def replace(self, edits: Mapping[str, int]) -> Vmcs:
        """Return a copy with `edits` (existing field names) applied."""
        copy = object.__new__(Vmcs)
        state = copy.__dict__
        state.update(self.__dict__)
        state.update(edits)
        return copy

    def items(self) -> Mapping[str, int]:
        """Return every field by name, in the order of the encodings."""
        return dict(self.__dict__)

    def __setattr__(self, name: str, value: int) -> None:
        raise AttributeError(f"a Vmcs is frozen: use replace() to change {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vmcs) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value:#x}" for name, value in self.__dict__.items() if value)
        return f"Vmcs({fields})"
