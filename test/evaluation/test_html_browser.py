# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: nothing is wrong with its script, its pictures, or its width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from report_pages import errors, written

pytest.importorskip("jinja2")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason=f"none of {', '.join(BROWSERS)} is installed")

QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --enable-logging=stderr --v=0"
)
ERRORS = "<head><script>window.wrong = []; onerror = (message) => { window.wrong.push(message); };</script>"
PROBE = """<script>
addEventListener("load", () => {
  const table = document.getElementById("table-stacks"), heads = [...table.tHead.rows[0].cells];
  const at = heads.findIndex((h) => h.textContent.startsWith("AbsRel"));
  const column = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[at].dataset.value));
  const before = column();
  heads[at].querySelector("button").click();
  const up = column();
  heads[at].querySelector("button").click();
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify({
    wrong: window.wrong, before, up, down: column(), sort: heads[at].getAttribute("aria-sort"),
    widths: [...document.images].map((image) => image.naturalWidth),
    page: [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth],
    outside: [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, .picture, svg, script")
      && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80)),
    colour: getComputedStyle(document.body).backgroundColor,
  });
  parent.document.body.append(probe);
});
</script></body>"""


def run(page: Path, folder: Path, width: int, *options: str) -> tuple[str, str]:
    """Return what the browser prints and what it complains of."""
    command = [BROWSER, *QUIET.split(), f"--user-data-dir={folder}", f"--window-size={width},900", *options]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "r.html"
    long = "data/a_family_whose_name_is_long_and_has_no_place_to_break"
    written(path, errors(12, root=long), errors(12, "second", root=long), title="Title" * 20)
    return path


@pytest.mark.parametrize("width", [1280, 420])
def test_in_a_browser(page: Path, tmp_path: Path, width: int) -> None:
    source = page.read_text(encoding="utf-8")
    probed = source.replace("<head>", ERRORS).replace("</body>", PROBE)
    # In a frame, since a window of the browser cannot be as narrow as a phone.
    frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{escape(probed)}"></iframe>'
    outer = tmp_path / "outer.html"
    outer.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{frame}</body>', encoding="utf-8")
    dom, log = run(outer, tmp_path / "profile", 1400, "--dump-dom")
    assert "CONSOLE" not in log, log
    match = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert match is not None, "the page's own script, or that of the test, did not run to its end"
    found: dict[str, Any] = json.loads(unescape(match[1]))
    assert found["wrong"] == []
    assert len(found["widths"]) == source.count("<img ") and min(found["widths"]) > 0
    inner, document, body = found["page"]
    assert inner == width and max(document, body) <= width
    assert found["outside"] == []
    assert found["up"] == sorted(found["before"]) != found["before"]
    assert found["down"] == sorted(found["before"], reverse=True) and found["sort"] == "descending"


def test_screenshots_light_and_dark(page: Path, tmp_path: Path) -> None:
    brightness = []
    for name, options in (("light", ()), ("dark", ("--force-dark-mode",))):
        shot = tmp_path / f"{name}.png"
        run(page, tmp_path / name, 1280, f"--screenshot={shot}", "--hide-scrollbars", *options)
        picture = cv2.imread(str(shot))
        assert picture.shape[1] == 1280 and picture.std() > 5.0
        brightness.append(float(np.median(picture)))
    assert brightness[0] > 240 and brightness[1] < 60
