"""Passes over the integer network, in the order of `PASSES`. None changes a bit of a tensor that remains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fpga_ops.importer.steps import is_rescale
from fpga_ops.ir.network import Add, AddRule, Conv, GlobalAveragePool, IntegerNetwork, Requantise, Step, sources
from fpga_ops.ir.requantise import swapped

Pass = Callable[[IntegerNetwork], IntegerNetwork]


def merge_clips(network: IntegerNetwork) -> IntegerNetwork:
    """A ReLU or Clip between equal scales becomes bounds of the step that made its input, if nothing else reads that.

    Files with symmetric activations have these: the quantiser keeps `Conv, Q, DQ, Relu, Q` as it is.
    """
    readers = _readers(network)
    steps = {step.output: step for step in network.steps}
    for step in network.steps:
        if not is_rescale(step) or not isinstance(step, Add):
            continue
        source, output = network.tensors[step.first], network.tensors[step.output]
        maker = steps.get(source.name)
        if (source.scale, source.zero_point) != (output.scale, output.zero_point) or readers[source.name] != 1:
            continue
        if isinstance(maker, Conv | Add | GlobalAveragePool):
            del steps[source.name]
            steps[output.name] = _with_bounds(maker, step)
    order = {step.output: position for position, step in enumerate(network.steps)}
    return _rebuild(network, sorted(steps.values(), key=lambda step: order[step.output]))


def fuse_residuals(network: IntegerNetwork) -> IntegerNetwork:
    """An addition goes into the convolution that makes one operand, if nothing else reads that.

    Of two such convolutions the one at the end of the longer path is taken (the last of a block, rather than the
    projection of its shortcut), so that the other operand is ready early. The fused step stands where the addition
    stood, so all its sources are ready.
    """
    readers = _readers(network)
    depth = _depths(network)
    steps = {step.output: step for step in network.steps}
    for step in network.steps:
        if not isinstance(step, Add) or step.first == step.second:
            continue
        candidates = []
        for own, other in ((step.first, step.second), (step.second, step.first)):
            maker = steps.get(own)
            if isinstance(maker, Conv) and maker.add is None and readers[own] == 1:
                candidates.append((depth[own], own == step.first, maker, other))
        if not candidates:
            continue
        _, in_order, maker, other = max(candidates, key=lambda entry: entry[:2])
        del steps[maker.output]
        steps[step.output] = replace(
            maker,
            output=step.output,
            residual=other,
            add=step.add if in_order else swapped(step.add),
            nodes=(*maker.nodes, *step.nodes),
        )
    order = {step.output: position for position, step in enumerate(network.steps)}
    return _rebuild(network, sorted(steps.values(), key=lambda step: order[step.output]))


PASSES: tuple[Pass, ...] = (merge_clips, fuse_residuals)
"""All passes, in the order in which they run."""


def optimise(network: IntegerNetwork) -> IntegerNetwork:
    """Run all passes."""
    for run in PASSES:
        network = run(network)
    return network


def _readers(network: IntegerNetwork) -> Counter[str]:
    """How many steps read each tensor; a network output has one reader more."""
    count: Counter[str] = Counter(network.outputs)
    for step in network.steps:
        count.update(set(sources(step)))
    return count


def _depths(network: IntegerNetwork) -> dict[str, int]:
    """Length of the longest path to each tensor."""
    depth = dict.fromkeys(network.inputs, 0)
    for step in network.steps:
        depth[step.output] = 1 + max(depth[name] for name in sources(step))
    return depth


def _rebuild(network: IntegerNetwork, steps: list[Step]) -> IntegerNetwork:
    names = {*network.inputs, *(step.output for step in steps)}
    tensors = {name: tensor for name, tensor in network.tensors.items() if name in names}
    return replace(network, steps=tuple(steps), tensors=tensors)


def _with_bounds(maker: Conv | Add | GlobalAveragePool, clip: Add) -> Step:
    """The step with its last clip followed by another."""

    def both(rule: AddRule) -> AddRule:
        low, high = np.clip((rule.low, rule.high), clip.add.low, clip.add.high).tolist()
        return replace(rule, low=low, high=high)

    def both_requantise(rule: Requantise) -> Requantise:
        low, high = np.clip((rule.low, rule.high), clip.add.low, clip.add.high).tolist()
        return replace(rule, low=low, high=high)

    nodes = (*maker.nodes, *clip.nodes)
    if isinstance(maker, Add):
        return replace(maker, output=clip.output, add=both(maker.add), nodes=nodes)
    if isinstance(maker, Conv) and maker.add is not None:
        return replace(maker, output=clip.output, add=both(maker.add), nodes=nodes)
    return replace(maker, output=clip.output, requantise=both_requantise(maker.requantise), nodes=nodes)
