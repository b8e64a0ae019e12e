"""The HTML report of a large fleet: seconds and MB, against the JSON that it is made of.

    python bench/report.py [--nodes 200] [--points 300] [--rounds 3]

Each node has 8 GPUs, each with the 300 points that a soak of any length keeps (files/probes/soak.py); hardware and
findings come from the simulated tools, one node in twenty has a fault. `read` is the file and its JSON, `page` the
page alone; CPU seconds, each the median of the rounds.
The ratios are the figures: page against the bare json.loads of the same file, and its size against the file's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metalserve.report.page import html_page
from metalserve.report.reading import read_report
from tests.report.samples import fleet


def main() -> int:
    """Measure and print a line for people and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--points", type=int, default=300, help="of the soak, for each GPU")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="metalserve-bench-") as directory:
        path = Path(directory) / "report.json"
        path.write_text(json.dumps(fleet(arguments.nodes, arguments.points)))
        raw = path.stat().st_size
        bare, read, page = [], [], []
        for _ in range(arguments.rounds):
            bare.append(timed(json.loads, path.read_bytes())[0])
            seconds, report = timed(read_report, path)
            read.append(seconds)
            seconds, html = timed(html_page, report)
            page.append(seconds)
        size = len(html.encode())
    loads, reading, rendering = (statistics.median(x) for x in (bare, read, page))
    whole = reading + rendering
    print(
        f"{arguments.nodes} nodes, {raw / 1e6:.1f} MB of JSON: read {reading:.2f} s, page {rendering:.2f} s, together "
        f"{whole:.2f} s ({whole / loads:.1f}x json.loads); page {size / 1e6:.1f} MB ({size / raw:.2f} of the JSON)"
    )
    figures = {
        "bench": "report",
        "nodes": arguments.nodes,
        "json_mb": round(raw / 1e6, 2),
        "html_mb": round(size / 1e6, 2),
        "size_ratio": round(size / raw, 3),
        "json_loads_s": round(loads, 3),
        "read_s": round(reading, 3),
        "page_s": round(rendering, 3),
        "time_ratio": round(whole / loads, 2),
    }
    print(json.dumps(figures))
    return 0


def timed(call, given):
    """Return how long a call took, s of this process's CPU, and what it gave."""
    start = time.process_time()
    result = call(given)
    return time.process_time() - start, result


if __name__ == "__main__":
    sys.exit(main())
