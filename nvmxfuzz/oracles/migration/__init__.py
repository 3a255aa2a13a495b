# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of a VM that is carried from one KVM to another."""
