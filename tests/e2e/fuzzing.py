"""Requests, model files and configurations that nobody would send on purpose, from fixed seeds.

`python -m tests.e2e.long fuzz --minutes 60` runs for as long as asked; the tests run a few hundred of each.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import onnx
from tritonclient.grpc import service_pb2

from tests.e2e.conftest import Service, images

INFER = "/v2/models/tiny/infer"
GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"
GRPC_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass(frozen=True)
class HttpCase:
    """One request as it goes over the wire."""

    name: str
    path: str
    headers: dict[str, str]
    body: bytes


def tensor_header(**changes: Any) -> dict[str, Any]:
    """The JSON part of a sound request with binary data."""
    return {
        "inputs": [
            {"name": "images", "shape": [1, 3, 32, 32], "datatype": "FP32", "parameters": {"binary_data_size": 12288},
             **changes}
        ]
    }  # fmt: skip


def http_case(name: str, header: object, body: bytes = b"", length: object = None, path: str = INFER) -> HttpCase:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = str(len(text)) if length is None else str(length)
    return HttpCase(name, path, {"Inference-Header-Content-Length": size}, text + body)


def corpus() -> list[HttpCase]:
    """Cases with a history or a reason; each found its way here by hand."""
    sound = images().tobytes()
    header = tensor_header()
    cases = [
        http_case("sound", header, sound),
        http_case("nothing", b""),
        http_case("no JSON", b"\x00\xff{", sound),
        http_case("half of JSON", json.dumps(header).encode()[:40], sound),
        http_case("JSON of another kind", [1, 2, 3]),
        http_case("no inputs", {}),
        http_case("inputs of another kind", {"inputs": {"images": 1}}),
        http_case("input twice", {"inputs": header["inputs"] * 2}, sound * 2),
        http_case("another name", tensor_header(name="pictures"), sound),
        http_case("empty name", tensor_header(name=""), sound),
        http_case("no data", header),
        http_case("half of the data", header, sound[:6000]),
        http_case("twice the data", header, sound * 2),
        http_case("data size lies", tensor_header(parameters={"binary_data_size": 1 << 40}), sound),
        http_case("negative data size", tensor_header(parameters={"binary_data_size": -1}), sound),
        http_case("header length lies", header, sound, length=5),
        http_case("header length beyond the body", header, sound, length=1 << 30),
        http_case("negative header length", header, sound, length=-1),
        http_case("header length is a word", header, sound, length="many"),
        http_case("negative shape", tensor_header(shape=[-1, 3, 32, 32]), sound),
        http_case("zero batch", tensor_header(shape=[0, 3, 32, 32], parameters={"binary_data_size": 0})),
        http_case("huge shape", tensor_header(shape=[1 << 62, 3, 32, 32]), sound),
        http_case("shape that overflows", tensor_header(shape=[1 << 31, 1 << 31, 32, 32]), sound),
        http_case("shape of words", tensor_header(shape=["a", 3, 32, 32]), sound),
        http_case("unknown type", tensor_header(datatype="FP33"), sound),
        http_case("text type", tensor_header(datatype="BYTES"), sound),
        http_case("deep JSON", b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}"),
        http_case("shared memory that is not there", tensor_header(parameters={"shared_memory_region": "x",
                                                                               "shared_memory_byte_size": 12288})),
        http_case("unknown output", {**header, "outputs": [{"name": "nothing"}]}, sound),
        http_case("model's name with a path", header, sound, path="/v2/models/..%2f..%2fetc%2fpasswd/infer"),
        http_case("version that is no number", header, sound, path="/v2/models/tiny/versions/one/infer"),
        http_case("version beyond all", header, sound, path="/v2/models/tiny/versions/99999999999999999999/infer"),
    ]  # fmt: skip
    for name, value in (("nan", np.nan), ("inf", np.inf), ("denormal", 1e-45), ("largest", np.finfo(np.float32).max)):
        cases.append(http_case(f"all {name}", header, np.full((1, 3, 32, 32), value, np.float32).tobytes()))
    return cases


@dataclass(frozen=True)
class GrpcCase:
    """One ModelInfer message as it goes over the wire."""

    name: str
    body: bytes


def grpc_request(values: bytes | None = None, *, name: str = "images", **fields: Any) -> service_pb2.ModelInferRequest:
    """A sound request with one image, with other fields of its tensor, or other raw contents."""
    request = service_pb2.ModelInferRequest(model_name="tiny")
    request.inputs.add(name=name, **{"datatype": "FP32", "shape": [1, 3, 32, 32], **fields})
    request.raw_input_contents.append(images().tobytes() if values is None else values)
    return request


ANSWERED = ("sound", "contents twice")
"""Cases of the gRPC corpus that have an answer; Triton passes over contents that belong to no input."""


def grpc_corpus() -> list[GrpcCase]:
    """The same for gRPC: what a client in another language could send by mistake, and worse."""
    sound = images().tobytes()
    typed = service_pb2.InferTensorContents(fp32_contents=images().ravel().tolist())
    integers = service_pb2.InferTensorContents(int_contents=[1] * 3072)
    text = service_pb2.InferTensorContents(bytes_contents=[b"x"] * 3072)
    requests: dict[str, service_pb2.ModelInferRequest] = {
        "sound": grpc_request(),
        "no model": grpc_request(),
        "unknown model": grpc_request(),
        "unknown version": grpc_request(),
        "version that is no number": grpc_request(),
        "no inputs": service_pb2.ModelInferRequest(model_name="tiny"),
        "input twice": grpc_request(),
        "another name": grpc_request(name="pictures"),
        "empty name": grpc_request(name=""),
        "no contents": grpc_request(),
        "contents twice": grpc_request(),
        "empty contents": grpc_request(b""),
        "half of the contents": grpc_request(sound[:6000]),
        "too much": grpc_request(sound * 2),
        "raw and typed": grpc_request(contents=typed),
        "typed of another type": grpc_request(contents=integers),
        "typed text": grpc_request(contents=text),
        "negative shape": grpc_request(shape=[-1, 3, 32, 32]),
        "no shape": grpc_request(shape=[]),
        "zero batch": grpc_request(b"", shape=[0, 3, 32, 32]),
        "huge shape": grpc_request(shape=[1 << 62, 3, 32, 32]),
        "shape that overflows": grpc_request(shape=[1 << 31, 1 << 31, 32, 32]),
        "unknown type": grpc_request(datatype="FP33"),
        "text type": grpc_request(datatype="BYTES"),
        "unknown output": grpc_request(),
        "shared memory that is not there": grpc_request(),
        "priority of text": grpc_request(),
        "sequence": grpc_request(),
        "all nan": grpc_request(np.full(3072, np.nan, np.float32).tobytes()),
    }
    requests["no model"].model_name = ""
    requests["unknown model"].model_name = "../tiny"
    requests["unknown version"].model_version = "7"
    requests["version that is no number"].model_version = "one"
    requests["input twice"].MergeFrom(grpc_request())
    del requests["no contents"].raw_input_contents[:]
    requests["contents twice"].raw_input_contents.append(sound)
    for name in ("typed of another type", "typed text"):
        del requests[name].raw_input_contents[:]
    requests["unknown output"].outputs.add(name="nothing")
    del requests["shared memory that is not there"].raw_input_contents[:]
    requests["shared memory that is not there"].inputs[0].parameters["shared_memory_region"].string_param = "x"
    requests["shared memory that is not there"].inputs[0].parameters["shared_memory_byte_size"].int64_param = 12288
    requests["priority of text"].parameters["priority"].string_param = "first"
    requests["sequence"].parameters["sequence_id"].double_param = 0.5
    cases = [GrpcCase(name, request.SerializeToString()) for name, request in requests.items()]
    return [*cases, GrpcCase("no message", b"\xff" * 64), GrpcCase("half a message", cases[0].body[:-100])]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not changed:
            break
        place = int(rng.integers(len(changed)))
        kind = int(rng.integers(5))
        if kind == 0:
            changed[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[place] = int(rng.choice([0, 0x7F, 0x80, 0xFF]))
        elif kind == 2:
            del changed[place : place + int(rng.integers(1, 64))]
        elif kind == 3:
            changed[place:place] = changed[max(0, place - 16) : place]
        else:
            changed[place:place] = rng.bytes(int(rng.integers(1, 16)))
    return bytes(changed)


def http_cases(seed: int) -> Iterator[HttpCase]:
    """Mutations of the corpus without end."""
    rng = np.random.default_rng(seed)
    sources = corpus()
    while True:
        source = sources[int(rng.integers(len(sources)))]
        size = int(source.headers["Inference-Header-Content-Length"].strip("many-") or 0)
        cut = min(size, len(source.body))
        header = mutate(source.body[:cut], rng)
        yield HttpCase(
            f"mutated {source.name}", source.path, {"Inference-Header-Content-Length": str(len(header))},
            header + source.body[cut:],
        )  # fmt: skip


OURS = ("version 1: unexpected", "Stub process", "Traceback", "not healthy")
"""Words of an error that would be our plugin's fault. Triton itself calls JSON that it cannot read INTERNAL (500)."""


def send_http(service: Service, case: HttpCase, timeout_s: float = 20.0) -> tuple[int, str]:
    """Send as it is; returns status and body, status 0 when the server closed the connection. A time-out is raised."""
    host, port = service.urls["http"].split(":")
    lines = [f"POST {case.path} HTTP/1.1", "Host: x", f"Content-Length: {len(case.body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in case.headers.items()]
    with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
        try:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + case.body)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            return 0, ""
    if not answer.startswith(b"HTTP/"):
        return 0, ""
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2].decode(errors="replace")


def grpc_bodies(seed: int) -> Iterator[bytes]:
    """Mutations of a sound ModelInfer message without end."""
    sound = grpc_request().SerializeToString()
    rng = np.random.default_rng(seed)
    while True:
        # what describes the tensor is as likely to be hit as its contents
        edge = sound.index(images().tobytes()[:8])
        yield mutate(sound[:edge], rng) + sound[edge:] if rng.random() < 0.7 else mutate(sound, rng)


def send_grpc(channel: grpc.Channel, body: bytes, timeout_s: float = 20.0) -> tuple[grpc.StatusCode, str]:
    """Send raw bytes as a ModelInfer message; returns the status and its reason."""
    call = channel.unary_unary(GRPC_INFER)
    try:
        call(body, timeout=timeout_s)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def send_stream(
    channel: grpc.Channel, bodies: Iterable[bytes], timeout_s: float = 60.0
) -> list[service_pb2.ModelStreamInferResponse]:
    """Send messages one after the other over one stream, each when the one before is answered."""
    answered = threading.Semaphore(1)

    def sent() -> Iterator[bytes]:
        for body in bodies:
            answered.acquire(timeout=timeout_s)
            yield body

    replies = []
    call = channel.stream_stream(
        GRPC_STREAM, response_deserializer=service_pb2.ModelStreamInferResponse.FromString
    )  # fmt: skip
    for reply in call(sent(), timeout=timeout_s):
        replies.append(reply)
        answered.release()
    return replies


def onnx_bytes(sound: bytes, seed: int) -> Iterator[bytes]:
    """Mutations of an ONNX file without end: of its bytes, and of its graph."""
    rng = np.random.default_rng(seed)
    while True:
        if rng.random() < 0.5:
            yield mutate(sound, rng)
            continue
        model = onnx.load_from_string(sound)
        nodes = model.graph.node
        kind = int(rng.integers(6))
        node = nodes[int(rng.integers(len(nodes)))]
        other = nodes[int(rng.integers(len(nodes)))]
        if kind == 0:
            nodes.remove(node)
        elif kind == 1:
            node.op_type = other.op_type
        elif kind == 2 and node.input:
            node.input[int(rng.integers(len(node.input)))] = other.output[0]
        elif kind == 3 and node.attribute:
            del node.attribute[int(rng.integers(len(node.attribute)))]
        elif kind == 4:
            tensor = model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]
            tensor.dims[:] = [int(size) for size in rng.integers(0, 9, int(rng.integers(0, 5)))]
        else:
            tensor = model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]
            tensor.raw_data = mutate(tensor.raw_data, rng)
        yield model.SerializeToString()


CONFIG = b'backend: "fpga"\nmax_batch_size: 8\nparameters { key: "device" value { string_value: "reference" } }\n'


def config_texts(seed: int, sound: bytes = CONFIG) -> Iterator[bytes]:
    """Mutations of a config.pbtxt without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield mutate(sound, rng)
