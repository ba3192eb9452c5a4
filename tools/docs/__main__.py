"""Write all pages of the site: ``python -m tools.docs FOLDER``."""

import shutil
import sys
from pathlib import Path

from tools.docs.gathering import gather

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in gather().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
