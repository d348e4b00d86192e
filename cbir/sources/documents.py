"""How JSON that others wrote is read."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """What ``text`` says; NaN, which is no JSON but is often written for a missing value, is None.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))
