"""The client in other processes: forked ones are refused instead of hanging, dask's workers just work."""

from __future__ import annotations

import gc
import multiprocessing
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from sonic_client import Client, ConfigurationError
from sonic_client.tag_file import Job, run_job
from tests.clients.fake_server import FakeTriton, serving
from tests.clients.jets import narrow_jets, random_jets


def _try_in_child(client: Client, answer: Connection) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with client:
                client.tag(random_jets(1))
        except ConfigurationError as error:
            answer.send(str(error))
        else:
            answer.send("worked")
        client.close()  # is the parent's to do
        gc.collect()
    answer.send([str(one.message) for one in said])


def test_a_fork_is_refused_with_advice() -> None:
    with serving(FakeTriton()) as (_, address), Client(address, "top_tagger") as client:
        client.tag(random_jets(1))
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=_try_in_child, args=(client, there))
        child.start()
        assert here.poll(60)
        assert 'get_context("spawn")' in here.recv()
        assert here.poll(60)
        assert here.recv() == []
        child.join(60)
        assert child.exitcode == 0
        assert len(client.tag(random_jets(1))) == 1


@pytest.mark.server
@pytest.mark.filterwarnings("ignore")
def test_files_on_a_dask_cluster(grpc_url: str, tmp_path: Path) -> None:
    import distributed

    url = f"{grpc_url}/top_tagger"
    jobs, expected = [], []
    with Client(url) as client:
        for seed in range(3):
            jets = narrow_jets(10, seed, most=20)
            path = tmp_path / f"{seed}.parquet"
            ak.to_parquet(ak.zip({name: jets[name] for name in jets.fields}, depth_limit=1), path)
            jobs.append(Job(path, tmp_path / f"{seed}_out.parquet", url))
            expected.append(np.asarray(client.tag(jets)))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as dask,
    ):
        summaries = dask.gather(dask.map(run_job, jobs, pure=False))
    assert [summary.tagged for summary in summaries] == [10] * 3
    for job, scores in zip(jobs, expected, strict=True):
        assert np.array_equal(ak.from_parquet(job.output)["top_score"], scores)
