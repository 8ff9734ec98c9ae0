"""Links the first use of each glossary term on a page to the glossary, when the site is built. Sources stay plain.

A Sphinx extension. Terms are the headings of docs/glossary.md; what a link says on hover is the term's first sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

GLOSSARY = "docs/glossary"
WITHOUT = ("docs/reference/", "cluster/", GLOSSARY, "docs/index", "CHANGELOG", "CODE_OF_CONDUCT", "SECURITY")
NOT_IN = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.raw, nodes.caption)
FORMS = {  # of words that mean something else as well
    "code": r"(?<!exit )(?<!turns )codes|(?<=its )code(?= is)",
    "effect": r"(?<!no )(?<!total )effects?(?! on)",
    "group": r"(?<!row )(?<!node )groups?",
    "interval": r"(?<!knot\s)(?<!old\s)intervals?",
    "map": r"(?<=activation\s)maps?|(?<=mean\s)maps?|(?<='s\s)maps?|(?<=a channel as a )map",
    "plan": r"(?:the|one|a|its|shared|same|frozen) plan|plans",
    "reduce": r"(?:the|a) reduce",
    "transform": r"(?<!your own )transforms?",
    "unit": r"(?<!in\s)(?<!'s\s)(?<!\d\s)units?(?! tests?| x)",
}
"""Regular expressions by term; of every other term the word and its plural are looked for."""


def terms(page: str) -> dict[str, str]:
    """The first sentence of each `### term` of the glossary, without marks and links."""
    found = re.findall(r"^### (.+)\n+(.+(?:\n.+)*)", page, re.M)
    return {name: sentence(text) for name, text in found}


def sentence(text: str) -> str:
    """The first sentence of a paragraph in Markdown, as plain text."""
    plain = re.sub(r"[*`]|\[([^]]*)\]\([^)]*\)", r"\1", text.replace("\n", " "))
    return re.split(r"(?<=\.) ", plain.strip())[0]


def pattern(term: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w./-])(?:{FORMS.get(term, re.escape(term) + 's?')})(?![\w-]|\.\w)", re.I)


def texts(page: nodes.Node) -> Iterator[nodes.Text]:
    """What is read as text: no headings, links, code or formulas."""
    for text in page.findall(nodes.Text):
        parent: nodes.Node | None = text.parent
        while parent is not None and not isinstance(parent, NOT_IN):
            parent = parent.parent
        if parent is None:
            yield text


def link_first_uses(page: nodes.Node, said: Mapping[str, str], glossary: str) -> list[str]:
    """Link the first use of each term on a page; the terms that were found, in the page's order. Where two overlap, the
    longer one counts ("rank interval", not "interval"). glossary: address of the glossary from the page."""
    left, found = sorted(said, key=len, reverse=True), []
    for text in list(texts(page)):
        uses: dict[str, re.Match[str]] = {}
        for term in left:
            if use := next((use for use in pattern(term).finditer(text) if is_free(use, uses.values())), None):
                uses[term] = use
        inside, end = [], 0
        for term, use in sorted(uses.items(), key=lambda item: item[1].start()):
            address = f"{glossary}#{term.lower().replace(' ', '-')}"
            link = nodes.reference("", use[0], refuri=address, reftitle=said[term], classes=["term"])
            inside += [nodes.Text(text[end : use.start()]), link]
            left.remove(term)
            found.append(term)
            end = use.end()
        if uses:
            text.parent.replace(text, [node for node in (*inside, nodes.Text(text[end:])) if node.astext()])
    return found


def is_free(use: re.Match[str], others: Iterable[re.Match[str]]) -> bool:
    return all(use.end() <= other.start() or other.end() <= use.start() for other in others)


def resolved(app: Sphinx, page: nodes.document, name: str) -> None:
    if not name.startswith(WITHOUT):
        said = terms((Path(app.srcdir) / f"{GLOSSARY}.md").read_text())
        link_first_uses(page, said, app.builder.get_relative_uri(name, GLOSSARY))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", resolved)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
