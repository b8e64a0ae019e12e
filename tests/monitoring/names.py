"""Which metrics a PromQL expression names."""

from __future__ import annotations

import re

WORDS = {
    "by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "offset", "bool",
    "sum", "count", "min", "max", "avg",
}  # fmt: skip
"""What looks like a metric and is none: operators and aggregations. Functions are told by their bracket."""


def metrics(expr: str) -> set[str]:
    """Return the names of the series that an expression reads."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expr)
    bare = re.sub(r"\{[^}]*\}", " ", bare)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", " ", bare)
    found = re.findall(r"(?<![\w:.])([A-Za-z_:][\w:]*)\s*(\()?", re.sub(r"offset\s+\w+", " ", bare))
    return {name for name, bracket in found if not bracket and name not in WORDS}
