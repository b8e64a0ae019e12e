"""Frames as files/watching/sample.sh streams them, made for any fleet: simulated, as a driver 580 prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from metalserve.watching.frames import GPU_FIELDS, Frame, FrameReader
from metalserve.watching.node import NodeView, NodeWatch

UNITS = {
    "memory.used": "MiB", "memory.total": "MiB", "utilization.gpu": "%", "power.draw": "W",
    "enforced.power.limit": "W", "clocks.current.sm": "MHz", "clocks.max.sm": "MHz",
}  # fmt: skip


@dataclass
class Card:
    """One GPU's values; what is not given is that of a busy, healthy H100 SXM."""

    index: int
    values: Mapping[str, str] = field(default_factory=dict)

    def row(self) -> str:
        own = {
            "index": str(self.index),
            "name": "NVIDIA H100 80GB HBM3",
            "uuid": f"GPU-00000000-0000-0000-0000-{self.index:012d}",
            "pci.bus_id": f"00000000:{0x19 + self.index:02X}:00.0",
            "memory.used": "73210",
            "memory.total": "81559",
            "utilization.gpu": "97",
            "power.draw": "652.31",
            "enforced.power.limit": "700.00",
            "temperature.gpu": "61",
            "temperature.gpu.tlimit": "26",
            "temperature.memory": "72",
            "clocks.current.sm": "1905",
            "clocks.max.sm": "1980",
            "clocks_event_reasons.active": "0x0000000000000004",
            "fabric.state": "Completed",
            "gpu_recovery_action": "None",
            **self.values,
        }
        return ", ".join(f"{own[f]} {UNITS[f]}" if f in UNITS and own[f][0] != "[" else own[f] for f in GPU_FIELDS)


def gpu_csv(cards: Sequence[Card]) -> str:
    head = ", ".join(f"{name} [{UNITS[name]}]" if name in UNITS else name for name in GPU_FIELDS)
    return "\n".join([head, *(card.row() for card in cards)])


def links(count: int, up: int = 18, of: int = 18, only: int | None = None) -> str:
    lines = []
    for gpu in range(count):
        lines.append(f"GPU {gpu}: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-{gpu:012d})")
        lit = up if only is None or only == gpu else of
        lines += [f"\t Link {n}: {'26.562 GB/s' if n < lit else '<inactive>'}" for n in range(of)]
    return "\n".join(lines)


def engine(
    number: int, taken: float, *, running: int = 12, waiting: int = 3, kv: float = 0.47, made: float = 5000,
    read: float = 20000, hits: float = 8000, unit: str = "active", http: int = 200, old: bool = False,
) -> str:  # fmt: skip
    """One engine's lines; `old`: the names of vLLM before 0.10."""
    head = f"@@engine {number} {8000 + number} {unit} {http:03d} {taken:.2f}"
    if http != 200:
        return head
    usage, prefix = ("gpu_cache_usage_perc", "gpu_prefix_cache") if old else ("kv_cache_usage_perc", "prefix_cache")
    own = '{engine="0",model_name="m"}'
    lines = [
        f"vllm:num_requests_running{own} {running}.0",
        f"vllm:num_requests_waiting{own} {waiting}.0",
        f"vllm:{usage}{own} {kv}",
        f"vllm:prompt_tokens_total{own} {read}",
        f"vllm:generation_tokens_total{own} {made}",
        f"vllm:{prefix}_queries_total{own} {read}",
        f"vllm:{prefix}_hits_total{own} {hits}",
    ]
    return "\n".join([head, *lines])


def frame(
    sections: Mapping[str, str], *, uptime: float = 1000.0, busy: Mapping[str, float] | None = None, rc: int = 0,
    boot: str = "5c7b1a9e-1", age: float = 0.2,
) -> Frame:  # fmt: skip
    """A frame through the reader, as it comes over the wire."""
    lines = [f"@@frame 0 {uptime:.2f} {boot} 1795640000"]
    for name, text in sections.items():
        status = rc if name == "gpu" else 0
        lines += [f"@@section {name} {status} {uptime - age - 0.3:.2f} {uptime - age:.2f}", *text.splitlines()]
    lines += [f"@@busy {name} {since:.2f}" for name, since in (busy or {}).items()]
    reader = FrameReader()
    found = [reader.feed(line) for line in [*lines, "@@end 0"]][-1]
    assert found is not None
    return found


def healthy(
    name: str, gpus: int = 8, engines: int = 1, *, cards: Mapping[int, Mapping[str, str]] | None = None, log: str = ""
) -> NodeWatch:
    """A node after two frames, 2 s apart, in which each engine made 900 tokens and read 4000."""
    node = NodeWatch(name, 2.0, simulated=True)
    table = gpu_csv([Card(i, (cards or {}).get(i, {})) for i in range(gpus)])
    for step in range(2):
        up = 1000.0 + 2 * step
        told = "\n".join(
            engine(n, up - 0.2, made=5000 + 900 * step, read=20000 + 4000 * step, hits=8000 + 1000 * step)
            for n in range(engines)
        )
        node.take(frame({"gpu": table, "engines": told, "link": links(gpus), "log": log}, uptime=up), 500.0 + 2 * step)
    return node


NOW = 502.5
"""Half a second after `healthy`'s last frame."""


def views(count: int, gpus: int = 8) -> list[NodeView]:
    return list(_views(count, gpus))


@cache
def _views(count: int, gpus: int) -> tuple[NodeView, ...]:
    """A fleet in which the third node is hot, the fifth is down, the seventh has an Xid and the eighth hangs."""
    found = []
    for number in range(1, count + 1):
        name = f"rack{(number - 1) // 20 + 1}-gpu{number:03d}"
        if number == 3:
            hot = {"temperature.gpu": "89", "temperature.gpu.tlimit": "-2", "clocks.current.sm": "1140",
                   "clocks_event_reasons.active": "0x0000000000000068"}  # fmt: skip
            node = healthy(name, gpus, cards={gpus - 1: hot})
        elif number == 7:
            pci = "0000:19:00"
            line = f"[ 900.1] NVRM: Xid (PCI:{pci}): 79, pid=1234, name=python, GPU has fallen off the bus."
            node = healthy(name, gpus, log=line)
        else:
            node = healthy(name, gpus)
        if number == 5:
            node.lost("no connection: Could not connect (timed out)")
        if number == 8:
            node.take(frame({}, uptime=1042.0, busy={"gpu": 1003.0}), NOW)
        if number not in (5, 8):
            node.heard_at = NOW
        found.append(node.view(NOW))
    return tuple(found)
