# SPDX-License-Identifier: Apache-2.0
"""Made-up observations for the tests of the HTML report, and a reader of the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
from synthetic_stacks import FOCUS_M, captured, quantised, texture

from dualfocus_ros.evaluation.html import HtmlReport
from dualfocus_ros.evaluation.plausibility import look_at
from dualfocus_ros.evaluation.results import Evaluation, Observation, StackLook, StackResult
from dualfocus_ros.evaluation.stacks import score_estimate
from dualfocus_ros.types import DepthEstimate

SHAPE = (48, 64)
VOID = {"meta", "link", "img", "br", "line", "path", "circle"}
STACK = captured(quantised([texture(SHAPE, i) for i in range(len(FOCUS_M))]))


def observation(
    engine: str, path: str, error: float, *, truth: bool = True, look: bool = False, seed: int = 0
) -> Observation:
    """Return a slanted plane from 0.5 to 3 m, `error` (a fraction) too far at the left and right at the right."""
    rng = np.random.default_rng(seed)
    truth_m = np.tile(np.linspace(0.5, 3.0, SHAPE[1], dtype=np.float32), (SHAPE[0], 1))
    wrong = error * np.linspace(1.0, 0.0, SHAPE[1]) * rng.uniform(0.5, 1.0, SHAPE)
    depth_m = (truth_m * (1.0 + wrong)).astype(np.float32)
    depth_m[:2] = np.nan
    confidence = (1.0 / (1.0 + wrong)).astype(np.float32)
    sharp = np.ascontiguousarray(STACK.slices[0].image)
    estimate = DepthEstimate(depth_m, confidence, sharp, STACK.slices[0].intrinsics)
    name, family = Path(path), Path(path).parent.name
    result = None
    if truth:
        metrics, bands = score_estimate(depth_m, confidence, truth_m, STACK.focus_range_m, path)
        result = StackResult(name, family, metrics, 0.01 * (seed + 1), bands)
    seen = StackLook(name, family, look_at(estimate), 0.02) if look else None
    return Observation(engine, STACK, estimate, "camera_info", truth_m if truth else None, result, seen)


def evaluation(observations: list[Observation], **others: object) -> Evaluation:
    """Return what an evaluation would have made of observations of one engine."""
    results = tuple(o.result for o in observations if o.result is not None)
    looks = tuple(o.look for o in observations if o.look is not None)
    without = tuple(o.look.path for o in observations if o.result is None and o.look is not None)
    return Evaluation(observations[0].engine, "cpu", results, without, looks, **others)  # type: ignore[arg-type]


def errors(count: int, engine: str = "first", root: str = "data", **others: bool) -> list[Observation]:
    """Return stacks of two families whose errors grow with a shuffled number."""
    order = np.random.default_rng(3).permutation(count)
    return [
        observation(engine, f"{root}/{'ab'[i % 2]}/{i}", 0.02 * (1 + int(n)), seed=i, **others)
        for i, n in enumerate(order)
    ]


def written(path: Path, *engines: list[Observation], pictures: int = 6, title: str = "A title") -> Page:
    report = HtmlReport(title, pictures)
    for observations in engines:
        for o in observations:
            report.observe(o)
    report.write(path, [evaluation(list(o)) for o in engines], {"breathing": "auto"})
    return read(path)


@dataclass
class Page:
    """What a page holds: text, tables as rows of (text, data-value), images as (alt, source)."""

    source: str
    text: str = ""
    headings: list[str] = field(default_factory=list)
    tables: dict[str, list[list[tuple[str, str]]]] = field(default_factory=dict)
    images: list[tuple[str, str]] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    unclosed: list[str] = field(default_factory=list)

    def alts(self, start: str) -> list[str]:
        return [alt for alt, _ in self.images if alt.startswith(start)]

    def pictures(self) -> list[np.ndarray]:
        data = (base64.b64decode(uri.partition("base64,")[2], validate=True) for _, uri in self.images)
        return [cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR) for d in data]


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page, self.open, self.rows, self.value = page, [], [], ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = {name: value or "" for name, value in attrs}
        self.page.addresses += [a[name] for name in ("src", "href", "srcset", "action", "data") if name in a]
        if tag == "table":
            self.rows = self.page.tables.setdefault(a["id"].removeprefix("table-"), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(("", a.get("data-value", "")))
        elif tag == "img":
            self.page.images.append((a["alt"], a["src"]))
        elif tag == "svg" and a.get("role") == "img":
            self.page.charts.append(a["aria-label"])
        elif tag in ("h1", "h2", "h3"):
            self.page.headings.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID, tag

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.page.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.page.text += data
        cell = next((t for t in reversed(self.open) if t in ("td", "th", "h1", "h2", "h3")), "")
        if cell in ("td", "th"):
            text, value = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, value)
        elif cell:
            self.page.headings[-1] += data


def read(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    reader = _Reader(page)
    reader.feed(page.source)
    reader.close()
    page.unclosed += reader.open
    return page
