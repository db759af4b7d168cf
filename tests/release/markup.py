"""What a page is made of, as a browser and a screen reader would take it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "br", "path", "use", "rect", "img", "link", "polygon", "circle", "ellipse", "line"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    parents: tuple["Element", ...] = ()
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def within(self, tag: str) -> bool:
        return any(one.tag == tag for one in self.parents)


class Page(HTMLParser):
    """A page's elements in their order; what is not closed in its place is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(text)
        assert not self.open, f"<{self.open[-1].tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), tuple(self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open.pop().tag == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.words.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [one for one in self.elements if one.tag in tags]

    @property
    def ids(self) -> list[str]:
        return [one.attributes["id"] or "" for one in self.elements if "id" in one.attributes]

    @property
    def loads(self) -> list[str]:
        """What a browser would fetch from elsewhere."""
        return [
            f"{one.tag} {name}={value}"
            for one in self.elements
            for name, value in one.attributes.items()
            if name in {"src", "href", "srcset", "poster", "data", "action"}
            and not (value or "").startswith(("#", "data:"))
        ]


def faults(page: Page) -> list[str]:
    """Return what of the page would stop someone who does not see it, or who has no mouse."""
    found = [] if page.elements[0].attributes.get("lang") else ["the page has no language"]
    return found + _headings(page) + _names(page) + _tables(page) + _keys(page)


def _headings(page: Page) -> list[str]:
    found = [] if len(page.all("h1")) == 1 else ["there is not one h1"]
    level = 0
    for heading in page.all("h1", "h2", "h3", "h4", "h5", "h6"):
        own = int(heading.tag[1])
        if own > level + 1:
            found.append(f"h{own} {heading.text!r} comes after h{level}")
        level = own
    return found


def _names(page: Page) -> list[str]:
    found = [f"no alt: {one.attributes}"[:99] for one in page.all("img") if not one.attributes.get("alt")]
    for drawing in page.all("svg"):
        if drawing.attributes.get("role") != "img" or not drawing.attributes.get("aria-label"):
            found.append(f"a figure has no name: {drawing.attributes}")
    for one in page.elements:
        label = one.attributes.get("aria-labelledby")
        if label and label not in page.ids:
            found.append(f"aria-labelledby {label} is nobody")
        if one.attributes.get("role") == "region" and not one.attributes.get("aria-label"):
            found.append("a region has no name")
    return found


def _tables(page: Page) -> list[str]:
    captions = [one.parents[-1] for one in page.all("caption") if one.text]
    found = [f"table {one.text[:40]!r} has no caption" for one in page.all("table") if one not in captions]
    return found + [f"<th>{one.text} has no scope" for one in page.all("th") if "scope" not in one.attributes]


def _keys(page: Page) -> list[str]:
    summaries = [one.parents[-1] for one in page.all("summary") if one.text]
    found = ["<details> without a summary" for one in page.all("details") if one not in summaries]
    for link in page.all("a"):
        target = (link.attributes.get("href") or "").removeprefix("#")
        if target not in page.ids or not link.text:
            found.append(f"a link has no words, or leads nowhere: {target}")
    for one in page.elements:
        if "onclick" in one.attributes or (one.attributes.get("tabindex") or "0") > "0":
            found.append(f"{one.tag} is for a mouse, or out of order")
    return found
