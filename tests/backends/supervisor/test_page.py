"""The page for people in headless Chromium: it shows what /status says, and takes no name for HTML."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.backends.supervisor.conftest import health
from triton_server.plugin.last_event import LastEvent, read_events
from triton_server.protocol import KNOWN_ANSWER_ID
from triton_server.server.server import TritonServer
from triton_server.supervisor.activity import Activity
from triton_server.supervisor.health_endpoint import HealthServer, page_headers
from triton_server.supervisor.models import ModelState
from triton_server.supervisor.restarts import Request
from triton_server.supervisor.supervisor import Supervisor

HOSTILE = """<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>"""


class Page(HTMLParser):
    """The text of each element with an id or a model, and the names of all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.tags: list[str] = []
        self.title = ""
        self._open: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        key = found.get("id") or (f"{found['data-model']} {found['data-version']}" if "data-model" in found else "")
        if tag not in ("meta", "link", "img", "br", "path"):
            self._open.append((tag, key or ""))

    def handle_endtag(self, tag: str) -> None:
        if any(opened == tag for opened, _ in self._open):
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        for tag, key in self._open:
            if key:
                self.texts[key] = self.texts.get(key, "") + data
            self.title = data if tag == "title" else self.title


class Counters:
    """Triton's page of a busy minute."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> str:
        self.looks += 1
        told: dict[str, list[str]] = {}
        for model, per_look, each_us in (("top_tagger", 1500, 1900), ("resnet50_top", 3, 900_000)):
            answered = sum(per_look * (1 + n % 5) for n in range(self.looks))
            for name, kind, value in (
                ("request_success", "counter", answered),
                ("request_duration_us", "counter", answered * each_us),
                ("queue_duration_us", "counter", answered * each_us // 4),
                ("pending_request_count", "gauge", per_look // 100),
            ):
                lines = told.setdefault(name, [f"# TYPE nv_inference_{name} {kind}"])
                lines.append(f'nv_inference_{name}{{model="{model}",version="1"}} {value}')
        return "\n".join(line for lines in told.values() for line in lines) + "\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HealthServer]:
    """A supervisor as after some hours of service, with folders in its repository that somebody named in malice."""
    monkeypatch.setattr(TritonServer, "running", True)
    supervisor = Supervisor(TritonServer(tmp_path))
    models = [
        health("top_tagger", state=ModelState.SERVING, detail="equal", device="cpu", isa="avx2", precision="int8",
               kernel="vector 1f3c9a77 avx2", choice="first", probe_s=0.0021, self_tests={"right": 240}),
        health("resnet50_top", state=ModelState.SLOW, detail="equal", device="reference", precision="int8",
               kernel="reference", choice="last", failovers=1, probe_s=1.2, self_tests={"right": 239, "wrong": 1}),
    ]  # fmt: skip
    refused = {HOSTILE: f"the folder's name {HOSTILE!r} is not a model name"}
    supervisor.models.replace({one.key: one for one in models}, refused, {one.key for one in models}, ())
    last = LastEvent(tmp_path, "top_tagger", "1")
    jet = np.zeros((1, 200, 4), np.float32)
    jet[0, :3] = [[500, 300, 400, 0], [90, 50, 60, 30], [20, 14, 10, -10]]
    last.offer(KNOWN_ANSWER_ID, {}, {})
    last.offer("", {"constituents": jet}, {"probabilities": np.array([[0.125, 0.875]])})
    last.write()
    (tmp_path / "top_tagger").mkdir()
    (tmp_path / "top_tagger" / "labels.txt").write_text("qcd\ntop\n")
    monkeypatch.setattr(supervisor, "events", lambda: read_events(tmp_path, tmp_path))
    supervisor.restarts.came_up()
    for cause, detail in (("dead", "the stub of top_tagger_0 (process 4711) has ended"), ("hung", HOSTILE)):
        supervisor.restarts.went_down(Request(cause, detail))
        supervisor.restarts.came_up(Request(cause, detail))
    times = iter(range(180))
    began = time.time() - 900
    now = {"now": 0.0}
    supervisor.activity = Activity(Counters(), lambda: now["now"], lambda: began + now["now"])
    for number in times:
        now["now"] = number * 5.0
        supervisor.activity.sample()
    made = HealthServer(supervisor, "127.0.0.1", 0)
    yield made
    made.close()


def chromium(tmp_path: Path, *arguments: str) -> str:
    program = shutil.which("chromium")
    assert program is not None, "Chromium is needed: `make test-browser` installs it, or apt-get install chromium"
    done = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'chromium'}", "--virtual-time-budget=3000", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.browser
def test_the_page_shows_what_the_status_says_and_runs_no_name(server: HealthServer, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.port}/"
    with urllib.request.urlopen(url + "status", timeout=20) as answer:  # noqa: S310 - our own URL
        status = json.load(answer)
    page = Page(chromium(tmp_path, "--dump-dom", url))
    assert page.title == "ready, degraded – inference service"
    assert page.texts["state"] == "ready, degraded"
    assert "img" not in page.tags
    assert page.tags.count("script") == 1
    for row, activity in zip(status["models"], sorted(status["activity"], key=lambda row: row["model"]), strict=True):
        text = page.texts[f"{row['model']} {row['version']}"]
        words = [row["state"], row["device"], row["isa"], row["precision"], row["kernel"], f"{row['probe_ms']:.1f} ms"]
        words += [f"answered {activity['per_s'][-1]:.1f}", f"mean {activity['latency_ms'][-1]:.1f}"]
        words += [f"waiting {activity['queue_ms'][-1]:.1f}", f"{row['self_tests'].get('wrong', 0)} wrong"]
        for word in words:
            assert word in text, (word, text)
        assert ("degraded" in text) is row["degraded"]
        assert ("probabilities qcd 0.1250, top 0.8750" in text) is (row["model"] == "top_tagger")
    assert page.tags.count("canvas") == 1
    for restart in status["last_restarts"]:
        assert restart["cause"] in page.texts["restarts"]
        assert restart["detail"] in page.texts["restarts"]
    for name, reason in status["refused"].items():
        assert f"{name}: {reason}" in page.texts["refused"]


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(server: HealthServer, tmp_path: Path, width: int) -> None:
    """Measured by the browser itself, with the page as wide as a phone or a desk."""
    page = server._server.page.replace(
        "poll();\n</script>",
        f"document.documentElement.style.width = '{width}px';\npoll();\n"
        "const right = () => Math.max(...[...document.querySelectorAll('main *')].map("
        "element => element.getBoundingClientRect().right));"
        "setTimeout(() => document.title = `${right()}`, 2500);\n</script>",
    )
    assert page != server._server.page
    server._server.page, server._server.page_headers = page, page_headers(page)
    dom = chromium(tmp_path, f"--window-size={max(width, 500)},900", "--dump-dom", f"http://127.0.0.1:{server.port}/")
    assert 0.9 * width < float(Page(dom).title) <= width
