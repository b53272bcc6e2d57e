"""A load generator as light as can be: a process of its own that sends the same gRPC request again and again.

Load comes from other machines. On the server's own two cores a Python gRPC client, at 0.25 to 0.4 ms of processor time
for each request, would take from the server what those other machines do not. This one writes the HTTP/2 frames itself,
a tenth of that, at the lowest priority. What it offers late it says.

`python -m triton_fpga_bench.service.light_load HOST:PORT BODY CONNECTIONS NICENESS` reads one `Job` a line and answers
each with a line, its `Result`. BODY is a file with the request, an encoded `inference.ModelInferRequest`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from sonic_client.errors import ClientError

PATH = b"/inference.GRPCInferenceService/ModelInfer"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8  # RFC 9113, section 6
INITIAL_WINDOW_SIZE = 4
END_STREAM = ACK = 1
END_HEADERS = 4
FRAME = 16384
"""The longest payload of a frame that needs no agreement."""
WINDOW = 65535
"""Bytes that may be sent before the other side has said more."""
CHUNK = 1 << 20
"""Bytes that are put together before the socket takes them."""
TICK_S = 0.004
PATIENCE_S = 60.0
STATUS = {0: "ok", 14: "UNAVAILABLE"}


@dataclass(frozen=True)
class Job:
    """Requests for `lead` seconds, then for `seconds` in which answers count."""

    seconds: float
    lead: float
    in_flight: int = 0
    """Each answer makes the next request, so that this many are under way, spread over the connections; 0 sends at
    `rate` instead."""
    rate: float = 0.0
    """Requests per second, whatever becomes of them."""


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    sent: int
    sent_per_s: float
    ended: dict[str, int]
    """All requests of the job by their end: ok, UNAVAILABLE, or the number of another gRPC status."""
    answers_per_s: float
    """Answers that came in the time that counts."""
    longest_gap_s: float
    """The longest time without an answer, of the time that counts."""
    latest_s: float
    """The longest that a request was sent after its time."""
    cpu_share: float
    """Of a core, used by the generator."""


class Generator:
    """The process, from the side of the one who measures; a context manager.

    Args:
        url: host:port of a server's gRPC, unencrypted.
        body: An encoded `inference.ModelInferRequest`.
        connections: How many; a job's requests are spread over them.
        niceness: Its priority, 0 to 19: the server and its device come first at 19.

    Raises:
        ClientError: The process ended before its time.
    """

    def __init__(self, url: str, body: bytes, connections: int = 1, niceness: int = 19) -> None:
        with tempfile.NamedTemporaryFile(prefix="flood-", delete=False) as stream:
            stream.write(body)
        self._body = Path(stream.name)
        arguments = [url, str(self._body), str(connections), str(niceness)]
        command = [sys.executable, "-m", "triton_fpga_bench.service.light_load", *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, job: Job) -> Result:
        """Do one job to its end, and wait for the last answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ClientError("the generator has no pipes")
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(asdict(job)) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            raise ClientError(f"the load generator ended with code {self._process.wait()}")
        return Result(**json.loads(line))

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._body.unlink(missing_ok=True)


class Connection:
    """One gRPC connection without a gRPC library, for unary requests of one body (RFC 9113, RFC 7541)."""

    def __init__(self, host: str, port: int, body: bytes) -> None:
        fields = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
        # 0x83 and 0x86 are POST and http of the static table, 4 and 1 its names :path and :authority
        self._headers = b"\x83\x86\x04" + _text(PATH) + b"\x01" + _text(host.encode())
        self._headers += b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)
        self._message = struct.pack(">BI", 0, len(body)) + body
        self._stream = -1
        self._window = WINDOW
        self._first_window = WINDOW
        self._stream_window = WINDOW
        self._sending = 0
        """The stream of which the message is not sent to its end; 0 if there is none."""
        self._done = 0
        """Bytes of it that are."""
        self._out = bytearray(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        # No table of headers, so that a status always comes spelled out; windows that answers never fill.
        self._out += _frame(SETTINGS, 0, 0, struct.pack(">HIHI", 1, 0, INITIAL_WINDOW_SIZE, 1 << 24))
        self._out += _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30))
        self._in = bytearray()
        self.under_way = 0
        """Requests without an answer."""
        self._socket = socket.create_connection((host, port))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def ready(self) -> bool:
        """Whether one more request may be sent now."""
        return not self._sending

    def send(self) -> None:
        """Begin a request; only when `ready`."""
        self._stream += 2
        self.under_way += 1
        self._out += _frame(HEADERS, END_HEADERS, self._stream, self._headers)
        self._sending, self._done, self._stream_window = self._stream, 0, self._first_window

    def wants_to_write(self) -> bool:
        """Whether something waits that the other side takes."""
        self._fill()
        return bool(self._out)

    def write(self) -> None:
        """Hand on as much as the socket takes."""
        while self.wants_to_write():
            try:
                del self._out[: self._socket.send(self._out)]
            except BlockingIOError:
                return

    def read(self) -> list[str]:
        """Read what came; returns how the requests ended that did."""
        with contextlib.suppress(BlockingIOError):
            got = self._socket.recv(1 << 18)
            if not got:
                raise ConnectionError("the server closed the connection")
            self._in += got
        return self._ended()

    def _fill(self) -> None:
        """Put the message into frames, as far as both windows allow."""
        while self._sending and len(self._out) < CHUNK:
            size = min(FRAME, len(self._message) - self._done, self._window, self._stream_window)
            if size <= 0:
                return
            self._window -= size
            self._stream_window -= size
            piece = self._message[self._done : self._done + size]
            self._done += size
            last = self._done == len(self._message)
            self._out += _frame(DATA, END_STREAM * last, self._sending, piece)
            if last:
                self._sending = 0

    def _ended(self) -> list[str]:
        ended, place = [], 0
        while len(self._in) >= place + 9:
            length = int.from_bytes(self._in[place : place + 3])
            if len(self._in) < place + 9 + length:
                break
            kind, flags = self._in[place + 3], self._in[place + 4]
            stream = int.from_bytes(self._in[place + 5 : place + 9])
            payload = bytes(self._in[place + 9 : place + 9 + length])
            place += 9 + length
            if (kind == HEADERS and flags & END_STREAM) or kind == RST_STREAM:
                ended.append(_status(payload) if kind == HEADERS else "reset")
                if stream == self._sending:  # refused before all of it was sent
                    self._sending = 0
                self.under_way -= 1
            elif kind == WINDOW_UPDATE:
                more = int.from_bytes(payload)
                if stream == 0:
                    self._window += more
                elif stream == self._sending:
                    self._stream_window += more
            elif kind in (SETTINGS, PING) and not flags & ACK:
                if kind == SETTINGS:
                    self._learn(payload)
                self._out += _frame(kind, ACK, 0, payload if kind == PING else b"")
            elif kind == GOAWAY:
                raise ConnectionError("the server ends the connection")
        del self._in[:place]
        return ended

    def _learn(self, settings: bytes) -> None:
        """A new first window counts for a stream that is open, too (RFC 9113, section 6.9.2)."""
        for name, value in struct.iter_unpack(">HI", settings):
            if name == INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._first_window
                self._first_window = value


def _text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _status(block: bytes) -> str:
    """The gRPC status in a block of headers that uses no table."""
    _, _, rest = block.partition(b"grpc-status")
    if not rest or rest[0] & 0x80:
        raise ValueError(f"expected a plain grpc-status, got {block!r}")
    number = int(rest[1 : 1 + rest[0]])
    return STATUS.get(number, str(number))


def exchange(connections: list[Connection], timeout_s: float) -> list[str]:
    """Write what waits, read what came, at most for so long; returns how the requests ended that did."""
    for connection in connections:
        connection.write()
    writing = [connection for connection in connections if connection.wants_to_write()]
    readable, writable, _ = select.select(connections, writing, [], timeout_s)
    for connection in writable:
        connection.write()
    return [status for connection in readable for status in connection.read()]


def do(connections: list[Connection], job: Job) -> Result:
    """Run one job on connections on which nothing is under way."""
    ended: Counter[str] = Counter()
    sent = good = 0
    latest = gap = share = 0.0
    cpu, began = time.process_time(), time.monotonic()
    end = job.lead + job.seconds
    answered = job.lead
    while (now := time.monotonic() - began) < end or ended.total() < sent:
        if now < end:
            due = ended.total() + job.in_flight if job.in_flight else int(now * job.rate) + 1
            while sent < due:
                connection = min(connections, key=lambda connection: connection.under_way)
                if not connection.ready():
                    break
                if job.rate:
                    latest = max(latest, now - sent / job.rate)
                connection.send()
                connection.write()
                sent += 1
            share = (time.process_time() - cpu) / max(now, TICK_S)
        elif now > end + PATIENCE_S:
            raise TimeoutError(f"{sent - ended.total()} requests have no answer after {PATIENCE_S:g} s")
        for status in exchange(connections, TICK_S):
            ended[status] += 1
            at = time.monotonic() - began
            if status == "ok" and job.lead < at < end:
                good += 1
                gap, answered = max(gap, at - answered), at
        if job.rate:
            time.sleep(TICK_S)
    gap = max(gap, end - answered)
    return Result(
        sent, sent / end, dict(ended), good / job.seconds, round(gap, 3), round(latest, 3), round(share, 3)
    )  # fmt: skip


def main() -> int:
    """The process."""
    # Other machines would do this: the server and its device come first, on systems that group by session too.
    os.setsid()
    address, file, number, niceness = sys.argv[1:]
    os.nice(int(niceness))
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(niceness)
    host, _, port = address.rpartition(":")
    body = Path(file).read_bytes()
    connections = [Connection(host, int(port), body) for _ in range(int(number))]
    for line in sys.stdin:
        print(json.dumps(asdict(do(connections, Job(**json.loads(line))))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
