"""Values that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def json_value(value: Any) -> Any:
    """The same value for `json.dumps`: arrays and tuples as lists, NaN and infinities, which JSON lacks, as null."""
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(entry) for entry in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return json_value(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["json_value"]
