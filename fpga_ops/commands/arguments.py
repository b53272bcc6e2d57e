"""Numbers on the command line that must make sense."""

import argparse


def count(text: str) -> int:
    """A whole number, 1 or more. Raises argparse.ArgumentTypeError, which says what was expected and what came."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, came {text!r}")
    return value
