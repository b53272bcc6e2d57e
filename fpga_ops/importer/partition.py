"""Which part of a graph the device runs: the largest connected stack of quantised steps that has a convolution."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import onnx

from fpga_ops.errors import ModelError
from fpga_ops.importer.graph import Graph
from fpga_ops.importer.integer_operators import QOPERATORS
from fpga_ops.importer.interpret import Walk
from fpga_ops.importer.subgraph import extract
from fpga_ops.importer.values import Failure, Integers, Opaque, Real
from fpga_ops.ir.network import Conv, IntegerNetwork, Step, sources, step_operations


@dataclass(frozen=True)
class Part:
    """Nodes that onnxruntime runs, as a model of their own.

    Attributes:
        model: The model; None if there is nothing to run.
        inputs: What it reads.
        outputs: What it makes.
        nodes: Names of its nodes, in order.
    """

    model: onnx.ModelProto | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Partition:
    """A graph in three parts.

    Attributes:
        graph: The whole file.
        before: From the file's inputs to the float tensors that are quantised.
        network: The integer network.
        after: From the integer network's outputs to the file's outputs.
        quantised: Float tensor (of `before`, or an input of the file) that feeds each input of the network.
        device_nodes: Names of the nodes that the network stands for.
    """

    graph: Graph
    before: Part
    network: IntegerNetwork
    after: Part
    quantised: dict[str, str]
    device_nodes: tuple[str, ...]


def partition(graph: Graph, found: Walk) -> Partition:
    """Choose the stack and cut the graph around it.

    Raises:
        ModelError: There is no such stack, or convolutions with quantised weights would be left out of it: an
            operator that the integer network cannot hold stands between, and is named.
    """
    steps = _largest(found)
    if not steps:
        _fail(found, "no quantised convolution was found between QuantizeLinear nodes")
    _check_nothing_left(graph, found, steps)
    made = {step.output for step in steps}
    after_nodes, after_reads = graph.slice_back(graph.outputs, made)
    outputs = [name for name in found.tensors if name in after_reads and name in made]
    if not outputs:
        raise ModelError("no output of the file depends on its quantised convolutions")
    needed = _needed(steps, outputs)
    inputs = tuple(dict.fromkeys(name for step in needed for name in sources(step) if name not in made))
    names = {*inputs, *(step.output for step in needed)}
    network = IntegerNetwork(
        inputs,
        tuple(outputs),
        {name: tensor for name, tensor in found.tensors.items() if name in names},
        tuple(needed),
        frozenset(name for name in outputs if name in found.signed),
    )
    quantised = {name: found.entries[name].real for name in inputs}
    before_nodes, before_reads = graph.slice_back(quantised.values(), ())
    made_before = tuple(dict.fromkeys(name for name in quantised.values() if name not in graph.inputs))
    before = Part(None, tuple(sorted(before_reads)), made_before)
    if made_before:
        model = extract(graph, before_nodes, before.inputs, made_before)
        before = Part(model, before.inputs, made_before, tuple(node.name for node in before_nodes))
    reads = tuple(sorted(after_reads))
    after_model = extract(graph, after_nodes, reads, graph.outputs, network)
    after = Part(after_model, reads, graph.outputs, tuple(node.name for node in after_nodes))
    elsewhere = {*before.nodes, *after.nodes}
    return Partition(graph, before, network, after, quantised, _device_nodes(graph, found, elsewhere))


def _largest(found: Walk) -> list[Step]:
    """The steps of the connected stack with the most operations."""
    parent = {name: name for name in found.tensors}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for step in found.steps:
        for name in sources(step):
            parent[root(name)] = root(step.output)
    stacks: defaultdict[str, list[Step]] = defaultdict(list)
    for step in found.steps:
        stacks[root(step.output)].append(step)
    everything = IntegerNetwork((), (), found.tensors, ())
    work = {name: sum(step_operations(everything, step) for step in steps) for name, steps in stacks.items()}
    best = max(work, key=lambda name: work[name], default=None)
    return [] if best is None or not work[best] else stacks[best]


def _check_nothing_left(graph: Graph, found: Walk, steps: list[Step]) -> None:
    """Refuse a file of which convolutions would be left to onnxruntime because of an unsupported operator."""
    mine = {name for step in steps for name in (*sources(step), step.output)}
    others = {
        name
        for step in found.steps
        if isinstance(step, Conv) and step.output not in mine
        for name in (*sources(step), step.output)
    }
    for step in reversed(found.steps):  # and all that leads to these convolutions, such as a ReLU's bounds
        if step.output in others:
            others.update(sources(step))
    stack_nodes = {node for step in steps for node in step.nodes}
    for node in graph.nodes:
        if node.name in found.stopped and node.name not in stack_nodes:
            failure = found.stopped[node.name]
            if others or _quantises_later(graph, found, node.name) or _feeds(found, mine):
                raise _error(failure)
    for entry in found.entries.values():
        if entry.cause is not None and (entry.tensor in mine or (others and entry.tensor in others)):
            raise _error(entry.cause)


def _quantises_later(graph: Graph, found: Walk, name: str) -> bool:
    """Whether something downstream of a node that was left out is quantised again."""
    node = next(node for node in graph.nodes if node.name == name)
    pending, seen = list(node.outputs), set[str]()
    while pending:
        tensor = pending.pop()
        for reader in graph.consumers.get(tensor, ()):
            if reader.operator == "QuantizeLinear" or reader.operator in QOPERATORS:
                return True
            if reader.name not in seen:
                seen.add(reader.name)
                pending.extend(reader.outputs)
    return False


def _feeds(found: Walk, mine: set[str]) -> bool:
    return any(entry.cause is not None and entry.tensor in mine for entry in found.entries.values())


def _error(failure: Failure) -> ModelError:
    return ModelError(
        f"{failure.reason} (it stands between quantised convolutions, and nothing is run elsewhere silently)",
        node=failure.node,
        operator=failure.operator,
    )


def _fail(found: Walk, reason: str) -> None:
    for value in found.values.values():
        if isinstance(value, Opaque) and value.cause is not None:
            raise ModelError(value.cause.reason, node=value.cause.node, operator=value.cause.operator)
    raise ModelError(reason)


def _needed(steps: list[Step], outputs: list[str]) -> list[Step]:
    """Steps without which an output could not be made."""
    wanted = set(outputs)
    chosen = []
    for step in reversed(steps):
        if step.output in wanted:
            chosen.append(step)
            wanted.update(sources(step))
    return chosen[::-1]


def _device_nodes(graph: Graph, found: Walk, elsewhere: set[str]) -> tuple[str, ...]:
    """Nodes that the steps stand for, reshapes and repeated quantisations in between included."""
    return tuple(
        node.name
        for node in graph.nodes
        if node.name not in elsewhere and isinstance(found.values.get(node.outputs[0]), Integers | Real)
    )
