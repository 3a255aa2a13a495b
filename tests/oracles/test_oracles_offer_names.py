# SPDX-License-Identifier: GPL-2.0-only
"""What capability MSRs offer, as names."""

from __future__ import annotations

from nvmxfuzz.machine.profile import load_profile, profile_names
from nvmxfuzz.oracles.restore.bit_names import NAMED_MSRS
from nvmxfuzz.oracles.restore.offer_names import features, names_of

PIN, PIN_DEFAULT, VMFUNC = 0x48D, 0x481, 0x491


def test_a_control_is_named_where_it_may_be_1_and_where_it_may_be_0() -> None:
    nmi_exiting = "pin-based: NMI exiting"
    assert nmi_exiting in names_of(PIN, 8 << 32)
    assert nmi_exiting not in names_of(PIN, 0)
    assert f"{nmi_exiting} may be 0" in names_of(PIN, 0)
    assert f"{nmi_exiting} may be 0" not in names_of(PIN, 8)
    assert names_of(VMFUNC, 1) == {"VM function: EPTP switching"}


def test_what_has_no_names_offers_none() -> None:
    assert names_of(PIN_DEFAULT, 8 << 32) == names_of(0x123, 1) == frozenset()


def test_sets_with_the_same_names_are_the_same_where_there_are_names() -> None:
    seen: dict[frozenset[str], dict[int, int]] = {}
    for name in profile_names():
        msrs = {index: load_profile(name).msrs.get(index, 0) for index in NAMED_MSRS}
        assert seen.setdefault(features(msrs), msrs) == msrs
    assert len(seen) > 5
