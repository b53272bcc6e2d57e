"""A plan on a device: buffers, kernels and the few calls of one inference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from fpga_ops.errors import DeviceError, InputError, NotFiniteError
from fpga_ops.ir.classifier_head import Head
from fpga_ops.ir.network import Float32Array, IntegerNetwork, UInt8Array
from fpga_ops.runtime import opencl
from fpga_ops.runtime.memory import aligned
from fpga_ops.vector.addresses import address
from fpga_ops.vector.batching import LaunchQueue, Request, Work
from fpga_ops.vector.plan import Plan
from fpga_ops.vector.source import CALL_HEADER, call_row, generate, sync_ints

FINE_GRAIN_SYSTEM = 4
"""CL_DEVICE_SVM_FINE_GRAIN_SYSTEM: kernels may follow any pointer of the host."""

MOST_RESULTS = 1 << 25
"""Bytes of outputs kept for one launch; fewer images are launched at once where outputs are large."""

SPARE = 16
"""Answers made ahead, at most; whoever keeps one of them keeps the memory of all."""
SPARE_BYTES = 1 << 16

NOT_FINITE = "an input holds a value that is not finite"

_ONE = (1,)
_FLOAT32 = np.dtype(np.float32)


class VectorExecutable:
    """An integer network on one OpenCL device. Thread-safe; make it with `compile`.

    Attributes:
        plan: What it executes.
        kernel_hash: Digest of the program with its options and device.
        isa: Name of the instruction set that the kernels use.
        persistent: True if the network is one launch, False if each layer is one.
        checks_values: `run` refuses NaN and infinities.
        at_once: Images of one launch, at most.
        makes_scores: The kernel does the head too: `scores` may be called.
        image_size: Numbers of one image of the first input.
    """

    concurrent = True
    """Several threads may call `run` at once; their images share launches (`batching.py`)."""

    def __init__(
        self,
        plan: Plan,
        device: opencl.OpenCLDevice,
        cache_dir: Path | None,
        max_batch: int,
        *,
        persistent: bool,
        gives_way: bool = False,
        profile: bool = False,
        head: Head | None = None,
    ) -> None:
        cl = opencl.module()
        self.plan, self.device, self.persistent, self.isa = plan, device, persistent, plan.isa
        self._cl = cl
        self.max_batch = max_batch
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None
        network = plan.network
        self._context = opencl.open_context(device)
        with opencl.checked("opening the device"):
            self._queue = cl.CommandQueue(self._context)
        # a device that reads and writes the caller's memory in place needs no staging
        self._in_place = self.checks_values = works_in_place(device)
        self._head = head if self._in_place and persistent else None
        self.makes_scores = self._head is not None
        source = generate(
            plan, persistent=persistent, intel=device.is_intel_cpu or device.is_emulator, in_place=self._in_place,
            gives_way=gives_way, profile=profile, head=self._head,
        )  # fmt: skip
        self._in_sizes = [network.tensors[name].size for name in network.inputs]
        self._out_sizes = [network.tensors[name].size for name in network.outputs]
        fits = max(1, min(plan.max_batch, MOST_RESULTS // sum(self._out_sizes)))
        self.at_once = fits if self._in_place and not profile else 1
        # the pages of an arena take as long to come as a program that was compiled before
        beside = ThreadPoolExecutor(1)
        making = beside.submit(_make_arena, plan)
        beside.shutdown(wait=False)
        options = ["-cl-std=CL3.0"] if device.language >= (3, 0) else ["-cl-std=CL1.2"]
        self._program, self.kernel_hash = opencl.build(self._context, device, source, options, cache_dir)
        flags = cl.mem_flags
        # on a CPU the arrays are the memory; elsewhere they are copied
        place = flags.USE_HOST_PTR if device.is_cpu else flags.COPY_HOST_PTR
        with opencl.checked("allocating memory on the device"):
            arena = making.result()
            self._keep = [arena, plan.constants]
            self._arena = cl.Buffer(self._context, flags.READ_WRITE | place, hostbuf=arena)
            self._constants = cl.Buffer(self._context, flags.READ_ONLY | place, hostbuf=plan.constants)
            self._records = cl.Buffer(self._context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=plan.records)
            counters = np.zeros(sync_ints(plan), np.int32)
            self._sync = cl.Buffer(self._context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=counters)
            self._profile: Any = None
            if profile:
                stamps = np.zeros((self._tasks(), 4), np.uint64)
                self._profile = cl.Buffer(self._context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=stamps)
            self.image_size = self._in_sizes[0]
            self._staging: list[Any] = []
            if not self._in_place:
                sizes = [4 * size for size in self._in_sizes] + self._out_sizes
                self._staging = [cl.Buffer(self._context, flags.READ_WRITE, size * plan.max_batch) for size in sizes]
        rows = self.at_once
        self._output_names = network.outputs
        self._output_shapes = [(t.channels,) if t.flat else (t.channels, t.height, t.width)
                               for t in (network.tensors[name] for name in network.outputs)]  # fmt: skip
        # results are written here and copied: the memory of the caller's arrays is slow to ask numpy for
        self._results = [np.zeros((rows, *shape), np.uint8) for shape in self._output_shapes]
        call = np.zeros(CALL_HEADER + rows * call_row(plan), np.int64)
        if self._head is not None:
            self._head_table = self._head.table()
            call[1] = address(self._head_table)
        self._spare: list[tuple[dict[str, npt.NDArray[Any]], int]] = []
        table = call[CALL_HEADER:].reshape(rows, -1)
        for number, result in enumerate(self._results, len(network.inputs)):
            table[:, number] = address(result) + np.arange(rows) * result[0].nbytes
        self._call, self._calls = call, call.data  # numpy's own access to single numbers is slower
        self._scores_at = len(network.inputs) + len(network.outputs)  # in a row, and then the status
        self._status_place = CALL_HEADER + self._scores_at + 1
        # where the address of the answer stands in the call for one image, and what stands there else
        self._answer_place = CALL_HEADER + (self._scores_at if self.makes_scores else len(network.inputs))
        self._no_answer = self._calls[self._answer_place]
        self._launches = LaunchQueue(self._launch, rows)
        with opencl.checked("setting the kernel's arguments"):
            self._kernel = self._make_kernel()
        self._size = (plan.workers,)
        self._direct = opencl.Launch(self._queue, self._kernel, plan.workers) if persistent and self._in_place else None
        self._one_answer = self._direct is not None and (self.makes_scores or len(network.outputs) == 1)
        # for persistent kernels `images` follows the fixed arguments, for others (index, images)
        self._images_at = 4
        self._images = -1
        self._counts = [np.int32(n) for n in range(plan.max_batch + 1)]
        self._shapes = {
            name: (network.tensors[name].channels, network.tensors[name].height, network.tensors[name].width)
            for name in network.inputs
        }

    @property
    def network(self) -> IntegerNetwork:
        """Inputs, outputs and tensors of the network it executes, whose steps are in the plan."""
        return self.plan.network

    def run(self, inputs: Mapping[str, Float32Array]) -> dict[str, UInt8Array]:
        """Float inputs `float32[N, C, H, W]` (or `[N, C]`) to the network's outputs in ONNX layout.

        Raises:
            InputError: An input is missing or has another dtype or shape.
            NotFiniteError: A value is NaN or infinite; only a device with `checks_values` looks.
            DeviceError: The device failed, or the executable is closed.
        """
        arrays, images = self._check(inputs)
        try:
            if self._in_place:
                request = Request(arrays, images)
                self._launches.run(request)
                made = request.outputs
                outputs = made[0] if images == 1 else [np.concatenate(every) for every in zip(*made, strict=True)]
            else:
                with self._lock:
                    if self._launches.closed:
                        raise DeviceError("the executable is closed")
                    outputs = self._run_staged(arrays, images)
        except self._cl.Error as error:
            raise opencl.device_error("running the network", error) from error
        return {name: outputs[number] for number, name in enumerate(self._output_names)}

    def scores(self, inputs: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
        """As `run`, to the output of the head, for an executable that `makes_scores`.

        Raises: as `run`.
        """
        if self._head is None:
            raise DeviceError("this executable was compiled without a head")
        arrays, images = self._check(inputs)
        scores = np.empty((images, *self._head.shape), np.float32)
        request = Request(arrays, images, scores)
        try:
            self._launches.run(request)
        except self._cl.Error as error:
            raise opencl.device_error("running the network", error) from error
        return {self._head.output: scores}

    def run_single(self, image: Float32Array) -> dict[str, Any] | None:
        """`scores`, or `run` without a head, for a network with one input, of an image of right dtype and size.

        None if other requests are under way, the image is not contiguous or there are several outputs: then these are
        to be called. After an inference nothing of the interpreter is left in the caches, so this does no more than it
        must, and almost all of it before the launch.
        """
        launches = self._launches
        if not self._one_answer or launches.waiting or not image.flags.c_contiguous or not launches.turn.acquire(False):
            return None
        calls = self._calls
        try:
            if not self._spare:
                self._spare = self._make_spare()
            made, calls[self._answer_place] = self._spare.pop()
            calls[0] = 1
            calls[CALL_HEADER] = address(image)
            self._direct.run()  # type: ignore[union-attr]  # `_one_answer` says so
            if not calls[self._status_place]:
                return made
            calls[self._status_place] = 0
            raise NotFiniteError(NOT_FINITE)
        except self._cl.Error as error:
            raise opencl.device_error("running the network", error) from error
        finally:
            calls[self._answer_place] = self._no_answer
            launches.turn.release()
            if launches.asleep:
                launches.wake()

    def _make_spare(self) -> list[tuple[dict[str, npt.NDArray[Any]], int]]:
        """Answers of one image yet to be filled, with their addresses: many at once are cheaper."""
        name = self._output_names[0]
        dtype: np.dtype[Any] = np.dtype(np.uint8)
        shape: tuple[int, ...] = self._output_shapes[0]
        if self._head is not None:
            name, shape, dtype = self._head.output, self._head.shape, _FLOAT32
        size = dtype.itemsize * math.prod(shape)
        block = np.empty((max(1, min(SPARE, SPARE_BYTES // size)), 1, *shape), dtype)
        return [({name: block[n]}, address(block) + n * size) for n in range(len(block))]

    def submit(self, inputs: Mapping[str, Float32Array]) -> Future[dict[str, UInt8Array]]:
        """As `run`, in the background. The arrays must not be changed before the future is done."""
        with self._lock:
            if self._launches.closed:
                raise DeviceError("the executable is closed")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=self.at_once + 1, thread_name_prefix="fpga_ops-vector")
            try:
                return self._pool.submit(self.run, inputs)
            except RuntimeError as error:
                raise DeviceError("the executable is closed") from error

    def close(self) -> None:
        """Finish what was submitted and release the device. Later calls raise `DeviceError`."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)
        if not self._launches.close():
            return
        with self._lock:
            self._queue.finish()
            for buffer in (self._arena, self._constants, self._records, self._sync, *self._staging):
                buffer.release()
            self._keep = []

    def layer_times(self) -> npt.NDArray[np.uint64]:
        """Time stamps uint64[layers + 1] (CPU cycles) of the last inference: its start, then the end of each layer.

        Layers overlap unless the executable was compiled with `serial=True`.
        """
        trace = self.task_times()
        first = np.cumsum([0, *(layer.tasks for layer in self.plan.layers)])[:-1]
        ends = np.maximum.reduceat(trace[:, 2], first)
        return np.concatenate([trace[:, 0].min(keepdims=True), ends])

    def task_times(self) -> npt.NDArray[np.uint64]:
        """`uint64[tasks, 4]` of the last inference: its worker was free, began it, ended it (cycles); the worker."""
        if self._profile is None:
            raise DeviceError("this executable was compiled without profile=True")
        trace = np.empty((self._tasks(), 4), np.uint64)
        self._cl.enqueue_copy(self._queue, trace, self._profile)
        return trace

    def _tasks(self) -> int:
        return sum(layer.tasks for layer in self.plan.layers)

    def read_tensor(self, name: str, images: int) -> UInt8Array:
        """A tensor of the last inference, `uint8[N, H, W, C]`; only right if nothing has reused its place since."""
        place, tensor = self.plan.layouts[name], self.plan.network.tensors[name]
        whole = np.empty(self.plan.arena_size, np.uint8)
        self._cl.enqueue_copy(self._queue, whole, self._arena)
        shape = (tensor.height + place.pads[0] + place.pads[2], place.pitch, place.channels)
        top, left = place.pads[:2]
        frames = [whole[place.offset + n * place.step :][: place.size].reshape(shape) for n in range(images)]
        stored: UInt8Array = np.stack(frames)
        return stored[:, top : top + tensor.height, left : left + tensor.width, : tensor.channels].copy()

    def _check(self, inputs: Mapping[str, Float32Array]) -> tuple[list[Float32Array], int]:
        arrays = []
        images = -1
        for name, shape in self._shapes.items():
            value = inputs.get(name)
            if value is None:
                raise InputError(f"input '{name}' is missing; expected float32 {['N', *shape]}")
            if value.dtype != _FLOAT32 or (value.shape[1:] != shape and value.size != len(value) * np.prod(shape)):
                raise InputError(
                    f"input '{name}': expected float32 {['N', *shape]}, got {value.dtype} {list(value.shape)}"
                )
            if images not in (-1, len(value)):
                raise InputError(f"input '{name}': {len(value)} images, but another input has {images}")
            images = len(value)
            arrays.append(value if value.flags.c_contiguous else np.ascontiguousarray(value))
        if not 1 <= images <= self.max_batch:
            raise InputError(f"1 to {self.max_batch} images are accepted at once, got {images}")
        return arrays, images

    def _make_kernel(self) -> Any:
        """The kernel with its arguments set."""
        kernel = self._cl.Kernel(self._program, "network" if self.persistent else "one_layer")
        arguments: list[Any] = [self._arena, self._constants, self._records]
        arguments.append(self._sync if self.persistent else np.int32(0))
        if self._in_place:
            arguments.append(self._cl.SVM(self._call))
        else:
            arguments += [np.int32(0), *self._staging]
        if self._profile is not None:
            arguments.append(self._profile)
        for index, value in enumerate(arguments):  # `set_args` makes, compiles and keeps Python code for it first
            kernel.set_arg(index, value)
        return kernel

    def _launch(self, work: Work) -> None:
        """Run images that are read and written in the caller's memory, and wait for them; it is this thread's turn.

        The kernel finds the addresses in `_call`: setting arguments through pyopencl takes longer than the rest of this
        (its code has left the cache while the last inference ran).
        """
        calls, step = self._calls, self._scores_at + 2
        calls[0] = len(work)
        place = CALL_HEADER
        for request, image in work:
            for number, array in enumerate(request.arrays):
                calls[place + number] = address(array) + image * (array.nbytes // request.images)
            wanted = request.scores
            calls[place + self._scores_at] = 0 if wanted is None else address(wanted) + image * wanted[0].nbytes
            place += step
        self._execute(len(work))
        for row, (request, image) in enumerate(work):
            status = CALL_HEADER + row * step + step - 1
            if calls[status]:
                calls[status] = 0
                request.error = NotFiniteError(NOT_FINITE)
            elif request.scores is None:
                request.outputs[image] = [result[row : row + 1].copy() for result in self._results]

    def _execute(self, images: int) -> None:
        """Run what `_call` says, to its end."""
        if self._direct is not None:
            self._direct.run()
        else:
            self._launch_layers(self._kernel, images).wait()

    def _launch_layers(self, kernel: Any, images: int) -> Any:
        event = None
        for index, layer in enumerate(self.plan.layers):
            kernel.set_arg(self._images_at - 1, np.int32(index))
            event = self._cl.enqueue_nd_range_kernel(self._queue, kernel, (layer.tasks * images,), _ONE)
        return event

    def _run_staged(self, arrays: list[Float32Array], images: int) -> list[UInt8Array]:
        """One inference on a device with memory of its own: copy in, run, copy out; it is this thread's turn."""
        kernel = self._kernel
        if images != self._images:
            kernel.set_arg(self._images_at, self._counts[images])
            self._images = images
        for array, buffer in zip(arrays, self._staging, strict=False):
            self._cl.enqueue_copy(self._queue, buffer, array, is_blocking=False)
        if self.persistent:
            self._cl.enqueue_nd_range_kernel(self._queue, kernel, self._size, _ONE)
        else:
            self._launch_layers(kernel, images)
        outputs: list[UInt8Array] = [np.empty((images, *shape), np.uint8) for shape in self._output_shapes]
        for value, buffer in zip(outputs, self._staging[len(self._in_sizes) :], strict=True):
            self._cl.enqueue_copy(self._queue, value, buffer)
        return outputs


def _make_arena(plan: Plan) -> npt.NDArray[np.uint8]:
    """Memory for activations, zero points around every framed tensor; the maps are written by each inference."""
    arena = aligned(plan.arena_size)
    for name, place in plan.layouts.items():
        if name not in plan.direct and place.framed:
            arena[place.offset : place.offset + plan.max_batch * place.step] = place.fill
    return arena


def works_in_place(device: opencl.OpenCLDevice) -> bool:
    """Whether kernels read and write the caller's arrays where they are."""
    return device.is_intel_cpu and bool(device.handle.svm_capabilities & FINE_GRAIN_SYSTEM)
