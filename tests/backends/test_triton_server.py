"""Parts of triton_server that need no server."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest

from triton_server.commands.serve import _admin_key
from triton_server.errors import MalformedAnswerError, ServerNotFoundError, ServerStartError
from triton_server.server import installation, shared_memory
from triton_server.server.admin_key import ADMIN_HEADER, default_path, own_headers, read_or_make
from triton_server.server.control_api import Control
from triton_server.server.ports import resolve_ports
from triton_server.server.run_directory import assemble
from triton_server.server.server import TritonServer
from triton_server.supervisor.listener import JsonHandler, Listener
from triton_server.supervisor.probe import AskedInput, KnownAnswer, ask, compare
from triton_server.supervisor.processes import (
    cpu_seconds,
    hide_argument,
    kill_and_wait,
    session_members,
    state,
    tree_cpu_seconds,
)

ASKED = (AskedInput("x", "FP32", np.zeros((1, 1), np.float32)),)


def test_a_missing_server_tells_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_SERVER_ROOT", raising=False)
    monkeypatch.setattr(installation, "_wheel_root", lambda: None)
    monkeypatch.setattr(installation, "SYSTEM_ROOT", tmp_path)
    with pytest.raises(ServerNotFoundError, match=r"pip install"):
        installation.find_installation()


def test_a_wrong_root_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_SERVER_ROOT", str(tmp_path))
    with pytest.raises(ServerNotFoundError, match="TRITON_SERVER_ROOT"):
        installation.find_installation()


def test_a_system_installation_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = ("libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py")
    for name in ("bin/tritonserver", *(f"backends/python/{file}" for file in python)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("TRITON_SERVER_ROOT", str(tmp_path))
    assert installation.find_installation().kind == "system"


@pytest.mark.parametrize("name", ["with space", "it's", "$HOME", "a;b"])
def test_a_temporary_folder_that_a_shell_would_misread_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with pytest.raises(ServerStartError, match="set TMPDIR"):
        TritonServer(tmp_path).prepare()


def test_the_run_directory_is_what_triton_wants(tmp_path: Path) -> None:
    found = installation.find_installation()
    backends = assemble(
        tmp_path, found, installation.backend_folder(), [installation.backend_folder().parent / "triton_server"]
    )
    library = backends / "python" / "libtriton_python.so"
    assert library.is_file()
    assert not library.is_symlink(), "Triton refuses a link that leaves the backend directory"
    assert (backends / "python" / "triton_python_backend_stub").is_file()
    assert (backends / "python" / "triton_server" / "server" / "installation.py").is_file()
    assert (backends / "fpga" / "model.py").is_file()


def test_ports() -> None:
    http, grpc, metrics_port = resolve_ports("127.0.0.1", (0, 0, 0))
    assert len({http, grpc, metrics_port}) == 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServerStartError, match="choose another port"):
            resolve_ports("127.0.0.1", (0, taken.getsockname()[1], 0))


def test_an_owner_whose_exit_code_nobody_asked_for_is_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "SHM", tmp_path)
    monkeypatch.setattr(shared_memory.tempfile, "gettempdir", lambda: str(tmp_path / "nothing"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        assert owner.stdin is not None
        namespace, started = Path("/proc/self/ns/pid").stat().st_ino, shared_memory._start_time(owner.pid)
        (tmp_path / f"tfpga-{owner.pid}-{started}-{namespace}-0-x").touch()
        assert shared_memory.clean_stale() == 0, "it lives"
        owner.stdin.close()
        deadline = time.monotonic() + 30
        while state(owner.pid) != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert shared_memory.clean_stale() == 1


def test_only_what_dead_owners_left_is_cleaned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "SHM", tmp_path)
    monkeypatch.setattr(shared_memory.tempfile, "gettempdir", lambda: str(tmp_path / "nothing"))
    mine = tmp_path / f"{shared_memory.make_prefix(0)}x"
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    dead = tmp_path / f"tfpga-1234567-42-{namespace}-0-x"
    reused = tmp_path / f"tfpga-{os.getpid()}-1-{namespace}-0-x"
    other_container = tmp_path / "tfpga-1234567-42-1-0-x"
    foreign = tmp_path / "somebody-else"
    for path in (mine, dead, reused, other_container, foreign):
        path.touch()
    assert shared_memory.clean_stale() == 2
    assert sorted(tmp_path.iterdir()) == sorted([mine, other_container, foreign])
    assert shared_memory.clean(shared_memory.make_prefix(0)) == 1
    assert sorted(tmp_path.iterdir()) == sorted([other_container, foreign])


def test_processes() -> None:
    code = "import time; print('awake', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"awake\n"
    assert state(child.pid) in {"R", "S", "D"}
    kill_and_wait([child.pid])
    assert state(child.pid) == "Z"
    child.wait()
    assert state(child.pid) == ""
    assert cpu_seconds(os.getpid()) > 0
    assert os.getpid() in session_members(os.getsid(0))


class Handler(JsonHandler):
    def do_GET(self) -> None:  # noqa: N802 - the name of the base class
        if self.path == "/fault":
            raise KeyError("ours")
        self.send(HTTPStatus.OK, {"much": "x" * 10_000_000})


def test_only_our_own_faults_are_logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    listener = Listener("127.0.0.1", 0, Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    try:
        for path in ("/", "/fault"):
            assert not caplog.records
            for request in (f"GET {path} HTTP/1.0\r\n\r\n", "GET", "\x00\xff\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", listener.port)) as client:
                    client.sendall(request.encode())
                    linger = struct.pack("ii", 1, 0)  # a reset instead of a farewell
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            time.sleep(0.2)
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [KeyError]
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("data", "correct", "words"),
    [([0.25, 0.75], True, "equal"), ([0.2, 0.8], False, "off by"), ([float("nan"), 1.0], False, "off by")],
)
def test_probes_judge_answers(data: list[float], correct: bool, words: str) -> None:
    known = KnownAnswer("m", "1", ASKED, "p", np.array([[0.25, 0.75]], np.float32))
    answer = compare(known, {"outputs": [{"name": "p", "shape": [1, 2], "data": data}]})
    assert (answer.correct, words in answer.detail) == (correct, True)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"OK", b"[]", b"null", b"3", b'{"outputs": 3}', b'{"outputs": [3]}', b'{"outputs": [{}]}',
        b'{"outputs": [{"name": "p"}]}', b'{"outputs": [{"name": "p", "shape": [1, 2], "data": ["x", "y"]}]}',
        b'{"outputs": [{"name": "p", "shape": [3], "data": [0.25, 0.75]}]}',
        b'{"outputs": [{"name": "p", "shape": "ab", "data": [0.25, 0.75]}]}',
        b'{"outputs": [{"name": "p", "shape": [1, 2], "data": {"a": 1}}]}', b"[" * 100_000, b"\xff\xfe",
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_wrong_and_ends_nobody(content: bytes) -> None:
    class Answering(JsonHandler):
        def do_POST(self) -> None:  # noqa: N802 - the name of the base class
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815 - the name of the base class

    known = KnownAnswer("m", "1", ASKED, "p", np.array([[0.25, 0.75]], np.float32))
    with listening(Answering) as control:
        answer = ask(control, known, 10.0)
        assert not answer.correct
        with pytest.raises(MalformedAnswerError):
            control.statistics()


def test_an_answer_that_drips_is_given_up_in_time() -> None:
    class Dripping(JsonHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name of the base class
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            while not ended.wait(0.05):
                self.wfile.write(b" ")

    ended = threading.Event()
    with listening(Dripping) as control, pytest.raises(TimeoutError):
        control.request("GET", "/v2", timeout=0.3)
    ended.set()


@contextlib.contextmanager
def listening(handler: type[JsonHandler]) -> Iterator[Control]:
    """A server that answers by the handler."""
    with Listener("127.0.0.1", 0, handler) as listener:
        thread = threading.Thread(target=listener.serve_on)
        thread.start()
        try:
            yield Control("127.0.0.1", listener.port)
        finally:
            listener.shutdown()
            thread.join()


def test_probes_refuse_empty_answers() -> None:
    known = KnownAnswer("m", "1", ASKED, "p", None)
    assert not compare(known, {"outputs": [{"name": "p", "shape": [0, 2], "data": []}]}).correct
    assert not compare(known, {"outputs": []}).correct


def test_the_admin_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "admin"
    key = read_or_make(path)
    assert len(key) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_or_make(path) == key
    path.write_text("\n")
    with pytest.raises(OSError, match=r"no key in .*keys/admin"):
        read_or_make(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "admin"
    read_or_make(path)
    path.chmod(mode)
    with pytest.raises(PermissionError, match=rf"expected mode 0600.*found mode {mode:04o}.*remove the file"):
        read_or_make(path)
    with pytest.raises(PermissionError):
        _admin_key(path)
    path.chmod(0o400)
    assert len(read_or_make(path)) >= 32


def test_a_key_that_cannot_be_kept_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for it the server still starts, closed; a file that was asked for has to be there."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert _admin_key(None) is None
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert _admin_key(None) is None, "a user without a home"
    assert own_headers(1) == {}
    assert len(TritonServer(tmp_path).admin_key) >= 32
    with pytest.raises(OSError, match="file"):
        _admin_key(tmp_path / "file" / "key")


def test_the_key_is_shown_to_this_users_servers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert own_headers(port) == {}, "there is no key yet"
        key = read_or_make(default_path())
        assert own_headers(port) == {ADMIN_HEADER: key}
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        assert own_headers(port) == {}, "somebody else's server"
        monkeypatch.undo()
    assert own_headers(port) == {}, "nobody's"


def test_a_secret_argument_is_blotted_out() -> None:
    command = [sys.executable, "-c", "import sys; print(flush=True); input(); print(sys.argv[1])", "key=s3cret"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert hide_argument(process.pid, "s3cret")
        assert Path(f"/proc/{process.pid}/cmdline").read_text().endswith("\0key=******\0")
        assert process.communicate("\n")[0] == "key=s3cret\n", "what was read stays as it was"
    assert not hide_argument(process.pid, "s3cret")


def test_control_errors_hold_the_servers_message() -> None:
    class Refusing(JsonHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name of the base class
            self.send(HTTPStatus.NOT_FOUND, {"error": "no such model"})

    server = Listener("127.0.0.1", 0, Refusing)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    control = Control("127.0.0.1", server.port)
    with pytest.raises(Exception, match="no such model"):
        control.metadata("x")
    assert not control.ready()
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_work_of_a_process_is_that_of_its_children_too_while_they_run_and_after() -> None:
    """Else a process that waits for a compiler counts as idle, and as idle once more when the compiler has ended."""
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint('x', flush=True)"
    program = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {burn + "; input()"!r}], stdin=subprocess.PIPE)
input(); child.communicate(b"x"); print("ended", flush=True); input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "x\n"
        running = tree_cpu_seconds(process.pid)
        process.stdin.write("x\n")
        assert process.stdout.readline() == "ended\n"
        ended = tree_cpu_seconds(process.pid)
        process.stdin.write("x\n")
    assert running >= 0.29
    assert ended >= running
