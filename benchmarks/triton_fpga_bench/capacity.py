"""How many replicas for how many clients: a queueing simulation of the service, from one card to a hundred.

    capacity="python -m triton_fpga_bench.capacity"
    $capacity --service-ms 1:5.2,2:9.6,4:18,8:35 --overhead-ms 0.8 --rate 500 --p99-ms 50
    $capacity --service-ms 1:0.9 --overhead-ms 0.6 --clients 500 --replicas 1,2,4,8
    $capacity --service-ms 1:0.9 --overhead-ms 0.6 --p99-ms 10            what 1 to 100 replicas serve
    $capacity --statistics http://127.0.0.1:8000 --model top_tagger --measured 1:103,8:190,50:240

The last compares the simulation with a measured curve (clients:inferences per second) of one replica.

What is simulated is what is built: clients, a proxy that sends each request to the replica with the fewest requests in
flight, and replicas that each own one device and take whatever waits, up to the largest batch, the moment the device is
free (Triton's dynamic batching without delay). Time on the device depends on the batch; everything else a request needs
(client, network, proxy, Triton) is one overhead that keeps no device busy. Failures, cold starts and cores shared
between replicas are not simulated.
"""

import argparse
import heapq
import json
import math
import random
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

INFERENCES = 20_000
"""Simulated per point; the first tenth, while queues fill, is not counted."""
MOST_BUSY = 90
"""Per cent of its capacity that a plan may use: nearer to saturation queues take longer to fill than is simulated."""


@dataclass(frozen=True)
class Node:
    """One replica as measured: milliseconds on its device for each batch size, and outside of it for each request."""

    service_ms: dict[int, float]
    overhead_ms: float = 0.0
    spread: float = 0.0
    """Standard deviation of the device time over its mean (log-normal): 0 is a device like clockwork."""

    @property
    def max_batch(self) -> int:
        """The largest batch that was measured."""
        return max(self.service_ms)

    @property
    def capacity(self) -> float:
        """Inferences per second of a device that is never idle, at its best batch."""
        return max(batch / time for batch, time in self.service_ms.items()) * 1e3

    def time_ms(self, batch: int) -> float:
        """Mean time on the device, between measured batches by straight lines."""
        sizes = sorted(self.service_ms)
        place = bisect_left(sizes, batch)
        high = sizes[min(place, len(sizes) - 1)]
        low = sizes[max(place - 1, 0)] if high != batch else high
        if high == low:
            return self.service_ms[high]
        share = (batch - low) / (high - low)
        return self.service_ms[low] * (1 - share) + self.service_ms[high] * share


@dataclass(frozen=True)
class Point:
    """What a simulation gives: inferences per second, latencies in ms, share of time that devices are busy."""

    replicas: int
    throughput: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    busy: float
    waiting: float
    """Share of the time in a server that requests wait for a device."""


@dataclass
class _Replica:
    queue: deque[tuple[float, float]] = field(default_factory=deque)
    """(sent, arrived) of each waiting request."""
    running: int = 0

    @property
    def in_flight(self) -> int:
        return len(self.queue) + self.running


def closed_loop(node: Node, replicas: int, clients: int, *, inferences: int = INFERENCES, seed: int = 0) -> Point:
    """``clients`` that each send the next request when the last is answered."""
    simulation = _Simulation(node, replicas, inferences, seed)
    for _ in range(min(clients, simulation.left)):
        simulation.send(simulation.random.random() * node.time_ms(1))
    return simulation.run(again=True)


def open_loop(node: Node, replicas: int, rate: float, *, inferences: int = INFERENCES, seed: int = 0) -> Point:
    """Requests that come by themselves, at random (Poisson), ``rate`` a second. Latency counts from the arrival."""
    if rate >= replicas * node.capacity:
        return Point(replicas, replicas * node.capacity, math.inf, math.inf, math.inf, 1.0, 1.0)
    simulation = _Simulation(node, replicas, inferences, seed)
    now = 0.0
    for _ in range(inferences):
        now += simulation.random.expovariate(rate / 1e3)
        simulation.send(now)
    return simulation.run(again=False)


def replicas_for(
    node: Node, rate: float, p99_ms: float, *, largest: int = 1000, inferences: int = INFERENCES, seed: int = 0
) -> Point:
    """The fewest replicas that serve ``rate`` a second with this p99. Raises ValueError where no number does."""
    _require_possible(node, p99_ms)
    low, high = max(1, math.ceil(rate / node.capacity)), largest
    best: Point | None = None
    step = low
    while best is None and step <= largest:  # a few more than the fewest nearly always do
        point = open_loop(node, step, rate, inferences=inferences, seed=seed)
        if point.p99_ms <= p99_ms:
            best, high = point, step
        else:
            low, step = step + 1, step + max(1, step // 4)
    if best is None:
        raise ValueError(f"more than {largest} replicas are needed for {rate:g} inferences/s")
    while low < high:
        middle = (low + high) // 2
        point = open_loop(node, middle, rate, inferences=inferences, seed=seed)
        if point.p99_ms <= p99_ms:
            best, high = point, middle
        else:
            low = middle + 1
    return best


def rate_for(node: Node, replicas: int, p99_ms: float, *, inferences: int = INFERENCES, seed: int = 0) -> Point:
    """The highest rate that these replicas serve with this p99, to a hundredth of their capacity, 90% of it at most.

    Raises ValueError where even a lone request takes longer.
    """
    _require_possible(node, p99_ms)
    low, high = 1, MOST_BUSY + 1  # hundredths of the capacity
    best = open_loop(node, replicas, 0.01 * replicas * node.capacity, inferences=inferences, seed=seed)
    while high - low > 1:
        middle = (low + high) // 2
        point = open_loop(node, replicas, middle / 100 * replicas * node.capacity, inferences=inferences, seed=seed)
        if point.p99_ms <= p99_ms:
            low, best = middle, point
        else:
            high = middle
    return best


def _require_possible(node: Node, p99_ms: float) -> None:
    alone = node.overhead_ms + node.time_ms(1) * (1 + 2.33 * node.spread)
    if p99_ms < alone:
        raise ValueError(f"a p99 of {p99_ms:g} ms is below what an idle replica needs ({alone:.3g} ms)")


class _Simulation:
    """Events in order of time: a request reaches the proxy, or a device is done with a batch."""

    def __init__(self, node: Node, replicas: int, inferences: int, seed: int) -> None:
        if replicas < 1:
            raise ValueError(f"expected at least one replica, came {replicas}")
        self.node = node
        self.left = inferences
        self.random = random.Random(seed)  # noqa: S311 - a simulation, not a secret
        self._replicas = [_Replica() for _ in range(replicas)]
        self._events: list[tuple[float, int, int, tuple[tuple[float, float], ...]]] = []
        self._count = 0
        self._skip = inferences // 10
        self._latencies: list[float] = []
        self._busy = self._waited = self._served = 0.0
        self._began = self._ended = 0.0

    def send(self, now: float) -> None:
        """A client sends a request; half of the overhead is before the queue."""
        if self.left > 0:
            self.left -= 1
            self._push(now + self.node.overhead_ms / 2, -1, ((now, 0.0),))

    def run(self, *, again: bool) -> Point:
        """Until every request is answered; with ``again`` each answer makes its client send the next."""
        answered = 0
        while self._events:
            now, _, place, requests = heapq.heappop(self._events)
            if place < 0:
                least = min(replica.in_flight for replica in self._replicas)
                place = self.random.choice(
                    [i for i, replica in enumerate(self._replicas) if replica.in_flight == least]
                )
                self._replicas[place].queue.append((requests[0][0], now))
            else:
                self._replicas[place].running = 0
                for sent, _arrived in requests:
                    answered += 1
                    done = now + self.node.overhead_ms / 2
                    if answered == self._skip:
                        self._began = done
                        self._busy = self._waited = self._served = 0.0
                    elif answered > self._skip:
                        self._latencies.append(done - sent)
                        self._ended = max(self._ended, done)
                    if again:
                        self.send(done)
            self._start(place, now)
        return self._point()

    def _start(self, place: int, now: float) -> None:
        replica = self._replicas[place]
        if replica.running or not replica.queue:
            return
        batch = tuple(replica.queue.popleft() for _ in range(min(len(replica.queue), self.node.max_batch)))
        replica.running = len(batch)
        time = self.node.time_ms(len(batch))
        if self.node.spread:
            sigma = math.sqrt(math.log1p(self.node.spread**2))
            time *= self.random.lognormvariate(-sigma * sigma / 2, sigma)
        self._busy += time
        self._waited += sum(now - arrived for _, arrived in batch)
        self._served += time * len(batch)
        self._push(now + time, place, batch)

    def _push(self, time: float, place: int, requests: tuple[tuple[float, float], ...]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, place, requests))

    def _point(self) -> Point:
        latencies = sorted(self._latencies)
        span = max(self._ended - self._began, 1e-9)
        return Point(
            replicas=len(self._replicas),
            throughput=len(latencies) / span * 1e3,
            mean_ms=sum(latencies) / len(latencies),
            p50_ms=latencies[len(latencies) // 2],
            p99_ms=latencies[int(len(latencies) * 0.99)],
            busy=min(1.0, self._busy / span / len(self._replicas)),
            waiting=self._waited / (self._waited + self._served),
        )


def read_statistics(url: str, model: str) -> dict[int, float]:
    """Device times by batch, as a running server has counted them: milliseconds an execution.

    Raises ValueError where the server has executed nothing yet or its answer is none.
    """
    from sonic_client.core.proxy import opener

    if not url.startswith(("http://", "https://")):
        raise ValueError(f"expected http://host:port, came {url}")
    try:
        with opener(url).open(f"{url.rstrip('/')}/v2/models/{model}/stats", timeout=10) as answer:
            statistics = json.load(answer)["model_stats"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"no statistics of {model} from {url}: {error}") from error
    counts: dict[int, int] = {}
    times: dict[int, int] = {}
    for version in statistics:
        for entry in version.get("batch_stats", ()):
            batch = int(entry["batch_size"])
            counts[batch] = counts.get(batch, 0) + int(entry["compute_infer"]["count"])
            parts = ("compute_input", "compute_infer", "compute_output")
            times[batch] = times.get(batch, 0) + sum(int(entry[part]["ns"]) for part in parts)
    found = {batch: times[batch] / counts[batch] / 1e6 for batch in sorted(counts) if counts[batch]}
    if not found:
        raise ValueError(f"{model} has executed nothing yet at {url}: send some requests first")
    return found


def overhead_ms(service_ms: dict[int, float], rate_of_one: float) -> float:
    """What a lone client's request needs beside the device: the one number that a plan takes from a measured curve."""
    return max(0.0, 1e3 / rate_of_one - service_ms[min(service_ms)])


def compare(node: Node, measured: dict[int, float]) -> list[dict[str, float]]:
    """Measured and simulated inferences per second and mean latency (ms) of one replica, and how far off it is."""
    rows = []
    for clients, rate in sorted(measured.items()):
        point = closed_loop(node, 1, clients)
        rows.append(
            {
                "clients": clients,
                "measured": rate,
                "measured_ms": 1e3 * clients / rate,
                "simulated": point.throughput,
                "simulated_ms": point.mean_ms,
                "deviation": point.throughput / rate - 1,
                "busy": point.busy,
            }
        )
    return rows


def _parse_measured(text: str) -> dict[int, float]:
    try:
        curve = {int(clients): float(rate) for clients, rate in (part.split(":") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected clients:inferences/s,... as 1:103,8:190, came {text!r}") from None
    if 1 not in curve or min(curve) < 1 or min(curve.values()) <= 0:
        raise argparse.ArgumentTypeError(f"expected positive numbers and the rate of one client, came {text!r}")
    return curve


def _parse_service(text: str) -> dict[int, float]:
    try:
        times = {int(batch): float(time) for batch, time in (part.split(":") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected batch:milliseconds,... as 1:5.2,2:9.6, came {text!r}") from None
    if not times or min(times) < 1 or min(times.values()) <= 0:
        raise argparse.ArgumentTypeError(f"batches and times must be positive, came {text!r}")
    return times


def _parse_list(text: str) -> list[int]:
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers from 1, came {text!r}")
    return values


def _table(points: Sequence[Point]) -> str:
    lines = [f"{'replicas':>8} {'inf/s':>9} {'mean ms':>8} {'p50 ms':>8} {'p99 ms':>8} {'busy':>5} {'waiting':>7}"]
    lines += [
        f"{p.replicas:8d} {p.throughput:9.1f} {p.mean_ms:8.2f} {p.p50_ms:8.2f} {p.p99_ms:8.2f} "
        f"{p.busy:5.0%} {p.waiting:7.0%}"
        for p in points
    ]
    return "\n".join(lines) + "\n"


def _comparison(rows: Sequence[dict[str, float]]) -> str:
    lines = [
        f"{'clients':>7} {'measured/s':>10} {'simulated/s':>11} {'off':>5} {'measured ms':>11} {'simulated ms':>12}"
    ]
    lines += [
        f"{row['clients']:7.0f} {row['measured']:10.1f} {row['simulated']:11.1f} {row['deviation']:+5.0%} "
        f"{row['measured_ms']:11.2f} {row['simulated_ms']:12.2f}"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; exit code 2 with a message where what is asked cannot be had."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    device = parser.add_mutually_exclusive_group(required=True)
    device.add_argument("--service-ms", type=_parse_service, metavar="B:MS,...", help="device time by batch")
    device.add_argument("--statistics", metavar="URL", help="take the device times from this running server (HTTP)")
    parser.add_argument("--model", default="top_tagger", help="with --statistics (default: %(default)s)")
    parser.add_argument(
        "--overhead-ms", type=float, metavar="MS",
        help="client, network, proxy and Triton (default: 0; with --measured what one client's rate says)",
    )  # fmt: skip
    parser.add_argument("--spread", type=float, default=0.0, help="standard deviation of the device time over its mean")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", type=float, help="inferences per second that come by themselves")
    load.add_argument(
        "--measured", type=_parse_measured, metavar="N:RATE,...", help="compare with these rates of one replica"
    )
    load.add_argument("--clients", type=_parse_list, metavar="N,...", help="clients that each wait for their answer")
    parser.add_argument("--replicas", type=_parse_list, default=[1, 2, 5, 10, 20, 50, 100], metavar="N,...")
    parser.add_argument("--p99-ms", type=float, help="with --rate the fewest replicas, without the highest rate")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    if not (args.rate or args.clients or args.measured or args.p99_ms):
        parser.error("one of --rate, --clients, --p99-ms, --measured is needed")
    try:
        service_ms = args.service_ms or read_statistics(args.statistics, args.model)
        overhead = args.overhead_ms or 0.0
        if args.overhead_ms is None and args.measured:
            overhead = overhead_ms(service_ms, args.measured[1])
        node = Node(service_ms, overhead, args.spread)
        if args.measured:
            rows = compare(node, args.measured)
            times = ", ".join(f"{batch}: {time:.2f}" for batch, time in sorted(service_ms.items()))
            head = f"device ms by batch {times}; overhead {overhead:.2f} ms\n"
            sys.stdout.write(json.dumps(rows) + "\n" if args.json else head + _comparison(rows))
            return 0
        if args.clients:
            points = [closed_loop(node, n, clients) for clients in args.clients for n in args.replicas]
        elif args.p99_ms and args.rate:
            points = [replicas_for(node, args.rate, args.p99_ms)]
        elif args.p99_ms:
            points = [rate_for(node, n, args.p99_ms) for n in args.replicas]
        else:
            points = [open_loop(node, n, args.rate) for n in args.replicas]
    except ValueError as error:
        sys.stderr.write(f"capacity: {error}\n")
        return 2
    sys.stdout.write(json.dumps([vars(p) for p in points]) + "\n" if args.json else _table(points))
    return 0


if __name__ == "__main__":
    sys.exit(main())
