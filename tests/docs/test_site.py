"""The site: built with warnings as errors, no dead link, nothing loaded from elsewhere, shown by a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
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


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    commands = (site / "reference" / "command-line.html").read_text()
    for words in ("triton-fpga serve", "--model-repository", "triton-fpga bench engine"):
        assert words in commands
    assert "self_test_interval_s" in (site / "reference" / "model-parameters.html").read_text()
    assert "fpga_failovers_total" in (site / "reference" / "metrics.html").read_text()
    assert "ServerNotFoundError" in (site / "reference" / "errors.html").read_text()
    for page in (site / "reference").glob("*.html"):
        assert "{{" not in page.read_text()


@pytest.mark.browser
def test_a_browser_shows_the_pages(site: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "Chromium is needed: `make test-browser` installs it, or apt-get install chromium"
    for name in ("index", "tutorials/first-jets", "reference/command-line"):
        url = (site / f"{name}.html").as_uri()
        done = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             f"--user-data-dir={tmp_path / name.replace('/', '-')}", "--virtual-time-budget=3000", "--dump-dom", url],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        assert 'data-md-component="content"' in done.stdout or "md-content" in done.stdout
        assert "<h1" in done.stdout
