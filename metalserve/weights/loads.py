"""How long engines took to load, and where the time went: the records that hosts keep. Text in, values out; pure.

A host appends a line of JSON a start to `/var/lib/metalserve/loads.jsonl` (files/vllm/record.sh), schema 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from metalserve.catalogue.loader import threshold
from metalserve.hardware.parsers.text import ParseError
from metalserve.hardware.parsers.vllm_log import VllmLog, parse_vllm_log
from metalserve.verify.finding import Finding

SCHEMA: Final = 1
_TEXTS: Final[tuple[str, ...]] = ("at", "model", "revision", "image", "load_format")
GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Load:
    """One start of an engine, from its unit to its first token. Times in seconds; `None`: not known.

    Attributes:
        replica: number of the engine.
        at: when it had answered, UTC, ISO 8601.
        model: name that it serves.
        revision: commit of the model.
        image: image reference.
        gpus: how many GPUs it runs on.
        load_format: --load-format that it was started with.
        ready_s: from the unit's start to the first token.
        gate_s: what the gate took before the container was started.
        weights_s: reading the weights and copying them to the GPUs, the slowest worker.
        placing_s: what loading took beyond that: building the model, repacking weights.
        compile_s: torch.compile.
        graphs_s: capture of CUDA graphs.
        warm_up_s: profiling, KV cache and warm-up beside these two.
        rest_s: all else: container, Python, processes, the first answer.
        weights_bytes: size of the weights' files.
        read_bytes: what the models' drive read meanwhile; other engines that start side by side are counted in.
        warmed_bytes: what was read ahead into the page cache.
        raw: the record.
    """

    replica: int
    at: str = ""
    model: str = ""
    revision: str = ""
    image: str = ""
    gpus: int = 0
    load_format: str = "auto"
    ready_s: float | None = None
    gate_s: float | None = None
    weights_s: float | None = None
    placing_s: float | None = None
    compile_s: float | None = None
    graphs_s: float | None = None
    warm_up_s: float | None = None
    rest_s: float | None = None
    weights_bytes: int | None = None
    read_bytes: int | None = None
    warmed_bytes: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def kind(self) -> tuple[str, str, str, int]:
        """What makes two starts comparable: model, revision, image and number of GPUs."""
        return self.model, self.revision, self.image, self.gpus

    @property
    def weights_gb_s(self) -> float | None:
        """Rate at which the weights came, GB/s; `None` when nothing was told, or it is too little to have a rate."""
        if not self.weights_bytes or self.weights_bytes < GB or not self.weights_s or self.weights_s < 0.1:
            return None
        return self.weights_bytes / self.weights_s / GB

    @property
    def cached(self) -> float | None:
        """Share of the weights that the drive did not have to read, 0 to 1."""
        if not self.weights_bytes or self.read_bytes is None:
            return None
        return max(0.0, 1 - self.read_bytes / self.weights_bytes)

    @property
    def parts(self) -> list[tuple[str, float]]:
        """The parts that are known, in the order in which they came."""
        named = (
            ("gate", self.gate_s),
            ("weights", self.weights_s),
            ("placing", self.placing_s),
            ("compile", self.compile_s),
            ("graphs", self.graphs_s),
            ("warm-up", self.warm_up_s),
            ("rest", self.rest_s),
        )
        return [(name, seconds) for name, seconds in named if seconds is not None]

    def in_words(self, carries_gb_s: float | None = None) -> str:
        """Return one line: how long it took, and where that went.

        Args:
            carries_gb_s: what the way to the drive carries, GB/s, to set the rate of the weights against.
        """
        if self.ready_s is None:
            return "how long it took is not known"
        parts = []
        for name, seconds in self.parts:
            # The gate is told where it waited for something; a part of less than half a second says nothing.
            if seconds < (2 if name == "gate" else 0.5):
                continue
            parts.append(f"{name} {seconds:.0f} s" + (self._rate(carries_gb_s) if name == "weights" else ""))
        return f"ready in {self.ready_s:.0f} s" + (f": {', '.join(parts)}" if parts else "")

    def _rate(self, carries_gb_s: float | None) -> str:
        rate = self.weights_gb_s
        if rate is None:
            return ""
        words = [f"{rate:.1f} GB/s"]
        if self.load_format != "auto":
            words.append(self.load_format)
        if self.cached is not None and self.cached >= 0.1:
            words.append(f"{self.cached:.0%} of it from memory")
        elif carries_gb_s:
            words.append(f"the way to the drive carries {carries_gb_s:.1f}")
        return f" ({', '.join(words)})"

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        whole = {name: getattr(self, name) for name in self.__slots__ if name != "raw"}
        return {**whole, "weights_gb_s": self.weights_gb_s, "cached": self.cached}


def load_of(values: Mapping[str, Any]) -> Load:
    """Return what `Load.as_dict` made `values` of; what it does not know is left out, what is missing is unknown."""
    known = {f.name for f in fields(Load)} - {"raw"}
    taken = {name: value for name, value in values.items() if name in known and value is not None}
    texts = {name: str(taken[name]) for name in _TEXTS if name in taken}
    numbers = {n: v for n, v in taken.items() if n not in _TEXTS and isinstance(v, int | float)}
    given: dict[str, Any] = {"replica": -1}
    given.update(numbers)
    given.update(texts)
    return Load(**given)


def parse_loads(text: str) -> tuple[Load, ...]:
    """Return the records of a host, oldest first; a line that is none is left out."""
    found = []
    for line in text.splitlines():
        try:
            raw = json.loads(line)
        except ValueError:
            continue
        if isinstance(raw, dict) and raw.get("schema") == SCHEMA and isinstance(raw.get("replica"), int):
            found.append(load_from(raw))
    return tuple(found)


def load_from(raw: Mapping[str, Any]) -> Load:
    """Return one record; what it does not tell stays unknown."""
    lines = [line for line in raw.get("lines") or () if isinstance(line, str)]
    try:
        log = parse_vllm_log("\n".join(lines))
    except ParseError:
        log = VllmLog()
    ready, gate = _seconds(raw.get("ready_after_s")), _seconds(raw.get("gate_s"))
    loading = log.load_seconds if log.load_seconds is not None else log.weights_seconds
    weights = log.weights_seconds if log.weights_seconds is not None else loading
    inside = [s for s in (log.compile_seconds, log.graph_capture_seconds) if s is not None]
    init = log.engine_init_seconds
    known = sum(s for s in (gate, loading, init if init is not None else sum(inside)) if s is not None)
    gpus = str(raw.get("gpus") or "")
    return Load(
        replica=raw["replica"],
        at=_text(raw.get("at")),
        model=_text(raw.get("model")),
        revision=_text(raw.get("revision")),
        image=_text(raw.get("image")),
        gpus=len([gpu for gpu in gpus.split(",") if gpu]),
        load_format=_text(raw.get("format")) or "auto",
        ready_s=ready,
        gate_s=gate,
        weights_s=weights,
        placing_s=max(0.0, loading - weights) if loading is not None and weights is not None else None,
        compile_s=log.compile_seconds,
        graphs_s=log.graph_capture_seconds,
        warm_up_s=max(0.0, init - sum(inside)) if init is not None else None,
        rest_s=max(0.0, ready - known) if ready is not None and (loading is not None or init is not None) else None,
        weights_bytes=_count(raw.get("weights_bytes")),
        read_bytes=_count(raw.get("read_bytes")),
        warmed_bytes=_count(raw.get("warmed_bytes")),
        raw=dict(raw),
    )


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def latest(loads: Iterable[Load]) -> tuple[Load, ...]:
    """Return the last start of each engine, by its number."""
    return tuple(sorted({load.replica: load for load in loads}.values(), key=lambda load: load.replica))


def slower(loads: Sequence[Load], replica: int) -> Finding | None:
    """Hold the last start of an engine against the best one before it of the same kind.

    Returns:
        A finding, or None where there is nothing to compare with.
    """
    own = [load for load in loads if load.replica == replica and load.ready_s is not None]
    if not own:
        return None
    last, limit = own[-1], threshold("load-slower")
    before = [load for load in loads if load.kind == last.kind and load.ready_s is not None and load is not last]
    if not before:
        return None
    best = min(before, key=lambda load: load.ready_s or 0.0)
    now, then = last.ready_s or 0.0, best.ready_s or 0.0
    spare = threshold("load-slower-spare").value
    bad = now > then * limit.value and now - then > spare
    grown = sorted(
        ((name, seconds - dict(best.parts).get(name, 0.0)) for name, seconds in last.parts), key=lambda part: -part[1]
    )
    where = f"; most of it in {grown[0][0]} (+{grown[0][1]:.0f} s)" if bad and grown and grown[0][1] > 0 else ""
    return Finding(
        check="load-time",
        status="warn" if bad else "ok",
        subject=f"engine {replica}",
        expected=f"at most {limit.value:g} times its best start of this model and image, {then:.0f} s on {best.at}",
        observed=f"{now:.0f} s{where}",
        impact="every restart and every recovery waits for it" if bad else "",
        remedy=_REMEDIES.get(grown[0][0] if grown else "", _ANY) if bad else "",
        source="loads.jsonl of the host",
        evidence=last.in_words(),
        threshold=limit if bad else None,
    )


_ANY = "metalserve weights loads shows where the time of each start went"
_REMEDIES: Final = {
    "weights": "look at the drive (`metalserve report`, models-drive and models-link), and whether something else "
    "reads from it; memory that is short keeps the weights out of the page cache",
    "compile": "see that /var/cache/metalserve/vllm is there and writable: a compile cache that is lost is made anew",
    "gate": "journalctl -u metalserve-vllm-0: the gate waited for fabric, memory or the rest of its group",
}


def faster_format(loads: Sequence[Load], kind: tuple[str, str, str, int], running: str = "auto") -> tuple[str, str]:
    """Return the load format that `auto` stands for on a host, and why.

    The default loader, unless a start of the same model, image and number of GPUs on this very host loaded its weights
    clearly faster with another one. That it started at all shows that the image has what that format needs. The best of
    each is compared: a default loader that found the weights in memory counts as that fast.

    Args:
        loads: records of the host.
        kind: as `Load.kind`.
        running: format that the engines were last started with; it stays until a start shows the default to be as
            fast, so that records which grow old do not change a launch.
    """
    best: dict[str, float] = {}
    for load in loads:
        if load.kind == kind and load.weights_s is not None:
            best[load.load_format] = min(load.weights_s, best.get(load.load_format, load.weights_s))
    others = {name: seconds for name, seconds in best.items() if name != "auto"}
    if not others:
        return "auto", "no other loader was measured on this host"
    name = min(others, key=lambda one: others[one])
    if "auto" not in best:
        if running == name:
            return name, f"{name} loads in {others[name]:.0f} s, as it did when it was chosen"
        return "auto", f"{name} loaded in {others[name]:.0f} s, the default loader was not measured"
    gain = threshold("load-format-gain").value
    if others[name] <= best["auto"] * gain:
        return name, f"{name} loaded in {others[name]:.0f} s on this host, the default loader in {best['auto']:.0f} s"
    return "auto", f"the default loader took {best['auto']:.0f} s on this host, {name} {others[name]:.0f} s"
