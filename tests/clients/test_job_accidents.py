"""What befalls a job from outside: damaged chunks, a process that is killed, an output that appears meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sonic_client.errors import FileError
from sonic_client.tag_file import finish_parts, run_job
from sonic_client.tag_job import Job
from tests.clients.test_tag_jobs import Versioned, columns_of, expected, interrupt, job, server

__all__ = ["job", "server"]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero_a_page(path: Path) -> None:
    """A block in the middle, as a disc loses it: the file's own list of contents says nothing of it."""
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    start = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
    end = start + column.total_compressed_size
    content[end - 8 : end] = bytes(8)
    path.write_bytes(content)


def _shorten(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(0, 2), path)


@pytest.mark.parametrize("damage", [_cut, _zero, _empty, _zero_a_page, _shorten])
def test_damaged_chunks_are_tagged_again(
    job: Job, server: tuple[Versioned, str], damage: Callable[[Path], None]
) -> None:
    interrupt(job, 2)
    damage(job.parts / "000001.parquet")
    said: list[str] = []
    assert run_job(job, say=said.append).resumed_events == 4
    assert said == ["1 finished chunks cannot be read any more and are tagged again"]
    assert columns_of(job.output)["top_score"] == expected(server[1])


def test_damaged_chunks_are_not_finished(job: Job, tmp_path: Path) -> None:
    interrupt(job, 3)
    _zero(job.parts / "000001.parquet")
    with pytest.raises(FileError, match=r"000001\.parquet is damaged"):
        finish_parts(job.parts, tmp_path / "other.root")
    assert not (tmp_path / "other.root").exists()
    assert len(list(job.parts.glob("*.parquet"))) == 3


def test_an_output_that_appears_meanwhile_is_not_replaced(job: Job, tmp_path: Path) -> None:
    def appear(_events: int) -> None:
        job.output.write_text("somebody else's")

    with pytest.raises(FileError, match="exists"):
        run_job(job, done=appear)
    assert job.output.read_text() == "somebody else's"
    assert finish_parts(job.parts, tmp_path / "other.root").tagged == 12
    run_job(job, overwrite=True, done=appear)
    assert len(columns_of(job.output)["top_score"]) == 12


def test_a_killed_worker_ends_the_job_in_words(job: Job, server: tuple[Versioned, str]) -> None:
    """As the kernel does for want of memory."""
    fake, url = server
    fake.delay = 0.0
    answer = fake.behaviour

    def slowly(number: int, request: object, context: object) -> object:
        time.sleep(0.3)
        return answer(number, request, context) if answer is not None else None

    fake.behaviour = slowly
    command = [sys.executable, "-m", "fpga_ops.cli", "tag", str(job.source), "--out", str(job.output), "--server", url]
    command += ["--chunk", "4", "--workers", "2", "--in-flight", "1", "--keep", "n"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(fake.requests) < 3 and process.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 2, words
    assert "ended from outside" in words
    assert "Traceback" not in words
    fake.behaviour = answer
    run_job(job)
    assert np.array_equal(columns_of(job.output)["top_score"], expected(url))
