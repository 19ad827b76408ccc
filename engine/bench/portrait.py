"""How fast a portrait is made."""

from __future__ import annotations

import argparse
from typing import Any

from engine.errors import EngineError


def run(options: argparse.Namespace) -> dict[str, Any]:
    raise EngineError("portraits are not measured yet")
