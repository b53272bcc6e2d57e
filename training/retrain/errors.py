"""Errors that `retrain` raises for a caller's mistake; `triton-fpga` prints them as one line."""

from fpga_ops.errors import FpgaOpsError


class RetrainError(FpgaOpsError):
    """Something the caller of `retrain` has to mend."""


class DataError(RetrainError, ValueError):
    """Jets that cannot be used: an empty file, one class only, not-a-number features, wrong labels."""


class GeneratorError(RetrainError, RuntimeError):
    """The event generator refused a setting or gave up."""


class CheckpointError(RetrainError, ValueError):
    """A checkpoint of another architecture, or a file that is no checkpoint."""


class MissingDependencyError(RetrainError, ImportError):
    """An optional package is needed for what was asked."""


class PublishError(RetrainError, RuntimeError):
    """A version that cannot be published, or one that is not what its card says."""
