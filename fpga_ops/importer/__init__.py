"""From a quantised ONNX file to an integer network and what onnxruntime runs before and after it.

The order, in `pipeline`: `onnx_reader` (bytes to a checked model), `graph` (an index of it), `interpret` with
`operators` and `steps` (each stretch from DequantizeLinear to QuantizeLinear becomes steps), `partition` (which steps
the device runs), `passes` (fusing).
"""

from fpga_ops.importer.partition import Partition
from fpga_ops.importer.pipeline import import_model, import_original, import_proto
from fpga_ops.importer.settle import settle_scales

__all__ = ["Partition", "import_model", "import_original", "import_proto", "settle_scales"]
