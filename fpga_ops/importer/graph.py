"""A read-only view of an ONNX graph: nodes in order with unique names, producers, consumers, constants."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx

from fpga_ops.errors import ModelError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Node:
    """One ONNX node.

    Attributes:
        name: Unique; made from the operator and position where the file has none or repeats one.
        operator: The operator type.
        inputs: Tensor names, '' for one left out.
        outputs: Tensor names.
        captured: Outer tensors that subgraphs of this node may read.
        proto: The node as stored.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...]
    proto: onnx.NodeProto

    @property
    def reads(self) -> tuple[str, ...]:
        """All tensors it needs."""
        return tuple(name for name in self.inputs + self.captured if name)

    def attribute(self, name: str, kind: onnx.AttributeProto.AttributeType) -> onnx.AttributeProto | None:
        """The stored attribute, None if it is not there.

        Raises:
            ModelError: It is of another kind.
        """
        found = next((entry for entry in self.proto.attribute if entry.name == name), None)
        if found is not None and found.type != kind:
            names = onnx.AttributeProto.AttributeType
            raise ModelError(
                f"its attribute '{name}' is {names.Name(found.type)}; {names.Name(kind)} is expected",
                node=self.name,
                operator=self.operator,
            )
        return found

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.attribute(name, onnx.AttributeProto.INT)
        return default if found is None else int(found.i)

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        found = self.attribute(name, onnx.AttributeProto.FLOAT)
        return default if found is None else float(found.f)

    def integers(self, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
        """A list of integers."""
        found = self.attribute(name, onnx.AttributeProto.INTS)
        return tuple(default) if found is None else tuple(int(value) for value in found.ints)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        found = self.attribute(name, onnx.AttributeProto.STRING)
        return default if found is None else found.s.decode("utf-8", "replace")


@dataclass(frozen=True)
class Graph:
    """The graph of a model.

    Attributes:
        model: The file, as read.
        nodes: In an order in which every input is ready.
        producer: The node that makes a tensor.
        consumers: The nodes that read a tensor.
        inputs: Graph inputs that are not weights, by name.
        initializers: Stored weights by name.
    """

    model: onnx.ModelProto
    nodes: tuple[Node, ...]
    producer: dict[str, Node]
    consumers: dict[str, tuple[Node, ...]]
    inputs: dict[str, onnx.ValueInfoProto]
    initializers: dict[str, onnx.TensorProto] = field(repr=False)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return tuple(value.name for value in self.model.graph.output)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return next(int(entry.version) for entry in self.model.opset_import if entry.domain in {"", "ai.onnx"})

    def slice_back(self, wanted: Iterable[str], stop: Iterable[str]) -> tuple[list[Node], set[str]]:
        """Nodes that make the tensors `wanted` from tensors of `stop`, graph inputs and weights.

        Returns:
            The nodes in order, and the tensors of `stop` and graph inputs that they (or `wanted` itself) read.
        """
        barrier = set(stop)
        pending, seen, read, chosen = list(wanted), set[str](), set[str](), set[str]()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in barrier or name in self.inputs:
                read.add(name)
            elif name in self.producer:
                node = self.producer[name]
                chosen.add(node.name)
                pending.extend(node.reads)
        return [node for node in self.nodes if node.name in chosen], read


def make_graph(model: onnx.ModelProto) -> Graph:
    """Check that the nodes form a graph and index it.

    Raises:
        ModelError: A tensor is made twice or never, or there is a cycle.
    """
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in initializers}
    nodes = _named(graph.node)
    producer: dict[str, Node] = {}
    for node in nodes:
        for name in node.outputs:
            if name and (name in producer or name in inputs or name in initializers):
                raise ModelError(f"tensor '{name}' is made twice", node=node.name, operator=node.operator)
            producer[name] = node
    producer.pop("", None)
    known = producer.keys() | inputs.keys() | initializers.keys()
    for node in nodes:
        for name in node.inputs:
            if name and name not in known:
                raise ModelError(f"input '{name}' is made by no node", node=node.name, operator=node.operator)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(f"output '{value.name}' is made by no node")
    # What a subgraph reads may be its own; only names of this graph count.
    nodes = [
        Node(n.name, n.operator, n.inputs, n.outputs, tuple(c for c in n.captured if c in known), n.proto)
        for n in nodes
    ]
    ordered = _in_order(nodes)
    consumers: defaultdict[str, list[Node]] = defaultdict(list)
    for node in ordered:
        for name in dict.fromkeys(node.reads):
            consumers[name].append(node)
    return Graph(
        model,
        tuple(ordered),
        {name: node for node in ordered for name in node.outputs if name},
        {name: tuple(readers) for name, readers in consumers.items()},
        inputs,
        initializers,
    )


def _named(protos: Iterable[onnx.NodeProto]) -> list[Node]:
    taken: set[str] = set()
    nodes = []
    for position, proto in enumerate(protos):
        name = proto.name if proto.name and proto.name not in taken else f"{proto.op_type}_{position}"
        taken.add(name)
        captured = tuple(dict.fromkeys(_captured(proto)))
        nodes.append(Node(name, proto.op_type, tuple(proto.input), tuple(proto.output), captured, proto))
    return nodes


def _captured(proto: onnx.NodeProto) -> Iterable[str]:
    for attribute in proto.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
            for value in graph.output:
                yield value.name
            for node in graph.node:
                yield from (name for name in node.input if name)
                yield from _captured(node)


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    """Topological order, the file's own where it is one."""
    maker = {name: position for position, node in enumerate(nodes) for name in node.outputs if name}
    needs = [{maker[name] for name in node.reads if name in maker} for node in nodes]
    followers: defaultdict[int, list[int]] = defaultdict(list)
    for position, required in enumerate(needs):
        for earlier in required:
            followers[earlier].append(position)
    if all(earlier < position for position, required in enumerate(needs) for earlier in required):
        return list(nodes)
    missing = [len(required) for required in needs]
    ready = deque(position for position, count in enumerate(missing) if not count)
    order = []
    while ready:
        position = ready.popleft()
        order.append(nodes[position])
        for follower in followers[position]:
            missing[follower] -= 1
            if not missing[follower]:
                ready.append(follower)
    if len(order) < len(nodes):
        stuck = next(node for node, count in zip(nodes, missing, strict=True) if count)
        raise ModelError("the graph has a cycle through this node", node=stuck.name, operator=stuck.operator)
    return order
