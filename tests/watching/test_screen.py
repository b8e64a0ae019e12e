"""The screen at 80 and 200 columns, for one node, eight and two hundred."""

from __future__ import annotations

import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from metalserve.errors import MetalserveError
from metalserve.watching.export import as_json
from metalserve.watching.figures import SORTS, figures_of, filter_of, sorted_by
from metalserve.watching.node import NodeView
from metalserve.watching.screen import Shown, screen, screen_lines
from tests.watching.samples import views


def text_of(nodes: list[NodeView], shown: Shown) -> list[str]:
    return [line.plain for line in screen_lines(nodes, shown)]


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("count", [1, 8, 200])
@pytest.mark.parametrize("height", [24, 50, None])
def test_it_fits(width: int, count: int, height: int | None) -> None:
    lines = text_of(sorted_by("trouble", views(count)), Shown(width, height, clock="12:00:00", interactive=True))
    assert max(cell_len(line) for line in lines) <= width
    assert height is None or len(lines) <= height
    assert f"{count} node" in lines[0] and "SIMULATED" in " ".join(lines[:3])


@pytest.mark.parametrize("width", [80, 200])
def test_two_hundred_nodes_are_a_line_each_the_worst_first(width: int) -> None:
    nodes = sorted_by("trouble", views(200))
    lines = text_of(nodes, Shown(width, 50))
    head = " ".join(lines[:2])
    told = ("196 ok", "1 down", "1 hung", "1600 GPUs", "1033.3 kW", "89.1k tokens/s", "594 waiting")
    assert all(words in head for words in told)
    body = next(n for n, line in enumerate(lines) if line.startswith("node ")) + 1
    rows = [line.split()[:2] for line in lines[body : body + 4]]
    assert rows == [["rack1-gpu005", "down"], ["rack1-gpu008", "hung"], ["rack1-gpu007", "xid"],
                    ["rack1-gpu003", "slowed"]]  # fmt: skip
    assert len(lines) == 50 and lines[-1].startswith("... ") and "more nodes by trouble" in lines[-1]
    assert len(text_of(nodes, Shown(width))) == body + 200
    assert "HW heat 1/8" in lines[body + 3]
    if width == 200:
        assert "Xid 79: GPU has fallen off the bus" in lines[body + 2] and "144/144" in lines[body + 2]
    assert "no connection: Could not connect (timed out)" in lines[body]
    assert "nvidia-smi hangs for 39 s" in lines[body + 1] and "97" not in lines[body + 1].split()[4:5]


def test_few_nodes_show_each_gpu_and_engine() -> None:
    lines = text_of(views(1), Shown(80, 24))
    gpus = [line for line in lines if "71/80" in line]
    assert len(gpus) == 8 and all("652/700" in line and "18/18" in line and "power cap" in line for line in gpus)
    engine = next(line for line in lines if " 8000 " in line).split()
    assert engine == ["0", "8000", "12", "3", "450.0", "2000.0", "47", "25"]
    hot = text_of(views(3)[2:], Shown(200, 40))
    assert any("HW heat, SW heat, HW slow" in line and " -2 " in line for line in hot)


def test_old_values_are_marked_with_their_age() -> None:
    nodes = views(8)
    down, hung = nodes[4], nodes[7]
    lines = text_of([down, hung], Shown(200, None, detail=True))
    assert "no connection: Could not connect (timed out), 0 s ago" in lines[1] and "kW" not in lines[0]
    assert any("nvidia-smi hangs for 39 s" in line and "values are 40 s old" in line for line in lines)
    assert sum("71/80" in line for line in lines) == 16


def test_eight_nodes_change_to_a_line_each_where_the_detail_does_not_fit() -> None:
    nodes = views(8)
    assert len(text_of(nodes, Shown(120, 40))) == 10
    assert len(text_of(nodes, Shown(120, 200))) > 80
    assert len(text_of(nodes, Shown(120, 40, detail=True))) == 40


def test_without_a_terminal_there_are_no_colours() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(screen(views(8), Shown(80)))
    assert "\x1b" not in out.getvalue() and "rack1-gpu003" in out.getvalue()


@pytest.mark.parametrize("key", SORTS)
def test_sorting_puts_the_unknown_last(key: str) -> None:
    nodes = views(8)
    bare = NodeView("bare", "connecting")
    ordered = sorted_by(key, [bare, *nodes])
    assert len(ordered) == 9
    if key in ("name", "trouble"):
        return
    values = [getattr(figures_of(node), key) for node in ordered]
    known = [value for value in values if value is not None]
    assert values[: len(known)] == known and len(known) < 9
    assert known == sorted(known, reverse=key not in ("margin", "clock"))


def test_names_sort_as_people_count() -> None:
    names = [f"gpu{n}" for n in (10, 9, 2)]
    assert [n.name for n in sorted_by("name", [NodeView(x, "ok") for x in names])] == ["gpu2", "gpu9", "gpu10"]


@pytest.mark.parametrize(
    ("text", "count"),
    [("temp>80", 1), ("margin<=0", 1), ("state=down", 1), ("state!=ok", 4), ("xid=79", 1), ("gpu00", 8), ("*7", 1),
     ("tokens>=450", 8), ("kv < 40", 0)],
)  # fmt: skip
def test_filters(text: str, count: int) -> None:
    assert sum(map(filter_of(text), views(8))) == count


@pytest.mark.parametrize("text", ["heat>80", "temp>hot", "state=fine", "state>ok", "temp>", "", "name=a"])
def test_filters_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(MetalserveError, match="--filter"):
        filter_of(text)


def test_the_json_says_what_the_screen_says_and_null_for_the_unknown() -> None:
    told = json.loads(json.dumps(as_json([*views(8), NodeView("bare", "connecting")], epoch=1795640000, interval_s=2)))
    assert told["schema"] == 1 and told["simulated"] is True and told["taken"].startswith("2026-11-25T")
    first, bare = told["nodes"][0], told["nodes"][-1]
    assert first["figures"]["tokens"] == 450 and first["gpus"][0]["links"] == {"up": 18, "down": 0, "wanted": 18}
    assert first["engines"][0]["tokens_s"] == 450 and first["xids"] == []
    assert told["nodes"][2]["figures"]["held"] == "hw_thermal_slowdown"
    assert bare["gpus"] == [] and bare["xids"] is None and bare["figures"]["power"] is None
