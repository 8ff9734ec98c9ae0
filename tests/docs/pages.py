"""The pages that people read and their blocks of code; docs/reference/ is made from the code (tests/reference)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path for glob in ("*.md", "docs/*.md", "examples/**/*.md", "cluster/*.md") for path in ROOT.glob(glob))


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language ("" if it says none) and its text without the fence's indent."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0][:40] if self.text else ''}"


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, language, re.sub(rf"^{indent}", "", text, flags=re.M))
        for page in PAGES
        for indent, language, text in re.findall(r"^( *)```(\w*)\n(.*?)^\1```", page.read_text(), re.S | re.M)
        if language in languages
    ]


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a shell, console or plain block that calls pcace."""
    return [
        (str(block.page.relative_to(ROOT)), found[1])
        for block in blocks("", "sh", "bash", "console")
        for line in block.text.replace("\\\n", " ").splitlines()
        if (found := re.match(r"\s*(?:\$ )?(?:\S*/)?(pcace .*)", line))
    ]


def listed(caption: str) -> list[str]:
    """The pages of the parts of docs/index.md whose captions begin so (Tutorials, How to), as paths below the root."""
    index = (ROOT / "docs" / "index.md").read_text()
    parts = re.findall(rf"^:caption: '?{caption}.*\n((?:(?!```).*\n)*)", index, re.M)
    assert parts, f"docs/index.md has no part {caption}"
    names = [line for part in parts for line in part.splitlines() if line and not line.startswith(":")]
    return [str((ROOT / "docs" / f"{name}.md").resolve().relative_to(ROOT)) for name in names]
