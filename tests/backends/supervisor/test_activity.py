"""What the server's own metrics tell."""

from __future__ import annotations

import logging

import pytest

from tests.backends.supervisor.conftest import Clock, health
from triton_server.errors import ControlError
from triton_server.supervisor.activity import Activity, read_metrics


def info(value: int, device: str, choice: str, version: str = "1", model: str = "tiny") -> str:
    labels = f'choice="{choice}",device="{device}",isa="avx2",kernel="k",model="{model}",precision="int8"'
    return f'fpga_model_info{{{labels},version="{version}"}} {value}\n'


def test_metrics_are_read() -> None:
    text = (
        '# HELP x y\n# TYPE x gauge\nfpga_model_info{device="cpu:1",kernel="a \\"b\\""} 1\nplain 3\nx{a="1"} 2.5e-3\n'
        "# TYPE c counter\nc 4\n# TYPE d_total counter\nd_total 5\n"
    )
    assert list(read_metrics(text)) == [
        ("fpga_model_info", {"device": "cpu:1", "kernel": 'a "b"'}, 1.0),
        ("plain", {}, 3.0),
        ("x", {"a": "1"}, 0.0025),
        ("c_total", {}, 4.0),
        ("d_total", {}, 5.0),
    ]


def test_what_answers_is_what_the_gauge_counts() -> None:
    page = (
        info(0, "fpga", "first") + info(1, "cpu", "spare") + info(1, "cpu", "first", "2")
        + 'fpga_failovers_total{cause="lost",device="fpga",model="tiny",version="1"} 2\n'
        + 'fpga_self_tests_total{device="cpu",model="tiny",result="right",version="1"} 5\n'
        + 'fpga_thread_faults_total{model="tiny",thread="accounts",version="1"} 1\n'
    )  # fmt: skip
    one = health()
    Activity(lambda: page).describe({one.key: one})
    assert (one.device, one.isa, one.precision, one.kernel, one.choice) == ("cpu", "avx2", "int8", "k", "spare")
    assert (one.failovers, one.self_tests, one.thread_faults) == (2, {"right": 5}, 1)


def test_of_several_instances_the_worst_is_told() -> None:
    one = health()
    Activity(lambda: info(2, "cpu", "first") + info(1, "reference", "last")).describe({one.key: one})
    assert (one.device, one.degraded) == ("reference", True)


def test_the_last_resort_is_told_in_the_log_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "triton_server")
    one = health()
    for page in (info(1, "reference", "last"), info(1, "reference", "last"), info(1, "cpu", "first")):
        Activity(lambda page=page: page).describe({one.key: one})
    assert [record.getMessage() for record in caplog.records] == [
        "tiny version 1: degraded: it serves on reference, the last of its devices",
        "tiny version 1: no longer degraded: it serves on cpu",
    ]


@pytest.mark.parametrize("page", ["nonsense {", "a b c d\n"])
def test_a_page_that_is_no_metrics_changes_nothing(page: str) -> None:
    one = health(device="cpu")
    Activity(lambda: page).describe({one.key: one})
    assert one.device == "cpu"


def test_rates_come_from_what_was_added(clock: Clock) -> None:
    counts = iter([(0, 0, 0, 0), (50, 100_000, 20_000, 3), (50, 100_000, 20_000, 0), (10, 30_000, 0, 0)])

    def page() -> str:
        answered, duration, queue, waiting = next(counts)
        labels = '{model="tiny",version="1"}'
        return (
            "# TYPE nv_inference_request_success counter\n"
            f"nv_inference_request_success{labels} {answered}\n"
            "# TYPE nv_inference_request_duration_us counter\n"
            f"nv_inference_request_duration_us{labels} {duration}\n"
            "# TYPE nv_inference_queue_duration_us counter\n"
            f"nv_inference_queue_duration_us{labels} {queue}\n"
            "# TYPE nv_inference_pending_request_count gauge\n"
            f"nv_inference_pending_request_count{labels} {waiting}\n"
            "# TYPE nv_inference_request_failure counter\n"
            f'nv_inference_request_failure{{model="tiny",reason="OTHER",version="1"}} 0\n'
        )

    activity = Activity(page, clock, clock)
    for _ in range(4):
        activity.sample()
        clock.now += 5.0
    (row,) = activity.rows()
    assert row["per_s"] == [10.0, 0.0, 2.0], "of the last, the server had started again"
    assert row["latency_ms"] == [2.0, None, 3.0]
    assert row["queue_ms"] == [0.4, None, 0.0]
    assert row["waiting"] == 0


def test_a_server_that_is_away_leaves_a_gap() -> None:
    def away() -> str:
        raise ControlError("gone", 503)

    activity = Activity(away)
    activity.sample()
    assert activity.rows() == []
