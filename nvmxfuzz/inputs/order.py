# SPDX-License-Identifier: GPL-2.0-only
"""Names that the binary format writes as numbers: a new one goes to the end, none ever moves."""

from typing import Final

PROFILES: Final = (
    "skylake-x",
    "everything",
    "arrandale",
    "arrow-lake",
    "broadwell",
    "cannon-lake",
    "core-duo-t2600",
    "core-i5-3570",
    "core-i7-3960x",
    "core-i7-5600u",
    "core-i7-6700k",
    "core2-x6800",
    "haswell",
    "ice-lake",
    "ivy-bridge",
    "kvm-virtual",
    "lynnfield",
    "penryn",
    "pentium-n3530",
    "sandy-bridge",
    "sapphire-rapids",
    "tiger-lake",
    "xeon-x5482",
    "yonah",
    "kvm-6.12-skylake-x",
    "kvm-6.12-penryn",
    "kvm-6.12-sapphire-rapids",
    "kvm-6.12-everything",
    "kvm-6.1-skylake-x",
    "kvm-6.1-penryn",
    "kvm-6.1-sapphire-rapids",
    "kvm-6.1-everything",
)

BASES: Final = ("guest-64", "guest-32", "guest-pae", "guest-real", "guest-v86", "zero")
