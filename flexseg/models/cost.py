"""What a network costs, from its graph alone. No weight is drawn: a network of any size takes seconds.

Usage:
    with abstract_build():
        model = build_model(...)
    cost = cost_of(model)
    cost.parameters, cost.macs, cost.activation_bytes            # the latter two for one image
"""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

_VIEWS = ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "Shape", "IdentityN", "CheckNumerics")  # share their input's memory


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one network.

    Attributes:
      parameters: trainable weights and moving statistics.
      macs: multiply-accumulate operations of convolutions and matrix products in one forward pass of one image, upsampling left out; a training step
        takes about three times as many.
      activation_bytes: what the operations of that pass put out in training, in the precision they compute in: what the backward pass can want,
        before a compiler fuses anything.
    """

    parameters: int
    macs: int
    activation_bytes: int


def cost_of(model: keras.Model) -> Cost:
    """The cost of a model of `build_model`'s contract, built under the precision that the cost is wanted for."""
    image = tf.TensorSpec((1, *model.input.shape[1:]), model.input.dtype)
    weights, state = ([tf.TensorSpec(v.shape, v.dtype) for v in group] for group in (model.trainable_variables, model.non_trainable_variables))

    @tf.function(autograph=False)
    def forward(image: tf.Tensor, weights: list, state: list) -> Any:
        return model.stateless_call(weights, state, image, training=True)[0]

    graph = forward.get_concrete_function(image, weights, state).graph
    macs, activations = _counted(graph, {graph.inputs[0].ref()})
    return Cost(sum(math.prod(v.shape) for v in model.variables if not v.path.endswith("seed_generator_state")), macs, activations)


def _counted(graph: tf.Graph, downstream: set) -> tuple[int, int]:
    """(MACs, bytes put out) of the operations downstream of some tensors of a graph; what depends on weights and seeds alone is left out."""
    macs = activations = 0
    for operation in graph.get_operations():
        reached = [tensor.ref() in downstream for tensor in operation.inputs]
        if not any(reached):
            continue
        downstream |= {tensor.ref() for tensor in operation.outputs}
        if operation.type in ("PartitionedCall", "StatefulPartitionedCall"):  # Keras compiles convolutions in groups by themselves
            inner = graph._get_function(operation.get_attr("f").name).graph
            more = _counted(inner, {tensor.ref() for tensor, is_reached in zip(inner.inputs, reached, strict=True) if is_reached})
            macs, activations = macs + more[0], activations + more[1]
            continue
        macs += _macs(operation)
        if operation.type not in _VIEWS:
            activations += sum(math.prod(t.shape) * t.dtype.size for t in operation.outputs if t.dtype.is_floating and t.shape.is_fully_defined())
    return macs, activations


def _macs(operation: tf.Operation) -> int:
    """Products that an operation adds up."""
    shapes = [tensor.shape.as_list() for tensor in operation.inputs if tensor.shape.rank is not None]
    output = operation.outputs[0].shape.as_list() if operation.outputs and operation.outputs[0].shape.rank is not None else []
    match operation.type:
        case "Conv2D":  # kernel [h, w, in / groups, out]
            return math.prod(output) * math.prod(shapes[1][:3])
        case "DepthwiseConv2dNative":  # kernel [h, w, in, multiplier]
            return math.prod(output) * math.prod(shapes[1][:2])
        case "Conv2DBackpropInput":  # a transposed convolution: sizes, kernel [h, w, out, in], input
            return math.prod(shapes[2]) * math.prod(shapes[1][:3])
        case "MatMul":
            return math.prod(output) * shapes[0][0 if operation.get_attr("transpose_a") else 1]
        case "BatchMatMulV2" if any(tensor.op.type == "Const" for tensor in operation.inputs):
            return 0  # a fixed matrix: BilinearUpsampling, and no table of GMAC counts interpolation
        case "BatchMatMulV2":
            return math.prod(output) * shapes[0][-2 if operation.get_attr("adj_x") else -1]
        case "Einsum":
            return _einsum_macs(operation.get_attr("equation").decode(), shapes)
    return 0


def _einsum_macs(equation: str, shapes: list[list[int]]) -> int:
    """Products of an einsum of two operands: the sizes of all its letters multiplied."""
    operands = equation.partition("->")[0].split(",")
    if len(operands) != 2:
        return 0
    sizes: dict[str, int] = {}
    for letters, shape in zip(operands, shapes, strict=True):
        if "." in letters:  # the dimensions of "..." belong to the front
            hidden = len(shape) - len(letters.replace("...", ""))
            letters = letters.replace("...", "".join(chr(0x100 + i) for i in range(hidden)))
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())
