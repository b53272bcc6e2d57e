"""The command `triton-fpga`: finds the subcommands that the installed packages register and runs one.

A subcommand is a module named in the entry-point group `triton_fpga.commands`, with `register(parser)`, which adds
its arguments, and `run(args)`, which returns the exit code. Errors meant for the user carry `exit_code` (each
package's base error has it) and are printed as one line, with their notes; so is what the system refuses, such as a
full disc. Any other error is a bug and shows its traceback.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, TextIO

GROUP = "triton_fpga.commands"
USER_ERROR = 2
"""Exit code when the user's input or set-up is at fault; 1 is left to a command's own 'no'."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it."""

UNREAD = 141
"""Exit code when whoever read the output has closed it, as a shell has it of SIGPIPE."""
_REFUSALS = {
    getattr(errno, name)
    for name in (
        "EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY", "ENOSPC", "EDQUOT", "EROFS", "EFBIG",
        "ENAMETOOLONG", "ELOOP", "EMFILE", "ENFILE", "ESTALE", "EIO", "EBUSY", "ETXTBSY",
    )
}  # fmt: skip
"""What a file or a disc, and no fault of the program, makes the system refuse."""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, and defaults where an option's text leaves them out."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return help_text(action)


class Parser(argparse.ArgumentParser):
    """A parser whose help says defaults; so do its sub-parsers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _HelpFormatter, **options})


def help_text(action: argparse.Action) -> str:
    """What the help says of an argument, before argparse fills in `%(default)s` and the like."""
    text, default = action.help or "", action.default
    if not action.option_strings or "default" in text or isinstance(default, bool) or default in (None, "", []):
        return text
    if default == argparse.SUPPRESS:
        return text
    words = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
    return f"{text} (default: {words.replace('%', '%%')})"


def _parser(name: str, entry: EntryPoint) -> tuple[argparse.ArgumentParser, object]:
    module = entry.load()
    parser = Parser(prog=f"triton-fpga {name}", description=(module.__doc__ or "").strip())
    module.register(parser)
    return parser, module


def _usage(commands: dict[str, EntryPoint]) -> str:
    width = max(map(len, commands))
    lines = ["usage: triton-fpga COMMAND [options]   (triton-fpga COMMAND --help tells its options; --version)", ""]
    for name in sorted(commands):
        try:
            module = commands[name].load()
            summary = (module.__doc__ or "").strip().splitlines()[0]
        except ImportError as error:
            summary = f"not installed here: {error}"
        lines.append(f"  {name:{width}s} {summary}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `triton-fpga argv`; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_usage(commands))
        return 0
    if arguments[0] == "--version":
        print(f"triton-fpga {version('triton-fpga')}")
        return 0
    name = arguments.pop(0)
    if name not in commands:
        print(f"triton-fpga: no command '{name}'; there are: {', '.join(sorted(commands))}", file=sys.stderr)
        return USER_ERROR
    try:
        parser, module = _parser(name, commands[name])
    except ImportError as error:
        print(f"triton-fpga {name}: a package is missing ({error}); see the README for the extra", file=sys.stderr)
        return USER_ERROR
    try:
        code: int = module.run(parser.parse_args(arguments))  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        print(f"triton-fpga {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        if not _unread():
            raise
        return UNREAD
    except Exception as error:
        known: int | None = getattr(error, "exit_code", None)
        if known is None and isinstance(error, OSError) and error.errno in _REFUSALS:
            known = USER_ERROR
        if known is None:
            raise
        for line in [str(error), *getattr(error, "__notes__", ())]:
            print(f"triton-fpga {name}: {line}", file=sys.stderr)
        return known
    return UNREAD if _unread() else code


def _unread() -> bool:
    """Whether nobody reads the standard output any more; what is left of it then goes nowhere, without a word."""
    try:
        sys.stdout.flush()
        unread = _reader_has_gone(sys.stdout)
    except BrokenPipeError:
        unread = True
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return unread


def _reader_has_gone(stream: TextIO) -> bool:
    """Whether a pipe has no reader: a write that failed may have left nothing that a flush would fail on again."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no file: a test's, a notebook's
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    sys.exit(main())
