"""Workarounds for faults of Triton 2.51, each with what it is against; they can be deleted with the fault."""
