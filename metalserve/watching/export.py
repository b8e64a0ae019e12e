"""The fleet as JSON: `metalserve top --json`, one object a moment. What was not told is null."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from metalserve.watching.figures import figures_of
from metalserve.watching.node import NodeView

SCHEMA: Final = 1
"""Raised when a field is renamed or means something else; new fields do not raise it."""


def as_json(nodes: Sequence[NodeView], *, epoch: float, interval_s: float) -> dict[str, Any]:
    """Return the fleet at one moment.

    Args:
        nodes: in the order wanted.
        epoch: the moment, s since 1970 by this machine's clock.
        interval_s: seconds between samples.
    """
    return {
        "schema": SCHEMA,
        "taken": datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds"),
        "epoch": round(epoch, 3),
        "interval_s": interval_s,
        "simulated": any(node.simulated for node in nodes),
        "nodes": [_node(node) for node in nodes],
    }


def _node(node: NodeView) -> dict[str, Any]:
    figures = dataclasses.asdict(figures_of(node))
    figures["held"] = figures["held"].name if figures["held"] else None
    return {
        "name": node.name,
        "state": node.state,
        "said": node.said,
        "stale": node.stale,
        "simulated": node.simulated,
        "uptime_s": _short(node.uptime_s),
        "gpus_age_s": _short(node.gpus_age_s),
        "engines_age_s": _short(node.engines_age_s),
        "figures": {key: _short(value) for key, value in figures.items()},
        "gpus": [
            {
                **dataclasses.asdict(gpu),
                "links": dataclasses.asdict(node.links[gpu.index]) if node.links and gpu.index in node.links else None,
            }
            for gpu in node.gpus
        ],
        "engines": [
            {
                **dataclasses.asdict(engine.sample),
                "answers": engine.sample.answers,
                "trouble": engine.trouble,
                "tokens_s": _short(engine.tokens_s),
                "prompt_tokens_s": _short(engine.prompt_tokens_s),
                "cached": _short(engine.cached),
            }
            for engine in node.engines
        ],
        "xids": [dataclasses.asdict(xid) for xid in node.xids] if node.xids is not None else None,
    }


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
