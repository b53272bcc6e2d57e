"""The process that holds a simulated overlay: `python -m fpga_ops.rtl.device_process READ_FD WRITE_FD`.

It speaks as `fpga_ops.overlay.device_process` does; a simulation that hangs or dies takes only this process with it.
Batches are simulated one by one, in the order in which they come.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from fpga_ops.overlay.device_process import Answer, Message, receive, send
from fpga_ops.rtl.simulation import Memory, Simulation


class Device:
    """A simulation and what its batches need to know."""

    def __init__(self, header: dict[str, Any], program: bytes, weights: bytes, constants: bytes) -> None:
        self._output_bytes, self._patience = int(header["output_bytes"]), int(header["patience"])
        self._simulation = Simulation(
            Path(header["library"]), int(header["wb"]), int(header["layers"]), program, weights, constants,
            Memory(**header["memory"]),
        )  # fmt: skip
        words, beats = int(header["resident_words"]), int(header["resident_beats"])
        self._simulation.load(words, beats, self._patience)

    def run(self, message: Message) -> Answer:
        """Simulate one batch."""
        start = time.perf_counter()
        batch = self._simulation.run(message.blocks[0], self._output_bytes, message.header["runs"], self._patience)
        header = {
            "status": batch.status, "seconds": time.perf_counter() - start, "cycles": batch.cycles, "begun": batch.begun
        }  # fmt: skip
        return header, [batch.output.tobytes(), batch.records.tobytes()]


def main(argv: list[str]) -> int:
    """Serve messages until the parent closes its end."""
    device: Device | None = None
    with os.fdopen(int(argv[1]), "rb") as requests, os.fdopen(int(argv[2]), "wb") as answers:
        while (message := receive(requests)) is not None:
            try:
                if message.header["do"] == "run" and device is not None:
                    header, blocks = device.run(message)
                else:
                    start = time.perf_counter()
                    device = Device(message.header, *message.blocks)
                    header, blocks = {"seconds": time.perf_counter() - start}, []
            except Exception as error:  # noqa: BLE001 - the parent raises it, with the device's name
                header, blocks = {"error": f"{type(error).__name__}: {error}"}, []
            send(answers, header, *blocks)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
