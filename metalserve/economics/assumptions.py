"""The figures that a cost rests on: each with its unit, source and day, each replaceable. Pure."""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from metalserve.catalogue.prices import CURRENCY, AssumptionRow
from metalserve.errors import MetalserveError

OLD_AFTER: Final = datetime.timedelta(days=90)
"""Age at which a price is told to be old: rents of H100s moved by 40 % within five months (compux.net, 2026)."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One figure.

    Attributes:
        name: what to call it on the command line.
        value: in `unit`.
        basis: measured, planned, listed, published, documented, guessed, or given (by the user).
        date: when it was read; None for what is not out of a catalogue.
        least: the least that it may be, or None; `most` likewise.
        money: it is money, or money for something.
    """

    name: str
    label: str
    value: float
    unit: str
    basis: str
    source: str
    date: datetime.date | None = None
    least: float | None = None
    most: float | None = None
    money: bool = False

    @property
    def is_price(self) -> bool:
        """It is money that somebody asked for at a time, so it can be old."""
        return self.money and self.basis in ("listed", "published")

    @property
    def shown(self) -> str:
        """Return its value for people: four digits say enough of a share, a sum is written out."""
        return f"{self.value:,.6g}" if abs(self.value) >= 100 else f"{self.value:,.4g}"

    def old(self, today: datetime.date) -> bool:
        """Tell whether it is a price of more than `OLD_AFTER` ago."""
        return self.is_price and self.date is not None and today - self.date > OLD_AFTER

    def at(self, value: float) -> Assumption:
        """Return it with another value, kept within its limits."""
        low = value if self.least is None else max(self.least, value)
        return replace(self, value=low if self.most is None else min(self.most, low))

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "label": self.label,
            "value": self.value,
            "unit": self.unit,
            "basis": self.basis,
            "source": self.source,
            "date": self.date.isoformat() if self.date else None,
        }


class Assumptions(Mapping[str, float]):
    """All figures of a case, by name; a value that is not there is not known."""

    def __init__(self, rows: Iterable[Assumption]) -> None:
        """Take the figures; later ones of a name replace earlier ones."""
        self._rows = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> float:
        return self._rows[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> tuple[Assumption, ...]:
        """The figures in order."""
        return tuple(self._rows.values())

    def row(self, name: str) -> Assumption:
        """Return one figure with its source."""
        return self._rows[name]

    def having(self, *rows: Assumption) -> Assumptions:
        """Return these figures with some replaced or added."""
        return Assumptions([*self._rows.values(), *rows])

    def scaled(self, name: str, factor: float) -> Assumptions:
        """Return these figures with one multiplied, within its limits."""
        row = self._rows[name]
        return self.having(row.at(row.value * factor))


def from_catalogue(row: AssumptionRow) -> Assumption:
    """Return the catalogue's figure."""
    return Assumption(
        row.name,
        row.label,
        row.value,
        row.unit,
        row.basis,
        row.source,
        row.date,
        least=row.least,
        most=row.most,
        money=row.unit.startswith(CURRENCY),
    )


def given(known: Mapping[str, Assumption], name: str, value: float, source: str) -> Assumption:
    """Return a user's figure in place of a known one.

    Args:
        known: what may be given, by name.
        name: its name; `-` counts as `_`, and `price.` may be left out.
        value: in the known one's unit, in the currency of the case.
        source: where the user has it from.

    Raises:
        MetalserveError: there is no such name (the nearest is told), or the value is outside its limits.
    """
    plain = name.strip().lower().replace("-", "_")
    found = known.get(plain) or known.get(f"price.{plain}")
    if found is None:
        near = difflib.get_close_matches(plain, list(known), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "metalserve cost --list-prices shows them"
        raise MetalserveError(f"no figure is called {name!r}", remedy=hint)
    row = replace(found, value=value, basis="given", source=source, date=None)
    if not math.isfinite(value) or row.at(value).value != value:
        limits = f"{_limit(found.least, '-')} to {_limit(found.most, 'any')} {found.unit}"
        raise MetalserveError(f"{found.name} cannot be {value:g}: {limits}")
    return row


def exchanged(row: Assumption, currency: str, rate: float) -> Assumption:
    """Return a figure of money in another currency.

    Args:
        row: a figure; what is no money stays as it is.
        currency: the currency to show.
        rate: units of it for one of the catalogue's.
    """
    if not row.unit.startswith(CURRENCY) or currency == CURRENCY:
        return row
    unit = currency + row.unit.removeprefix(CURRENCY)
    note = f"{row.source} ({row.value:g} {row.unit} at {rate:g} {currency}/{CURRENCY})" if row.value else row.source
    return replace(row, value=row.value * rate, unit=unit, source=note)


def _limit(value: float | None, none: str) -> str:
    return none if value is None else f"{value:g}"
