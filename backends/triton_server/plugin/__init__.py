"""What the ``fpga`` plugin is made of, testable without Triton; backends/fpga/model.py is the glue."""
