"""Open a page in headless Chromium, and return what its scripts found in it."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest

BROWSERS = ('chromium', 'google-chrome')  # as in .ci/run
#: If this variable is set, a missing browser is a failure. CI sets it.
REQUIRED = 'MMKD_REQUIRE_BROWSER'
OPTIONS = (
    *('--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic'),
    *('--no-first-run', '--disable-background-networking', '--disable-component-update'),
    *('--disable-sync', '--enable-logging=stderr', '--window-size=1280,1024'),
    '--virtual-time-budget=20000',  # timers of the page run at once
)
PROBE = """
<pre id="probe"></pre>
<script type="module">
const tick = () => new Promise((resolve) => setTimeout(resolve, 500));
const click = (element) =>
  element.dispatchEvent(new MouseEvent('click', { bubbles: true, view: window }));
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const texts = (selector, root = document) =>
  all(selector, root).map((element) => element.textContent.trim());
await tick();
const found = {};
%s
document.getElementById('probe').textContent = JSON.stringify(found);
</script>
"""


class Opened(NamedTuple):
    """A page that was opened.

    Args:
        found: The object ``found`` that the script of the test filled.
        console: Lines of the console, with errors of the page and of files that were not loaded.
    """

    found: Any
    console: list[str]


def browser() -> str:
    """Return the path of Chromium or Chrome; skip the test, or let it fail, if there is none."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    reason = 'neither chromium nor google-chrome is installed (Debian: apt-get install chromium)'
    if os.environ.get(REQUIRED):
        pytest.fail(f'{reason}, and {REQUIRED} is set')
    pytest.skip(reason)


def open_page(page: Path, profile: Path, script: str) -> Opened:
    """Open a copy of a page beside it, with a script at its end.

    Args:
        page: The page.
        profile: A new folder for the browser.
        script: JavaScript that fills ``found``. It can use ``all(selector, root)``, ``texts`` of
            the same, ``click(element)`` and ``await tick()``.
    """
    copy = page.with_name(f'probed_{page.name}')
    copy.write_text(page.read_text() + PROBE % script)
    command = [browser(), *OPTIONS, f'--user-data-dir={profile}', '--dump-dom', copy.as_uri()]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    probe = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout, re.S)
    console = re.findall(r':CONSOLE:.*', done.stderr)
    assert probe, f'the script did not end: {console}'
    return Opened(json.loads(unescape(probe[1])), console)
