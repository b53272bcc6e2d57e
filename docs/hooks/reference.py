"""MkDocs hook: writes the reference pages from the code, so that they cannot say anything else than the code.

A page of docs/reference holds its introduction and a line `{{ name }}`, which becomes the table or list that the
function of that name makes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fpga_ops.cli import help_text

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("fpga_ops", "backends", "clients/sonic_client", "training/retrain")
ERRORS = ("fpga_ops.errors", "fpga_ops.overlay.errors", "triton_server.errors", "sonic_client.errors", "retrain.errors")
STANDARD = {
    "BEARER_TOKEN": "Token for the server, as WLCG tools set it",
    "BEARER_TOKEN_FILE": "File with the token, read again for every request",
    "CL_CONFIG_CPU_TARGET_ARCH": "Instruction set that Intel's drivers for the CPU compile for",
    "FPGA_OPS_BITSTREAMS": "Folder of built bitstreams",
    "FPGA_OPS_BOARD": "Board whose bitstream the device `fpga` uses, where several are built",
    "FPGA_OPS_EMULATOR_DIR": "Where the vendor's emulator is installed",
    "COLUMNS": "Width of tables, where not the terminal's",
    "CXX": "C++ compiler that Verilator's model is built with",
    "LOCAL_RANK": "Number of this process in a training with several; Lightning Fabric sets it",
    "NOTIFY_SOCKET": "Where systemd wants to hear that the service is ready",
    "OCL_ICD_VENDORS": "Folder or list of OpenCL drivers; what the user set is respected",
    "TRACEPARENT": "W3C trace context that requests become children of",
    "TRITON_SERVER_ROOT": "Folder of a Triton installation, such as /opt/tritonserver",
    "XDG_CACHE_HOME": "Where caches lie, `~/.cache` if not set",
    "XDG_CONFIG_HOME": "Where the admin key lies, `~/.config` if not set",
    "XDG_RUNTIME_DIR": "Where a token is looked for last",
}
"""What variables of others mean to us, and those that need more words than their constant has."""
_PLACE = re.compile(r"^\{\{ (\w+) \}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for each page."""
    if not page.file.src_uri.startswith("reference/"):
        return markdown
    return _PLACE.sub(lambda found: MAKERS[found.group(1)](), markdown)


def commands() -> str:
    """Every subcommand of `triton-fpga` with its description and options."""
    parts = []
    for entry in sorted(entry_points(group="triton_fpga.commands"), key=lambda entry: entry.name):
        module = entry.load()
        parser = argparse.ArgumentParser(prog=f"triton-fpga {entry.name}", add_help=False)
        module.register(parser)
        parts += [f"## triton-fpga {entry.name}", "", *_description(module.__doc__), "", *_options(parser), ""]
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, sub in action.choices.items():
                    parts += [f"### triton-fpga {entry.name} {name}", "", *_description(sub.description)]
                    parts += ["", *_options(sub), ""]
    return "\n".join(parts)


def _description(text: str | None) -> Iterator[str]:
    """A docstring: its prose, and what is indented as a block."""
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        lines = part.splitlines()
        if all(line.startswith("    ") for line in lines):
            yield from ("", "```text", *textwrap.dedent(part).splitlines(), "```", "")
        else:
            yield from ("", part, "")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
        shown = help_text(action).replace("%(default)s", str(action.default)).replace("%%", "%")
        rows.append(f"| `{names}{value}` | {_cell(shown)} |")
    if rows:
        yield from ("| option | meaning |", "|---|---|", *rows)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def parameters() -> str:
    """The parameters of a model, from the data class that holds them."""
    settings = importlib.import_module("triton_server.plugin.settings").Settings
    written = {"devices": ("device", "auto,reference")}
    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    for field, text in _documented(settings):
        name, default = written.get(field.name, (field.name, str(field.default).lower()))
        rows.append(f"| `{name}` | `{default}` | {_cell(text)} |")
    return "\n".join(rows)


def client_settings() -> str:
    """The settings of a client, from the data class that holds them."""
    options = importlib.import_module("sonic_client.options").Options
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field, text in _documented(options):
        default = "" if field.default is dataclasses.MISSING else f"`{field.default}`"
        rows.append(f"| `{field.name}` | {default} | {_cell(text)} |")
    return "\n".join(rows)


def _documented(kind: type) -> Iterator[tuple[dataclasses.Field[Any], str]]:
    """The fields of a data class, each with the string below it or its line of the class's `Attributes`."""
    source, listed = inspect.getsource(kind), inspect.cleandoc(kind.__doc__ or "")
    for field in dataclasses.fields(kind):
        below = re.search(rf'^    {field.name}: [^\n]*\n    """(.+?)"""', source, re.MULTILINE | re.DOTALL)
        above = re.search(rf"^    {field.name}: (.+?)(?=^    \w+: |\Z)", listed, re.MULTILINE | re.DOTALL)
        found = below or above
        yield field, found.group(1) if found else ""


def states() -> str:
    """The states of a model, each with the string below it."""
    kind = importlib.import_module("triton_server.supervisor.models").ModelState
    source = inspect.getsource(kind)
    rows = ["| state | meaning |", "|---|---|"]
    for state in kind:
        said = re.search(rf'^    {state.name} = [^\n]*\n    """(.+?)\.?"""', source, re.MULTILINE | re.DOTALL)
        if said is None:
            raise ValueError(f"{kind.__name__}.{state.name}: nothing says what it means (a string below it)")
        rows.append(f"| `{state}` | {_cell(said.group(1))} |")
    return "\n".join(rows)


def metrics() -> str:
    """The metrics of the plugin and of the supervisor, with the help text that they are published with."""
    plugin = importlib.import_module("triton_server.plugin.metrics").DESCRIPTIONS
    rows = ["| metric | from | meaning |", "|---|---|---|"]
    rows += [f"| `{name}` | Triton, port 8002 | {_cell(text)} |" for name, text in sorted(plugin.items())]
    page = importlib.import_module("triton_server.supervisor.health_endpoint").metrics_of_nothing()
    seen = dict(re.findall(r"^# HELP (triton_fpga_\w+) (.+)$", page, re.MULTILINE))
    rows += [f"| `{name}` | supervisor, port 8003 | {_cell(text)} |" for name, text in sorted(seen.items())]
    return "\n".join(rows)


def variables() -> str:
    """The environment variables that the code reads, by the names of its constants or where it reads them."""
    found: dict[str, tuple[str, str]] = {}
    constant = re.compile(r'^(\w*VARIABLE)(?:: \w+)? = "(\w+)"\n(?:"""(.+?)""")?', re.MULTILINE | re.DOTALL)
    read = re.compile(r'environ(?:\.get\(|\[)"(\w+)"')
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text, place = path.read_text(), str(path.relative_to(ROOT))
            for name in read.findall(text):
                found.setdefault(name, ("", place))
            for _, name, meaning in constant.findall(text):
                found[name] = (meaning or found.get(name, ("", ""))[0], place)
    rows = ["| variable | meaning | read in |", "|---|---|---|"]
    for name, (said, place) in sorted(found.items()):
        if name == "PYTHONPATH":  # read to be handed on
            continue
        text = STANDARD.get(name) or said
        if not text:
            raise ValueError(
                f"{place} reads {name}: nothing says what it means (a string below its constant, or STANDARD)"
            )
        rows.append(f"| `{name}` | {_cell(text)} | `{place}` |")
    return "\n".join(rows)


def errors() -> str:
    """Each package's exceptions with the first line of what they say of themselves."""
    parts = []
    for module in ERRORS:
        loaded = importlib.import_module(module)
        parts += [f"## {module}", "", "| error | is a | raised when |", "|---|---|---|"]
        for name, kind in vars(loaded).items():
            if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == module:
                first = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
                parts.append(f"| `{name}` | `{kind.__mro__[1].__name__}` | {_cell(first)} |")
        parts.append("")
    return "\n".join(parts)


MAKERS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "parameters": parameters,
    "client_settings": client_settings,
    "metrics": metrics,
    "variables": variables,
    "errors": errors,
    "states": states,
}
