# SPDX-License-Identifier: GPL-2.0-only
"""The real KVM beside the model of nested VM entry: the same case, once on each."""
