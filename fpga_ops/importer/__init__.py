"""From a QDQ ONNX file to an integer network and what onnxruntime runs before and after it.

The order, in `pipeline`: `onnx_reader` (bytes to a checked model), `graph` (an index of it), `interpret` with
`operators` and `steps` (each stretch from DequantizeLinear to QuantizeLinear becomes steps), `partition` (which steps
the device runs), `passes` (fusing).
"""

from fpga_ops.importer.partition import Partition
from fpga_ops.importer.pipeline import import_model, import_original, import_proto

__all__ = ["Partition", "import_model", "import_original", "import_proto"]
