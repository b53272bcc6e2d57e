"""The ``fpga`` Triton backend: thin glue between Triton's requests and fpga_ops.

What it is made of lies in triton_server.plugin, where it can be tested without Triton.
"""

import json
import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import fpga_ops
from fpga_ops.errors import FpgaOpsError, InputError, ModelError
from fpga_ops.targets import on_host
from triton_server.plugin.agreement import DEFAULT_MAX_BATCH, check_agreement, fixed_batch, largest_batch
from triton_server.plugin.device_trial import DeviceTrial
from triton_server.plugin.failover import Failover, Failure, NoDeviceError, split_rows
from triton_server.plugin.housekeeping import Housekeeping
from triton_server.plugin.input_checks import contract
from triton_server.plugin.last_event import LastEvent
from triton_server.plugin.metrics import Counters, Metrics, Provenance
from triton_server.plugin.overlap import Overlap
from triton_server.plugin.parent_death import hold
from triton_server.plugin.provenance import provenance
from triton_server.plugin.scores import Scores
from triton_server.plugin.settings import read_settings
from triton_server.protocol import EVENTS_VARIABLE, NOTES_VARIABLE, PARENT_PIPE_VARIABLE
from triton_server.repository.known_answers import read_golden
from triton_server.repository.model_version import MODEL_FILE, check_files, describe_onnx
from triton_server.server.abilities import knows_numpy_2, takes_parameters
from triton_server.workarounds.late_response import LateResponse
from triton_server.workarounds.thread_priority import ThreadPriority

hold(
    os.environ.get(PARENT_PIPE_VARIABLE)
)  # here, since a stub that only completes a configuration must not stay either

GOLDEN_ROWS = 2
"""Known answers asked at load and on the timer: few, since requests wait meanwhile."""
MOST_TEXT = 4000
"""Characters of an error; gRPC breaks the stream off over more than 16 KiB."""
_THIS_PROGRAM = Path("/proc/self/exe")
"""The stub."""
_MODEL_PATH_ARGUMENT = 1
"""Place of <model>/<version>/model.py in the stub's command line: all that tells auto-completion where it is."""


class TritonPythonModel:
    """One instance of a model: one device, and others to take over from it."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Fill in names, types, shapes and the batch limit from the ONNX file, where config.pbtxt leaves them out."""
        given = config.as_dict()
        if given["input"] and given["output"]:
            return config
        command = Path("/proc/self/cmdline").read_bytes().split(b"\0")
        version = Path(command[_MODEL_PATH_ARGUMENT].decode()).parent
        try:
            inputs, outputs = describe_onnx(version / MODEL_FILE)
        except FpgaOpsError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        batched = given["max_batch_size"] > 0
        ranks = {tensor.name: tensor.rank for tensor in (*inputs, *outputs)}
        whole = any(len(entry["dims"]) == ranks.get(entry["name"]) for entry in (*given["input"], *given["output"]))
        if not batched and not whole and all(tensor.batched for tensor in (*inputs, *outputs)):
            batched = True
            config.set_max_batch_size(DEFAULT_MAX_BATCH)
        if not given["input"]:
            for tensor in inputs:
                config.add_input(tensor.as_config(batched=batched))
        if not given["output"]:
            for tensor in outputs:
                config.add_output(tensor.as_config(batched=batched))
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Verify the version's files, open the first device that works, ask it the known answers."""
        if int(np.__version__.split(".")[0]) >= 2 and not knows_numpy_2(_THIS_PROGRAM):
            raise pb_utils.TritonModelException(
                f"numpy {np.__version__} corrupts tensors in this Triton's Python stub; expected numpy < 2 in the "
                'server\'s environment: pip install "numpy<2"'
            )
        self._name = f"{args['model_name']} version {args['model_version']}"
        labels = {"model": args["model_name"], "version": args["model_version"]}
        config = json.loads(args["model_config"])
        version = Path(args["model_repository"]) / args["model_version"]
        self._metrics = Metrics(pb_utils)
        self._counters = Counters(self._metrics.increment, labels)
        self._provenance = Provenance(self._metrics.move, labels)
        self._parameters = takes_parameters(pb_utils)
        self._version = args["model_version"]
        self._inputs = [str(entry["name"]) for entry in config["input"]]
        self._outputs = [str(entry["name"]) for entry in config["output"]]
        notes = os.environ.get(NOTES_VARIABLE)
        try:
            settings = read_settings(config)
            self._check = contract(settings.contract)
            check_files(version, required=settings.require_hashes)
            max_batch = largest_batch(config)
            self._device_trial = DeviceTrial(
                Path(notes) if notes else None, args["model_instance_name"], version / MODEL_FILE, max_batch,
                limit_s=settings.open_timeout_s,
            )  # fmt: skip

            def load(device: str | None) -> fpga_ops.Network:
                self._device_trial.begin(device)
                return fpga_ops.load(version / MODEL_FILE, device, max_batch=max_batch)

            self._failover = Failover(
                load,
                settings.devices,
                precision=settings.precision,
                timeout_s=settings.device_timeout_s,
                on_failure=self._device_failed,
                on_settled=self._device_trial.survived,
            )
            check_agreement(config, self._failover.description, settings.contract)
            golden = read_golden(
                version, self._inputs, self._outputs, rows=fixed_batch(config) or min(GOLDEN_ROWS, max_batch)
            )
            fault = None if golden is None else self._fault(golden.inputs)
            if fault is not None:
                raise ModelError(f"golden.npz: {fault}")
            self._failover.set_golden(golden)
            known = None if golden is None else golden.outputs
            self._scores = Scores(version, self._outputs, settings.temperature_scaling, known)
            self._provenance.tell_working_points(self._scores.working_points())
        except FpgaOpsError as error:
            raise pb_utils.TritonModelException(f"{self._name}: {error}") from error
        self._tell_provenance()
        tested = "known answers right" if golden is not None else "no golden.npz, so no known-answer test"
        scale = self._scores.temperature
        scaled = "" if scale == 1.0 else f"; scores at temperature {scale:g}"
        pb_utils.Logger.log_info(f"{self._name} serves on {self._failover.device}; {tested}{scaled}")
        interval = settings.self_test_interval_s if golden is not None else 0.0
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._late_response = LateResponse(final, self._unsent)
        self._overlap_wanted = settings.overlap
        self._supervised = notes is not None
        self._overlap = Overlap(self._answer_all, final, self._unsent)
        self._thread_priority = ThreadPriority()
        events = os.environ.get(EVENTS_VARIABLE)
        self._last_event = LastEvent(Path(events), *labels.values()) if events else None
        self._self_test_interval = interval
        self._last_test = time.monotonic()
        self._server = os.getppid()
        self._housekeeping = Housekeeping(self._keep, self._keeping_failed, lambda: os._exit(1))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Check each request, answer the good ones with one device call, and each bad one with its own error.

        The answers are returned, but for the last; or sent later, while the next batch is taken (plugin/overlap.py).
        """
        if self._thread_priority.sought and self._thread_priority.seek() is not None:
            pb_utils.Logger.log_info(f"{self._name}: the server's thread of this instance goes first")
        answers = self._overlap.take(requests) if self._overlaps() else self._answer_all(requests)
        return [None] * len(requests) if answers is None else self._late_response.keep_last(requests, answers)

    def _overlaps(self) -> bool:
        """Whether the next batch is taken while one computes: by default where that is both faster and as safe."""
        if self._overlap_wanted == "auto":
            return self._supervised and not on_host(self._failover.device)
        return self._overlap_wanted == "true"

    def _answer_all(self, requests: Sequence[Any]) -> list[Any]:
        """One answer for each request, whatever happens."""
        try:
            return self._answer(requests)
        except Exception as error:  # noqa: BLE001 - one that left here would cost Triton shared memory
            pb_utils.Logger.log_error(f"{self._name}: {traceback.format_exc()}")
            message = RuntimeError(f"{self._name}: unexpected {type(error).__name__}: {error}")
            return [_error(message, pb_utils.TritonError.INTERNAL) for _ in requests]

    def _answer(self, requests: Sequence[Any]) -> list[Any]:
        responses: list[Any] = [None] * len(requests)
        good = list(range(len(requests)))
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        batch = self._together(feeds)
        if self._fault(batch) is not None:  # whose it is, is only asked then
            faults = [self._fault(feed) for feed in feeds]
            for place, fault in enumerate(faults):
                if fault is not None:
                    self._counters.add("fpga_rejected_requests_total")
                    responses[place] = _error(fault, pb_utils.TritonError.INVALID_ARG)
            good = [place for place in good if faults[place] is None]
            feeds = [feeds[place] for place in good]
            if not good:
                return responses
            batch = self._together(feeds)
        counts = [len(feed[self._inputs[0]]) for feed in feeds]
        try:
            outputs, seconds, description = self._failover.run(batch)
        except FpgaOpsError as error:
            if len(good) > 1 and not isinstance(error, NoDeviceError):
                for place in good:  # one of them is at fault: the others shall not suffer for it
                    responses[place] = self._answer([requests[place]])[0]
                return responses
            self._counters.add("fpga_failed_requests_total", len(good))
            for place in good:
                responses[place] = _error(error, _code(error))
        else:
            told = provenance(description, self._version) | self._scores.provenance()
            device = told["device"]
            self._counters.add("fpga_inferences_total", sum(counts), device=device)
            self._counters.add("fpga_executions_total", device=device)
            self._counters.add("fpga_device_seconds_total", seconds, device=device)
            shares = [outputs] if len(good) == 1 else split_rows(outputs, counts)
            shares = [self._scores.served(s, requests[i]) for s, i in zip(shares, good, strict=True)]
            if self._last_event is not None:
                for place, feed, share in zip(good, feeds, shares, strict=True):
                    self._last_event.offer(requests[place].request_id(), feed, share)
            for place, share in zip(good, shares, strict=True):
                tensors = [pb_utils.Tensor(n, share[n]) for n in self._asked(requests[place])]
                responses[place] = (
                    pb_utils.InferenceResponse(tensors, parameters=told)
                    if self._parameters
                    else pb_utils.InferenceResponse(tensors)
                )
        return responses

    def _asked(self, request: Any) -> Sequence[str]:
        """The outputs that a request wants: Triton's sender takes others away without Python's lock, and crashes."""
        if len(self._outputs) == 1:
            return self._outputs
        wanted = set(request.requested_output_names())
        return [name for name in self._outputs if name in wanted]

    def _together(self, feeds: list[dict[str, Any]]) -> dict[str, Any]:
        """The inputs of several requests as those of one."""
        return feeds[0] if len(feeds) == 1 else {n: np.concatenate([feed[n] for feed in feeds]) for n in self._inputs}

    def _fault(self, inputs: dict[str, Any]) -> InputError | None:
        """What is wrong with inputs."""
        try:
            for name, values in inputs.items():
                self._check(name, values)
        except InputError as error:
            return error
        return None

    def is_ready(self) -> bool:
        """Whether a device is left. Triton asks it for its own readiness, and Envoy's health check with it."""
        return self._failover.alive

    def finalize(self) -> None:
        """Free the device."""
        self._overlap.close()
        self._late_response.close()
        self._housekeeping.close()
        self._failover.close()
        self._provenance.withdraw()
        self._counters.flush()
        self._metrics.close()

    def _unsent(self, error: Exception) -> None:
        """End the instance, where it is started again: else whoever waits for this answer would wait for ever."""
        pb_utils.Logger.log_error(f"{self._name}: an answer could not be sent: {error}")
        if self._supervised:
            os._exit(1)

    def _device_failed(self, failure: Failure) -> None:
        pb_utils.Logger.log_error(
            f"{self._name}: device {failure.device} is taken out of service ({failure.cause}): {failure.detail}"
        )
        self._counters.add("fpga_failovers_total", device=failure.device, cause=failure.cause)

    def _tell_provenance(self) -> None:
        """The gauge fpga_model_info: what answers. Not every Triton lets the answers themselves say it."""
        description = self._failover.description
        precision, kernel, isa = (str(description.get(name) or "") for name in ("precision", "kernel", "isa"))
        more = ({"isa": isa} if isa else {}) | self._scores.provenance()
        self._provenance.tell(self._failover.device, precision, kernel, self._failover.choice, more)

    def _keep(self) -> None:
        """Hand the counts to Prometheus, test the device on a timer, end when the server has died."""
        # Without a pipe of the parent nobody else does: Triton takes a dead server that nobody reaped for a live one.
        if os.getppid() != self._server:
            os._exit(1)
        if self._self_test_interval and time.monotonic() - self._last_test >= self._self_test_interval:
            self._last_test = time.monotonic()
            self._test()
        self._tell_provenance()
        self._counters.flush()
        if self._last_event is not None:
            self._last_event.write()

    def _keeping_failed(self, error: BaseException) -> None:
        text = "".join(traceback.format_exception(error))
        pb_utils.Logger.log_error(f"{self._name}: the housekeeping failed: {text}")
        self._counters.add("fpga_thread_faults_total", thread="housekeeping")

    def _test(self) -> None:
        device = self._failover.device
        try:
            wrong = self._failover.self_test()
        except FpgaOpsError as error:
            wrong = str(error)
        self._counters.add("fpga_self_tests_total", device=device, result="wrong" if wrong else "right")


def _code(error: FpgaOpsError) -> Any:
    """UNAVAILABLE is worth a retry (another server may have a device); the others are not."""
    if isinstance(error, InputError):
        return pb_utils.TritonError.INVALID_ARG
    return pb_utils.TritonError.UNAVAILABLE if isinstance(error, NoDeviceError) else pb_utils.TritonError.INTERNAL


def _error(error: Exception, code: Any) -> Any:
    text = str(error)
    text = text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " ..."
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
