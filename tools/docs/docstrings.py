"""Docstrings as Griffe reads them: an extension for mkdocstrings (see ``mkdocs.yml``)."""

import re
from typing import Any

import griffe


class Sections(griffe.Extension):
    """Names the section of an example as Griffe does; a text before code ends with one colon."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring before it is parsed."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
