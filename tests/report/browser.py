"""A real headless browser, where there is one."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on PATH")

_COMMAND = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--virtual-time-budget=5000",
)  # fmt: skip


def run_browser(folder, *arguments):
    """Run the browser with a profile of its own, and return what it printed."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_COMMAND, f"--user-data-dir={folder / 'profile'}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def evaluate(folder, page, script, *, width=1200, dark=False):
    """Open a page, and return what a function's body returns there, by way of JSON."""
    tail = (
        "<script>addEventListener('load', () => {let found; try { found = (() => {"
        + script
        + "})(); } catch (error) { found = {error: String(error)}; }"
        "const pre = document.createElement('pre'); pre.id = 'found';"
        "pre.textContent = JSON.stringify(found); document.body.append(pre);});</script>"
    )
    copy = folder / "page.html"
    copy.write_text(page.replace("</body>", tail + "</body>"), encoding="utf-8")
    looks = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    dom = run_browser(folder, f"--window-size={width},900", *looks, "--dump-dom", copy.as_uri())
    shown = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert shown is not None, dom[-500:]
    found = json.loads(unescape(shown[1]))
    assert not (isinstance(found, dict) and "error" in found), found
    return found
