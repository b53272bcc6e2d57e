"""Where modules of earlier releases are now; see `fpga_ops.moved_modules`."""

MOVED = {
    "fpga_ops.bench": "triton_fpga_bench",
    "fpga_ops.bench.engine": "triton_fpga_bench.engine.race",
    "fpga_ops.bench.peers": "triton_fpga_bench.engine.peers",
    "fpga_ops.compare": "fpga_ops.inspection.compare",
    "fpga_ops.files": "fpga_ops.model_file",
    "fpga_ops.fingerprint": "fpga_ops.ir.fingerprint",
    "fpga_ops.head": "fpga_ops.ir.classifier_head",
    "fpga_ops.inspect": "fpga_ops.commands.inspect",
    "fpga_ops.interface": "fpga_ops.signature",
    "fpga_ops.model": "fpga_ops.network",
    "fpga_ops.opencl": "fpga_ops.runtime.opencl",
    "fpga_ops.picture": "fpga_ops.inspection.picture",
    "fpga_ops.reference": "fpga_ops.ir.reference",
    "fpga_ops.requantise": "fpga_ops.ir.requantise",
    "fpga_ops.sessions": "fpga_ops.runtime.onnx_parts",
}
