"""CPU that reading all outputs of one host costs. Prints one JSON line; no host is needed.

Usage: python bench/parse_host.py [--runs N] [DIRECTORY]

DIRECTORY holds files that `metalserve read` recognises (one a command); without it, an 8-GPU host is made from the
samples of the tests. The figure to keep: under 50 ms of CPU a host.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from metalserve.hardware.commands import COMMANDS
from metalserve.hardware.node import node_hardware
from metalserve.hardware.parsers.text import decode
from metalserve.hardware.readable import KINDS, read_any
from metalserve.hardware.section import Section
from tests.hardware import host8


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    if options.directory:
        named = {path.name: decode(path.read_bytes()) for path in sorted(options.directory.iterdir()) if path.is_file()}
        texts = {name: (read_any(text)[0].name, text) for name, text in named.items()}
    else:
        texts = {kind: (kind, text) for kind, text in host8.outputs().items()}
    by_kind = {
        name: _milliseconds(lambda k=kind, t=text: KINDS[k].read(t), options.runs)
        for name, (kind, text) in texts.items()
    }
    figures: dict[str, object] = {
        "bytes": sum(len(text) for _, text in texts.values()),
        "read_ms": round(sum(by_kind.values()), 2),
        "slowest": dict(sorted(((k, round(v, 2)) for k, v in by_kind.items()), key=lambda kv: -kv[1])[:5]),
    }
    if not options.directory:
        sections = {name: Section(text) for name, text in host8.sections().items()}
        figures["node_hardware_ms"] = round(_milliseconds(lambda: node_hardware(sections), options.runs), 2)
        figures["sections_missing"] = sorted(set(COMMANDS) - set(sections))
    print(json.dumps(figures))
    return 0


def _milliseconds(call: object, runs: int) -> float:
    """Mean CPU time of `call`, ms, without its first run."""
    call()  # type: ignore[operator]
    started = time.process_time()
    for _ in range(runs):
        call()  # type: ignore[operator]
    return (time.process_time() - started) / runs * 1000


if __name__ == "__main__":
    raise SystemExit(main())
