"""The site: built with warnings as errors, no dead link, nothing loaded from elsewhere, shown by a browser."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.support.http_server import answering


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """The links and anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        for key in ("href", "src"):
            if (link := found.get(key)) and not (tag == "link" and found.get("rel") == "canonical"):
                self.links.append(link)


def test_every_page_is_in_the_site(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()


def test_internal_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= 25
    followed = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.relative_to(site)}: {link}"
            followed += 1
        text = path.read_text()
        assert not re.findall(r'<(?:script|img)[^>]* src="https?:', text)
        assert not re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="https?:', text)
    assert followed > 500


def test_no_picture_is_shown_as_its_source() -> None:
    for page in DOCS.rglob("*.md"):
        assert "```mermaid" not in page.read_text(), f"{page.name}: the site would show the source"


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    commands = (site / "reference" / "command-line.html").read_text()
    for words in ("triton-fpga serve", "--model-repository", "triton-fpga bench engine"):
        assert words in commands
    assert "self_test_interval_s" in (site / "reference" / "model-parameters.html").read_text()
    assert "fpga_failovers_total" in (site / "reference" / "metrics.html").read_text()
    assert "ServerNotFoundError" in (site / "reference" / "errors.html").read_text()
    for page in (site / "reference").glob("*.html"):
        assert "{{" not in page.read_text()


WALK = """<!doctype html><title>walking</title><iframe id="frame" style="border: 0; height: 900px"></iframe><script>
// From the first page over every link within the site, as a reader could; each page narrow and wide.
const frame = document.getElementById("frame"), faults = [], seen = new Map();
const wanted = [["index.html", "", "the start"]];
const load = url => new Promise((loaded, failed) => {
  const late = setTimeout(() => failed(`${url} does not load`), 30000);
  frame.onload = () => { clearTimeout(late); loaded(); };
  frame.src = url;
});
async function visit(path, from) {
  if (!(await fetch(path)).ok) { faults.push(`${from}: there is no ${path}`); return new Set(); }
  await load(path);
  const page = frame.contentDocument;
  for (const width of [390, 1280]) {
    frame.style.width = `${width}px`;
    // the theme's scripts follow a change of the window a little later
    for (let look = 0; look < 40 && page.documentElement.scrollWidth > width; ++look)
      await new Promise(waited => setTimeout(waited, 50));
    if (!page.querySelector("h1")?.innerText) faults.push(`${path} at ${width}: no heading is shown`);
    const wide = page.documentElement.scrollWidth;
    if (wide > width) faults.push(`${path} at ${width}: ${wide} pixels wide`);
    for (const image of page.images)
      if (!image.naturalWidth || image.width > width) faults.push(`${path} at ${width}: picture ${image.src}`);
  }
  for (const link of page.querySelectorAll("article a[href], nav a[href]")) {
    const url = new URL(link.href);
    if (url.origin === location.origin)
      wanted.push([url.pathname.slice(1) || "index.html", decodeURIComponent(url.hash.slice(1)), path]);
  }
  return new Set([...page.querySelectorAll("[id], a[name]")].map(element => element.id || element.name));
}
async function walk() {
  while (wanted.length) {
    const [path, anchor, from] = wanted.shift();
    if (!seen.has(path)) seen.set(path, path.endsWith(".html") ? await visit(path, from) : null);
    const anchors = seen.get(path);
    if (anchor && anchors && !anchor.startsWith("__") && !anchors.has(anchor))
      faults.push(`${from}: ${path}#${anchor}`);
  }
  return {faults, pages: [...seen.keys()]};
}
walk().catch(error => ({faults: [`${error}`], pages: []})).then(
  told => fetch("walked", {method: "POST", body: JSON.stringify(told)}));
</script>"""


class Walked(SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what the walking page sends."""

    told: queue.Queue[Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.told.put(json.loads(body))

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_a_browser_follows_every_internal_link(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page tells the server when it is done: Chromium's own dump of a page after virtual time may never come."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "Chromium is needed: `make test-browser` installs it, or apt-get install chromium"
    (site / "walk.html").write_text(WALK)
    monkeypatch.chdir(site)
    Walked.told = queue.Queue()
    with answering(Walked) as port:
        browser = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--no-first-run", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
             f"--user-data-dir={tmp_path}", "--window-size=1400,1000", f"http://127.0.0.1:{port}/walk.html"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            told = Walked.told.get(timeout=240)
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
    (site / "walk.html").unlink()
    assert told["faults"] == []
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")} - {"404.html"}
    assert pages <= set(told["pages"])
