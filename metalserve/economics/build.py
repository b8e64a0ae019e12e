"""A case out of what is known and what the user says: catalogue, throughput, own figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from metalserve.catalogue.loader import load_prices
from metalserve.catalogue.models import GpuSpec
from metalserve.catalogue.prices import CURRENCY, PRICE_UNITS, ApiPrice, HardwarePrice, Way
from metalserve.economics.assumptions import Assumption, Assumptions, exchanged, from_catalogue, given
from metalserve.economics.config import CostConfig, GivenFigure
from metalserve.economics.options import Case
from metalserve.economics.throughput import FIGURES, GPU_W, INPUT_PER_OUTPUT, OUTPUT, Throughput
from metalserve.errors import MetalserveError
from metalserve.settings import SettingsError

_LABELS: Final[Mapping[Way, str]] = {
    "bare-metal": "a rented host, a month",
    "on-demand": "a cloud GPU on demand, an hour",
    "reserved": "a reserved cloud GPU, an hour",
    "spot": "a spot cloud GPU, an hour",
    "server": "a host that is bought",
}
_API: Final = (
    ("price.api_input", "a million prompt tokens at an API"),
    ("price.api_output", "a million answer tokens at an API"),
    ("price.api_cached", "a million cached prompt tokens at an API"),
)


@dataclass(frozen=True)
class Built:
    """A case with what belongs to it.

    Attributes:
        case: every figure in its place.
        throughput: where its rate is from; the user's own is one value.
        profile: the profile in words.
        others: prices that were seen and not taken, in words.
        api: whose API is compared; "" for none.
    """

    case: Case
    throughput: Throughput
    profile: str
    others: tuple[str, ...]
    api: str


def price_name(way: Way) -> str:
    """Return what a way's price is called (`price.on_demand`)."""
    return "price." + way.replace("-", "_")


def known_figures() -> dict[str, Assumption]:
    """Return every figure that a user may give, by name; `unknown` and 0 where the catalogue has none."""
    rows = [_blank(price_name(way), label, PRICE_UNITS[way]) for way, label in _LABELS.items()]
    rows += [_blank(name, label, f"{CURRENCY}/Mtok") for name, label in _API]
    rows += [*FIGURES.values(), *map(from_catalogue, load_prices().assumptions)]
    return {row.name: row for row in rows}


def build(
    config: CostConfig,
    *,
    spec: GpuSpec,
    gpus: int,
    throughput: Throughput | None,
    flags: Mapping[str, float],
    source: str,
) -> Built:
    """Return the case.

    Args:
        config: the user's file.
        spec: the GPU's row.
        gpus: GPUs of a node.
        throughput: measured or planned; None when the user gives it.
        flags: figures of the command line; they go before the file's.
        source: the file, for messages and as the source of what has none.

    Raises:
        MetalserveError: a figure that nobody has, or one that does not exist.
    """
    prices = load_prices()
    rate = config.exchange or 1.0
    found: dict[str, Assumption] = {row.name: row for row in (throughput.assumptions() if throughput else [])}
    others: list[str] = []
    for way, label in _LABELS.items():
        offers = prices.of(spec.id, way, gpus)
        if offers:
            found[price_name(way)] = _price(way, label, offers[0])
            others += [f"{way}: {_words(way, offer)}" for offer in offers[1:]]
    offered = prices.api_of(config.model) if config.model else []
    if offered:
        found |= _api_prices(offered[0])
    others += [
        f"API: {o.provider} {o.input:g} / {o.output:g} {CURRENCY} ({o.basis} {o.date}; {o.source})" for o in offered[1:]
    ]
    if GPU_W not in found and spec.power.default_w:
        words = f"power limit of {spec.id}, catalogue/gpus.yaml"
        found[GPU_W] = replace(FIGURES[GPU_W], value=spec.power.default_w, basis="documented", source=words)
    found |= {row.name: from_catalogue(row) for row in prices.assumptions}
    found = {name: exchanged(row, config.currency, rate) for name, row in found.items()}
    own = _given(config, flags, source)
    rows = Assumptions([*found.values(), *own])
    through = _throughput(rows, throughput, {row.name for row in own})
    profile, hours = config.hours()
    case = Case(rows, hours, config.nodes, gpus, config.currency)
    if case.utilisation <= 0:
        raise MetalserveError("there is no load, so there is nothing to divide the cost by", where="utilisation.level")
    provider = offered[0].provider if offered and not any(row.name.startswith("price.api") for row in own) else ""
    return Built(case, through, profile, tuple(others), provider or ("given" if "price.api_output" in rows else ""))


def _given(config: CostConfig, flags: Mapping[str, float], source: str) -> list[Assumption]:
    known = {name: exchanged(row, config.currency, 1.0) for name, row in known_figures().items()}
    rows, problems = [], []
    for name, entry in config.assumptions.items():
        value, where = (entry.value, entry.source) if isinstance(entry, GivenFigure) else (entry, source)
        try:
            rows.append(given(known, name, value, where))
        except MetalserveError as error:
            problems.append(f"{source}: assumptions: {error}")
    if problems:
        raise SettingsError(problems)
    return rows + [given(known, name, value, "command line") for name, value in flags.items()]


def _throughput(rows: Assumptions, throughput: Throughput | None, own: set[str]) -> Throughput:
    needed = (OUTPUT, INPUT_PER_OUTPUT)
    missing = [name for name in needed if name not in rows]
    if missing:
        raise MetalserveError(
            f"nothing says {' and '.join(missing)}",
            where="metalserve cost",
            remedy="give --bench FILE, --plan FILE, --model MODEL, or --price NAME=VALUE for both",
        )
    value = rows[needed[0]]
    if value <= 0:
        raise MetalserveError(f"{needed[0]} is {value:g}: nothing is served", where="metalserve cost")
    if throughput is not None and needed[0] not in own:
        return throughput
    row = rows.row(needed[0])
    simulated = throughput is not None and throughput.simulated
    return Throughput(value, value, value, rows[needed[1]], "given", row.source, simulated=simulated)


def _blank(name: str, label: str, unit: str) -> Assumption:
    return Assumption(name, label, 0.0, unit, "unknown", "", least=0.0, money=True)


def _price(way: Way, label: str, offer: HardwarePrice) -> Assumption:
    note = f"{offer.source} ({offer.note})" if offer.note else offer.source
    blank = _blank(price_name(way), label, PRICE_UNITS[way])
    return replace(blank, value=offer.price, basis=offer.basis, source=note, date=offer.date)


def _api_prices(offer: ApiPrice) -> dict[str, Assumption]:
    found = {}
    for (name, label), value in zip(_API, (offer.input, offer.output, offer.cached), strict=True):
        if value is not None:
            blank = _blank(name, label, f"{CURRENCY}/Mtok")
            source = f"{offer.provider}: {offer.source}"
            found[name] = replace(blank, value=value, basis=offer.basis, source=source, date=offer.date)
    return found


def _words(way: Way, offer: HardwarePrice) -> str:
    note = f", {offer.note}" if offer.note else ""
    return f"{offer.price:g} {PRICE_UNITS[way]}{note} ({offer.basis} {offer.date}; {offer.source})"
