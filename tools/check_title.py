"""Refuse a commit message whose title is not ``area: Verb object`` in at most 60 characters."""

import re
import sys
from pathlib import Path

LONGEST = 60


def main() -> int:
    """Check the title of the message in the file that git names; return the exit status."""
    title = Path(sys.argv[1]).read_text(encoding="utf-8").partition("\n")[0]
    if title.startswith(("Merge ", "Revert ", "fixup! ", "squash! ")):
        return 0
    if len(title) > LONGEST or not re.fullmatch(r"[\w./-]+: [A-Z].*[^.]", title):
        expected = f"'area: Verb object', at most {LONGEST}"
        print(f"commit title {title!r} ({len(title)} characters): expected {expected}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
