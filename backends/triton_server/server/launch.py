"""How tritonserver is started: its command line, its environment, and a process that ends with this one."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from fpga_ops.runtime.onnxruntime_import import disable_telemetry
from triton_server.errors import ServerStartError
from triton_server.protocol import PARENT_PIPE_VARIABLE
from triton_server.server.abilities import Abilities, Ability
from triton_server.server.admin_key import ADMIN_HEADER
from triton_server.server.installation import Installation
from triton_server.workarounds.batch_policy import yield_to_the_woken

STUB_TIMEOUT_S = 120
"""What a stub gets to load its model. Triton's 30 s are too few on a machine with many times more work than cores."""
RESTRICTED = "model-repository,shared-memory,trace,logging"
"""The parts of Triton's API that change what is served, write files, or let the server read and write named memory."""


def listening(address: str, http_port: int, grpc_port: int, metrics_port: int, *, shared: bool) -> list[str]:
    """Flags for where the server listens; ``shared`` lets the outage responder listen beside it."""
    flags = []
    for kind, port in (("http", http_port), ("grpc", grpc_port), ("metrics", metrics_port)):
        flags += [f"--{kind}-address={address}", f"--{kind}-port={port}"]
    return [*flags, "--reuse-http-port=true", "--reuse-grpc-port=true"] if shared else flags


def serving(models: Sequence[str], *, completes: bool, exit_timeout_s: float) -> list[str]:
    """Flags for what is served, and how the server ends."""
    return [
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in models),
        "--exit-on-error=false",
        f"--exit-timeout-secs={max(1, round(exit_timeout_s))}",
        *([] if completes else ["--disable-auto-complete-config"]),
    ]


def stubs(shm_prefix: str, shm_default_bytes: int) -> list[str]:
    """Flags for the processes that run the plugin, and their shared memory."""
    settings = {
        "shm-region-prefix-name": shm_prefix,
        "shm-default-byte-size": shm_default_bytes,
        "stub-timeout-seconds": STUB_TIMEOUT_S,
    }
    return [f"--backend-config=python,{name}={value}" for name, value in settings.items()]


def client_shared_memory(abilities: Abilities) -> list[str]:
    """The flag for clients' shared memory, where it is off without one. Registering a region takes the admin key."""
    return ["--allow-client-shm=true"] if Ability.CLIENT_SHARED_MEMORY_FLAG in abilities else []


def restricted(key: str) -> list[str]:
    """Flags for access: everyone may infer, ask for health and metadata; who has the key may change what is served."""
    grpc_header = ADMIN_HEADER.removeprefix("triton-grpc-protocol-")
    return [
        f"--http-restricted-api={RESTRICTED}:{ADMIN_HEADER}={key}",
        f"--grpc-restricted-protocol={RESTRICTED}:{grpc_header}={key}",
    ]


def environment(installation: Installation, more: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: this process's, ``more``, and where it finds Python and its libraries."""
    made = {**os.environ, **more}
    disable_telemetry(made)  # of whatever a stub imports
    for name in ("PYTHONHOME", "VIRTUAL_ENV"):
        made.pop(name, None)
    # The stub embeds the first python3 on PATH: it must be the interpreter whose packages were checked here.
    made["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), made.get("PATH") or os.defpath))
    libraries = (*installation.library_path, *filter(None, [made.get("LD_LIBRARY_PATH")]))
    made["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    return made


def launch(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None
) -> tuple[subprocess.Popen[bytes], threading.Event]:
    """Start the server, with ``log`` to append to or this process's stderr (None); the event is set when it has ended.

    The thread that starts it waits for it: the kernel ends the server with that thread, and the stubs with the pipe
    that it holds. Raises ServerStartError.
    """
    exited, started = threading.Event(), threading.Event()
    processes: list[subprocess.Popen[bytes]] = []
    failures: list[OSError] = []
    program = Path(__file__).with_name("start_with_parent.py")

    def keep() -> None:
        yield_to_the_woken()
        parent_pipe, held = os.pipe()
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, parent_pipe)
                output = None if log is None else stack.enter_context(log.open("ab"))
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(program), str(os.getpid()), *command],
                    env={**environment, PARENT_PIPE_VARIABLE: str(parent_pipe)}, pass_fds=[parent_pipe],
                    stdin=subprocess.DEVNULL, stdout=_stderr() if output is None else output, stderr=output,
                    umask=0o077,
                    start_new_session=True,  # Ctrl-C is for the one who watches, who then stops the server
                )  # fmt: skip
                processes.append(process)
                started.set()
            process.wait()
        except OSError as error:
            failures.append(error)
        finally:  # whatever happens here, nobody waits for ever
            os.close(held)
            started.set()
            exited.set()

    threading.Thread(target=keep, name="tritonserver", daemon=True).start()
    started.wait()
    if not processes:
        reason = failures[0] if failures else "the thread that starts it has failed"
        raise ServerStartError(f"cannot run {command[0]}: {reason}")
    return processes[0], exited


def packages() -> list[Path]:
    """The folders of the packages that the plugin imports."""
    return [Path(str(files(package))).resolve() for package in ("triton_server", "fpga_ops")]


def _stderr() -> int:
    """Where an inherited log goes: what is on our own stdout is for programs."""
    with contextlib.suppress(OSError):
        os.fstat(2)
        return 2
    return subprocess.DEVNULL
