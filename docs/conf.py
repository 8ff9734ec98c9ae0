"""The site: `make docs`. Its source is the whole project, so that links mean here what they mean in the repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pcace_dist import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

sys.path.append(str(Path(__file__).parent))  # for first_uses
project = "pcace_dist"
author = "the pcace_dist authors"
project_copyright = author
release = __version__

root_doc = "docs/index"
include_patterns = ["docs/**", "examples/**.md", "cluster/*.md", "*.md"]
exclude_patterns = [".*", "runs", "build", "dist", "site", "tests", "pcace_dist", "jobs", "**/data/**"]
extensions = ["myst_parser", "first_uses"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nitpicky = True
smartquotes = False

html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # its index.html leads to root_doc
html_theme = "furo"
html_title = f"pcace_dist {release}"
html_copy_source = False
html_search_scorer = str(Path(__file__).with_name("search.js"))  # Sphinx looks for it where the command was given
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
# Code of any kind is shown: what a shell prints is no Python.
highlight_language = "none"


def setup(app: Sphinx) -> None:
    """What has changed once answers no question: the changelog is read, not searched."""
    app.connect("env-updated", lambda _, env: env.metadata["CHANGELOG"].update(nosearch=True))
