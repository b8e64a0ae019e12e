"""Tables that fit the terminal: columns have a rank, and those of the lowest are left out until the rest fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text

GAP = 2
"""Blanks between columns."""

T = TypeVar("T")
Cell = tuple[str, str]
"""Text and style."""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column.

    Attributes:
        title: its head.
        cell: a row -> text and style.
        rank: the higher, the earlier it is left out.
        right: numbers stand to the right.
        least: cells that its text may be cut to; 0 for a text that is never cut.
    """

    title: str
    cell: Callable[[T], Cell]
    rank: int
    right: bool = True
    least: int = 0


def lines_of(columns: Sequence[Column[T]], rows: Sequence[T], width: int, *, indent: int = 0) -> list[Text]:
    """Return the head and a line a row, none longer than `width` cells; a column without any text is left out."""
    texts = [[column.cell(row) for column in columns] for row in rows]
    needed = [
        max([cell_len(column.title), *(cell_len(cells[i][0]) for cells in texts)]) for i, column in enumerate(columns)
    ]
    chosen = [i for i in range(len(columns)) if not texts or any(cells[i][0] for cells in texts)]
    room = width - indent

    def total(sizes: Sequence[int], which: Sequence[int]) -> int:
        return sum(sizes[i] for i in which) + GAP * (len(which) - 1)

    least = [min(n, max(c.least, cell_len(c.title))) if c.least else n for n, c in zip(needed, columns, strict=True)]
    while len(chosen) > 1 and total(least, chosen) > room:
        chosen.remove(max(chosen, key=lambda i: (columns[i].rank, i)))
    sizes = list(least)
    for i in sorted(chosen, key=lambda i: columns[i].rank):  # what is left over goes to the texts that were cut
        spare = room - total(sizes, chosen)
        sizes[i] = min(needed[i], sizes[i] + max(spare, 0))
    head = _line([(columns[i].title, "bold") for i in chosen], [columns[i] for i in chosen], [sizes[i] for i in chosen])
    body = [
        _line([cells[i] for i in chosen], [columns[i] for i in chosen], [sizes[i] for i in chosen]) for cells in texts
    ]
    return [_indented(line, indent, width) for line in (head, *body)]


def _line(cells: Sequence[Cell], columns: Sequence[Column[T]], sizes: Sequence[int]) -> Text:
    line = Text(no_wrap=True)
    for number, ((text, style), column, size) in enumerate(zip(cells, columns, sizes, strict=True)):
        last = number == len(cells) - 1
        if cell_len(text) > size:
            text = set_cell_size(text, max(size - 1, 0)) + "…"
        blank = " " * (size - cell_len(text))
        line.append(" " * GAP if number else "")
        if column.right:
            line.append(blank)
        line.append(text, style=style)
        if not column.right and not last:
            line.append(blank)
    return line


def _indented(line: Text, indent: int, width: int) -> Text:
    whole = Text(" " * indent, no_wrap=True) + line
    whole.truncate(width, overflow="ellipsis")
    return whole
