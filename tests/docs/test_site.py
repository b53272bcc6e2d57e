"""The site: built with warnings as errors, no dead link, nothing loaded from elsewhere, shown by a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import DOCS, ROOT


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
const load = url => new Promise(loaded => { frame.onload = loaded; frame.src = url; });
async function visit(path, from) {
  if (!(await fetch(path)).ok) { faults.push(`${from}: there is no ${path}`); return new Set(); }
  await load(path);
  const page = frame.contentDocument;
  for (const width of [390, 1280]) {
    frame.style.width = `${width}px`;
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
  document.title = JSON.stringify({faults, pages: [...seen.keys()]});
}
walk().catch(error => { document.title = JSON.stringify({faults: [`${error}`], pages: []}); });
</script>"""


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    (site / "walk.html").write_text(WALK)
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()
    (site / "walk.html").unlink()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.browser
@pytest.mark.timeout(600)
def test_a_browser_follows_every_internal_link(site: Path, served: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "Chromium is needed: `make test-browser` installs it, or apt-get install chromium"
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom",
         f"--user-data-dir={tmp_path}", "--window-size=1400,1000", "--virtual-time-budget=600000",
         served + "walk.html"],
        capture_output=True, text=True, timeout=580, check=True,
    )  # fmt: skip
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title is not None
    told = json.loads(unescape(title[1]))
    assert told["faults"] == []
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")} - {"404.html", "walk.html"}
    assert pages <= set(told["pages"])
