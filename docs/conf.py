"""Sphinx settings of the documentation: ``make docs`` builds it offline, and every warning is an error."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "SAPNet for ROS 2"
copyright = "the SAPNet ROS maintainers, Apache-2.0"
release = re.search(r'^__version__ = "(.+)"$', (ROOT / "sapnet/__init__.py").read_text(), re.MULTILINE)[1]

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# Every heading can be linked to, by the name that GitHub gives it.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
nitpicky = True

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
