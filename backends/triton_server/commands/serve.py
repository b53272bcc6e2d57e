"""Serve a model repository with the real Triton server, watched, until Ctrl-C or SIGTERM."""

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triton_server.server.server import TritonServer
    from triton_server.supervisor.health_endpoint import HealthServer
    from triton_server.supervisor.supervisor import Supervisor

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002, "health": 8003}


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``triton-fpga serve``."""
    parser.add_argument(
        "--model-repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help="folder of models (default: %(default)s)",
    )
    for name, port in DEFAULT_PORTS.items():
        parser.add_argument(
            f"--{name}-port",
            type=_port,
            default=port,
            metavar="N",
            help=f"port for {name}; 0 takes a free one (default: %(default)s)",
        )
    parser.add_argument(
        "--address",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s)",
    )
    parser.add_argument(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help="file with the key that load, unload, shared memory and other changes need; made (mode 0600) when it is "
        "missing (default: ~/.config/triton-fpga/admin-key)",
    )
    parser.add_argument(
        "--device",
        metavar="NAMES",
        help="devices in order of preference, for every model: e.g. fpga,cpu,reference "
        "(default: each model's own parameter)",
    )
    parser.add_argument(
        "--probe-interval",
        type=_seconds,
        default=2.0,
        metavar="S",
        help="seconds between known-answer inferences (default: %(default)s)",
    )
    parser.add_argument(
        "--exit-timeout",
        type=_seconds,
        default=5.0,
        metavar="S",
        help="seconds that requests in flight get at the end (default: %(default)s)",
    )
    parser.add_argument(
        "--stall",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="seconds without any work after which a start is repeated: a driver that never comes back"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--drain",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="seconds from being told to stop, and not ready, to the end: what a proxy needs to send nothing more"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-limit",
        type=_megabytes,
        default=2048,
        metavar="MB",
        help="memory of the server's process, without the models, beyond which it is restarted: it takes requests of"
        " any size (default: %(default)s)",
    )
    parser.add_argument(
        "--strict-device", action="store_true", help="not ready while a model serves on another device than its first"
    )
    parser.add_argument(
        "--show-events", action="store_true",
        help="show the last event that each model answered, with its scores, to whoever may see the page and /status",
    )  # fmt: skip
    parser.add_argument("--no-watch", action="store_true", help="do not load what changes in the repository")
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="append Triton's log here, not to stderr")
    parser.add_argument("--debug", action="store_true", help="log more, such as what this Triton can do")
    parser.add_argument("--json", action="store_true", help="print readiness as one line of JSON")
    parser.add_argument("--triton-flag", action="append", default=[], metavar="FLAG",
                        help="one more flag for tritonserver: --triton-flag=--log-verbose=1 (repeatable)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; returns 0 after a clean stop."""
    from triton_server.server.server import TritonServer, check_start
    from triton_server.supervisor.health_endpoint import HealthServer
    from triton_server.supervisor.processes import allow_files
    from triton_server.supervisor.supervisor import Limits, Supervisor

    check_start(args.model_repository.resolve())  # before anything is made or logged
    allow_files()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s serve: %(message)s")
    if args.debug:
        logging.getLogger("triton_server").setLevel(logging.DEBUG)
    key = _admin_key(args.admin_key_file)
    server = TritonServer(
        args.model_repository,
        http_port=args.http_port, grpc_port=args.grpc_port, metrics_port=args.metrics_port, address=args.address,
        log=args.log_file or "inherit", exit_timeout_s=args.exit_timeout, admin_key=key, share_ports=True,
        stall_s=args.stall,
        environment={"TRITON_FPGA_DEVICE": args.device} if args.device else None, extra=args.triton_flag,
    )  # fmt: skip
    supervisor = Supervisor(
        server,
        limits=Limits(probe_interval=args.probe_interval, server_bytes=args.memory_limit << 20),
        watch_repository=not args.no_watch,
        strict_device=args.strict_device,
        drain_s=args.drain,
        show_events=args.show_events,
        on_ready=lambda: _announce(args, server, supervisor, health),
    )
    health = HealthServer(supervisor, args.address, args.health_port)

    # Python runs a handler in the main thread between two of its steps. That may be never, if the signal comes just
    # before the thread sleeps, and it may be where the thread holds a lock that `stop` takes. So the byte that the
    # interpreter's own C handler writes is what counts, and a thread of its own acts on it.
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    told, tell = socket.socketpair()
    tell.setblocking(False)

    def stop() -> None:
        while received := told.recv(1):
            if received[0] in numbers:
                _notify("STOPPING=1")
                supervisor.stop()

    threading.Thread(target=stop, name="signals", daemon=True).start()
    signal.set_wakeup_fd(tell.fileno())
    for number in numbers:
        signal.signal(number, lambda *_: None)
    try:
        supervisor.run()
    finally:
        health.close()
        signal.set_wakeup_fd(-1)
        tell.close()
    return 0


def _announce(
    args: argparse.Namespace, server: "TritonServer", supervisor: "Supervisor", health: "HealthServer"
) -> None:
    host = server.client_host
    status = supervisor.status()
    if args.json:
        urls = {"http": server.http_url, "grpc": server.grpc_url, "metrics": server.metrics_url,
                "health": f"http://{host}:{health.port}"}  # fmt: skip
        print(json.dumps({"ready": status["ready"], **urls, "models": status["models"], "refused": status["refused"]}))
    else:
        word = "ready" if status["ready"] else "up, but not every model serves"
        print(f"Triton is {word}")
        print(f"  HTTP     http://{server.http_url}")
        print(f"  gRPC     grpc://{server.grpc_url}")
        print(f"  metrics  {server.metrics_url}")
        print(f"  health   http://{host}:{health.port}/ready")
        print(f"  page     http://{host}:{health.port}/")
        for entry in status["models"]:
            words = f"{entry['state']} on {entry['device']}" + (", degraded" if entry["degraded"] else "")
            print(f"  model    {entry['model']} version {entry['version']}: {words}")
        for model, reason in status["refused"].items():
            print(f"  refused  {model}: {reason}")
        if not status["models"] and not status["refused"]:
            print(f"  no model in {server.model_repository}: expected <model>/config.pbtxt and <model>/<version>/")
        print("Ctrl-C stops it.")
    sys.stdout.flush()
    _notify("READY=1")


def _admin_key(file: Path | None) -> str | None:
    """The key in the file, or in its usual place; None where it was not asked for and cannot be kept."""
    from triton_server.server.admin_key import default_path, read_or_make

    log = logging.getLogger("triton_server")
    try:
        path = file or default_path()
        key = read_or_make(path)
    except OSError as error:
        if file is not None:
            raise
        log.info("nobody can change what is served: cannot keep an admin key (%s); give --admin-key-file", error)
        return None
    log.info("requests that change what is served need the admin key in %s", path)
    return key


def _notify(message: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    target = os.environ.get("NOTIFY_SOCKET")
    if target:
        # Where nobody listens any more, the service goes on, and above all is still told to end.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(message.encode(), "\0" + target[1:] if target.startswith("@") else target)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, came {text}")
    return port


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, came {text}")
    return value


def _megabytes(text: str) -> int:
    value = int(text)
    if value < 128:  # the server alone holds some 40, and up to twice that while it starts
        raise argparse.ArgumentTypeError(f"expected 128 MB or more, came {text}")
    return value
