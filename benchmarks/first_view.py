"""How long until the page can be used? A browser that has never been here opens it, again and again.

    python -m benchmarks.first_view [--rounds 9]

The time runs from the request until Generate has been painted; `content` is the first paint with anything in it,
`largest` that of the largest piece, as browsers report them. Bytes are those that came over the wire. All on one
machine: the browser takes its share of the cores. `again` opens the page in a browser that was here before.
"""

from __future__ import annotations

import argparse
import statistics
import time

from playwright.sync_api import BrowserContext

from benchmarks.soak import serving
from tools.browser import chromium

PAINTED = """() => new Promise((done) => {
    const look = () => {
        if (document.getElementById("img2img_generate")?.offsetParent) {
            requestAnimationFrame(() => requestAnimationFrame(done));
        } else {
            setTimeout(look, 5);
        }
    };
    look();
})"""
REPORTED = """() => new Promise((done) => {
    const content = performance.getEntriesByName("first-contentful-paint")[0].startTime;
    const loaded = [...performance.getEntriesByType("resource"), ...performance.getEntriesByType("navigation")];
    const bytes = loaded.reduce((sum, one) => sum + one.transferSize, 0);
    const largest = (list) => done([content, list.getEntries().at(-1).startTime, bytes]);
    new PerformanceObserver(largest).observe({ type: "largest-contentful-paint", buffered: true });
})"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with serving() as (port, _), chromium() as browser:
        views: dict[str, list[tuple[float, ...]]] = {"first": [], "again": []}
        for _ in range(rounds):
            with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
                for name in views:
                    views[name].append(opened(context, port))
    for name, seen in views.items():
        usable, content, largest, size = (statistics.median(values) for values in zip(*seen, strict=True))
        painted = f"content {content:.2f}, largest {largest:.2f}"
        print(f"{name}: usable {usable:.2f} s (at most {max(seen)[0]:.2f}), {painted}, {size:,.0f} bytes")


def opened(context: BrowserContext, port: int) -> tuple[float, float, float, float]:
    """Open the page in a new tab; seconds until usable, to the first and the largest paint, and bytes."""
    page = context.new_page()
    began = time.perf_counter()
    page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
    page.evaluate(PAINTED)
    usable = time.perf_counter() - began
    page.wait_for_timeout(1500)  # the largest piece is reported late
    content, largest, size = page.evaluate(REPORTED)
    page.close()
    return usable, content / 1000, largest / 1000, size


if __name__ == "__main__":
    main()
