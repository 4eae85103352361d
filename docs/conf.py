"""Settings of the documentation site: Sphinx with Furo, pages in Markdown. ``make docs`` builds it."""

import sys
from pathlib import Path

from mcjepa_server import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "mcjepa"
author = "the authors of mcjepa"
release = __version__
html_title = f"mcjepa {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "repository_pages",
    "generated_reference",
]
exclude_patterns = ["_ext"]
html_theme = "furo"
# Pages are plain HTML with a search index beside them: nothing is fetched, and they open from a folder too.
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

napoleon_use_ivar = True  # attributes of a docstring are no second entry beside the members
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
# Code blocks without a language are commands or output.
highlight_language = "none"
