"""Whatever stands in an inventory, the answer is settings or a SettingsError, and no value ever shows."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metalserve.settings import HostSettings, SettingsError
from metalserve.settings.reading import dotted_names

NAMES = sorted({part for name in dotted_names(HostSettings) for part in name.split(".")})
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.sampled_from(["auto", "open", "2026.11-lts", "h100-sxm", "nvswitch", "https://x/", "/srv/x", "0" * 40, "a/b"])
)
keys = st.sampled_from(NAMES) | st.text(max_size=8) | st.integers() | st.none() | st.tuples(st.integers())
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(keys, values, max_size=6))
def test_random_data_never_raises_anything_else(data: dict[Any, Any]) -> None:
    try:
        read = HostSettings.from_data(data, host="h", source="s.py")
    except SettingsError as error:
        assert error.problems
        assert all(line.startswith("s.py: h: ") and line.isprintable() for line in error.problems)
    else:
        assert isinstance(read.warnings(), list)


def _sections() -> st.SearchStrategy[dict[str, Any]]:
    """Data that is shaped right, with values at random: it comes further into the checks than random data."""
    expect = st.fixed_dictionaries(
        {},
        optional={
            "gpu": st.sampled_from(["h100-sxm", "l4", "b200", "nothing"]),
            "count": st.integers(-1, 16),
            "links": st.sampled_from(["nvswitch", "bridge", "direct", "pcie"]),
            "nvlinks_per_gpu": st.integers(0, 20),
            "nvme_count": st.integers(0, 3),
        },
    )
    engine = st.fixed_dictionaries(
        {},
        optional={
            "tensor_parallel": st.integers(0, 16),
            "pipeline_parallel": st.integers(1, 4),
            "replicas": st.integers(1, 8),
            "port": st.integers(65000, 66000),
            "extra_args": st.lists(st.sampled_from(["--seed", "--api-key", "-tp=2", ""]), max_size=2),
        },
    )
    return st.fixed_dictionaries({"release": st.just("2026.11-lts")}, optional={"expect": expect, "engine": engine})


@settings(max_examples=300, deadline=None)
@given(_sections())
def test_what_is_accepted_fits_the_gpus(data: dict[str, Any]) -> None:
    try:
        read = HostSettings.from_data(data, host="h", source="s.py")
    except SettingsError:
        return
    engine, count = read.engine, read.expect.count
    sizes = [size for size in (engine.tensor_parallel, engine.pipeline_parallel, engine.replicas) if size]
    if sizes and count is not None:
        product = 1
        for size in sizes:
            product *= size
        assert product <= count
    assert read.expect.links != "nvswitch" or count is None or count > 1


VALUE = "hf_Zq7SecretValue9"
PLACES = sorted(dotted_names(HostSettings))


@settings(max_examples=len(PLACES) * 4, deadline=None)
@given(
    st.sampled_from(PLACES),
    st.sampled_from([VALUE, [VALUE], {"env": VALUE}, {"file": VALUE}, {"x": VALUE}, VALUE.encode()]),
)
def test_a_secret_put_in_any_place_is_not_repeated(place: str, value: object) -> None:
    data: dict[str, Any] = {"release": "2026.11-lts"}
    inner = data
    *path, last = place.split(".")
    for step in path:
        inner = inner.setdefault(step, {}) if isinstance(inner.get(step, {}), dict) else {}
    inner[last] = value
    try:
        HostSettings.from_data(data, host="h", source="s.py")
    except SettingsError as error:
        assert VALUE not in str(error)
        assert VALUE not in repr(error)
        assert VALUE not in "".join(map(str, error.problems))
