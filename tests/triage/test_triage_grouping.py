# SPDX-License-Identifier: GPL-2.0-only
"""Groups: what differs in kernel or harness alone is one, what differs in what is broken is not."""

from dataclasses import replace

from nvmxfuzz.oracles.finding import Finding
from nvmxfuzz.triage.grouping import group_of

WARN = Finding(
    "session.no-warn", ("a", "b"), ("kvm-6.1", "promise"), "WARN nested.c:4995, in SMM", "said"
)


def test_another_kernel_is_the_same_group_and_another_finding() -> None:
    newer = replace(WARN, targets=("kvm-6.12", "promise"), site="WARN nested.c:5120, in SMM")
    assert group_of(newer) == group_of(WARN)
    assert newer.identity != WARN.identity


def test_order_and_message_say_nothing() -> None:
    other = replace(WARN, rules=("b", "a"), message="other")
    assert (group_of(other), other.identity) == (group_of(WARN), WARN.identity)


def test_oracle_rules_and_site_make_the_group() -> None:
    others = (
        replace(WARN, oracle="session.order"),
        replace(WARN, rules=("a",)),
        replace(WARN, site="WARN nested.c:4995, in L2"),
        replace(WARN, site="WARN vmx.c:4995, in SMM"),
    )
    assert len({group_of(WARN), *map(group_of, others)}) == 5


def test_a_group_is_named_after_its_oracle() -> None:
    assert group_of(WARN).startswith("session.no-warn-")
