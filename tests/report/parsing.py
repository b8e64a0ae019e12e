"""An HTML page as a tree, strictly: what is opened must be closed, ids must be unique."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "link", "img", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """All elements below, by tag and attributes (`cls` for class: one of them)."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and child.has(**attributes):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def has(self, **attributes: str) -> bool:
        for name, value in attributes.items():
            if name == "cls":
                if value not in self.attributes.get("class", "").split():
                    return False
            elif self.attributes.get(name) != value:
                return False
        return True

    @property
    def text(self) -> str:
        return " ".join("".join(c if isinstance(c, str) else f" {c.text} " for c in self.children).split())

    def section(self, title: str) -> Element:
        return next(s for s in self.all("section") if any(h.text == title for h in s.all("h3")))


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("root", {})
        self.open = [self.root]
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs})
        assert len(element.attributes) == len(attrs), f"an attribute twice in {tag}"
        if "id" in element.attributes:
            self.ids.append(element.attributes["id"])
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    """Return the page as a tree.

    Raises:
        AssertionError: a tag is closed by another's, an attribute or id stands twice.
    """
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert [e.tag for e in parser.open] == ["root"], "left open"
    assert len(set(parser.ids)) == len(parser.ids), "an id twice"
    return parser.root
