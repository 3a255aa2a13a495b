# SPDX-License-Identifier: GPL-2.0-only
"""What must hold of KVM at VM entry of L1's: by the rules, on a processor, by its model."""
