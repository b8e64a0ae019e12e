"""The thresholds of measurements, each with where it comes from, and the one rule by which equals are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from metalserve.verify.finding import Finding, Status

INCONCLUSIVE: Final[Status] = "inconclusive"
"""Status of a measurement that could not be made: a set-up that failed is not a GPU that failed."""

NVML: Final = "NVML header of CUDA 13.3 (NVIDIA/go-nvml 2026-07-01): clocks-event reasons 0xE8"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A number that decides, and what stands behind it.

    Attributes:
        value: the number; its unit is in the constant's name.
        basis: `measured` by someone, given by a `vendor`, or `guessed` until there are measurements.
        source: who or what.
        date: when, YYYY-MM.
    """

    value: float
    basis: Literal["measured", "vendor", "guessed"]
    source: str
    date: str

    @property
    def in_words(self) -> str:
        """Return it as a finding's source."""
        return f"{self.source} ({self.basis}, {self.date})"


NEAR_FLOOR = Threshold(0.95, "guessed", "the floors are of nccl-tests at 16 GiB, this probe stops at 8 GiB", "2026-11")
"""Share of the alarm figure down to which a lower bandwidth is only a warning."""

PCIE_SHARE = Threshold(
    1.5, "guessed", "NVLink gives far more than host memory: 349 against 27 GB/s measured on two H100 SXM", "2026-11"
)
"""With peer-to-peer on, less than this many times the rate with it off means that the links are not used."""

CONTROL_GB_S = Threshold(1.0, "guessed", "the slowest PCIe host on record gives 1.6 GB/s (8 L40S)", "2026-11")
"""Below this the control arm failed too."""

PAIR_SHARE = Threshold(
    0.70, "measured", "Azure/azurehpc-health-checks: 335 of 450 GB/s on H100, 238 of 300 on A100", "2026-08"
)
"""Share of a pair's nominal rate (links times rate) that a copy must reach."""

DRIFT_FAIL_PERCENT = Threshold(
    -5.0, "guessed", "two healthy H100 SXM at 699 W: within 1.5 % for 200 s; heat costs 5 to 40 % (factryze)", "2026-11"
)
DRIFT_WARN_PERCENT = Threshold(-3.0, "guessed", "twice what two healthy H100 SXM did in 200 s", "2026-11")
WARM_UP_S = Threshold(60.0, "guessed", "cold GPUs clock higher until they are warm", "2026-11")
"""Seconds left out at the start, at most a fifth of the soak."""
BOOST_S = Threshold(10.0, "measured", "two H100 SXM at 39 C began 6 % faster, and were steady after 5 s", "2026-11")
"""Seconds left out at least, where the soak is long enough for it."""

MARGIN_C = Threshold(5.0, "guessed", "gpud and planners ask for 5 C below the slowdown limit", "2026-11")

OUTLIER = Threshold(3.0, "guessed", "median and 1.4826 MAD: 3 of them are 0.3 % of a normal distribution", "2026-11")
RATE_FLOOR = Threshold(0.015, "guessed", "matrix rates of two healthy H100 SXM differ by 1.8 %", "2026-11")
HEAT_FLOOR_C = Threshold(3.0, "measured", "two healthy H100 hosts show 8 to 12 C between GPUs at 699 W", "2026-11")

BASELINE_WARN = Threshold(0.05, "guessed", "runs of one host differ by 1 to 2 %", "2026-11")
BASELINE_FAIL = Threshold(0.10, "guessed", "twice the warning", "2026-11")
BASELINE_HEAT_C = Threshold(10.0, "guessed", "a cold aisle moves by 5 C over a year", "2026-11")

DRIVE_SHARE = Threshold(0.5, "guessed", "data-centre drives read 80 to 95 % of their link's rate", "2026-11")
"""Share of its PCIe link's rate below which a drive is slow."""
DRIVE_FAIL_SHARE = Threshold(0.1, "guessed", "slower than a Gen1 link", "2026-11")
DRIVE_HOT_C = Threshold(70.0, "vendor", "NVMe drives throttle at 70 to 85 C (WCTEMP of PM9A3: 70 to 80)", "2026-11")


def inconclusive(check: str, subject: str, expected: str, why: str, remedy: str, source: str = "") -> Finding:
    """Return the finding of a measurement that says nothing about the hardware."""
    return Finding(check, INCONCLUSIVE, subject, expected, why, "the hardware is not proved", remedy, source)


def deviations(values: Sequence[float], floor: float) -> list[float]:
    """Return how far each value lies from the median, in robust standard deviations of at least `floor`.

    Args:
        values: figures of equals.
        floor: the least that counts as one standard deviation, in the unit of the values, above 0: where all are
            nearly equal, a tiny difference is none.
    """
    if not values:
        return []
    middle = median(values)
    spread = max(1.4826 * median(abs(v - middle) for v in values), floor)
    return [(v - middle) / spread for v in values]
