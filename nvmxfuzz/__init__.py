# SPDX-License-Identifier: GPL-2.0-only
"""nvmxfuzz: a fuzzing harness for nested VM-Enter and VMX capability configs."""

__version__ = "0.1.0"
