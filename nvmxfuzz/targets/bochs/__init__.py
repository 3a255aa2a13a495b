# SPDX-License-Identifier: GPL-2.0-only
"""The Bochs CPU, in process: the second witness of VM entry.

The code is that of the wheel `bochscpu-python`, loaded with ctypes beside the Python module that
it is. docs/bochs.md says how the files hang together.
"""
