# SPDX-License-Identifier: GPL-2.0-only
"""Where inputs come from. An engine is a function that feeds a session until it is finished."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from nvmxfuzz.campaign.session import Session
from nvmxfuzz.campaign.settings import EngineName


def engine_named(name: EngineName) -> Callable[[Session], None]:
    """Return the engine of that name; its module is imported only now."""
    module = importlib.import_module(f"nvmxfuzz.campaign.engines.{name}")
    engine: Callable[[Session], None] = module.run
    return engine
