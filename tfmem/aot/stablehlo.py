"""Precision and operation count of StableHLO modules, read with jax.

XLA's own cost analysis counts the body of a loop once; `arithmetic` counts every iteration.
"""

import re

from jax.extend.mlir import ir
from jax.interpreters import mlir

PRECISIONS = ("float32", "tf32", "bfloat16")
_PRODUCTS = ("stablehlo.dot_general", "stablehlo.dot", "stablehlo.convolution")


def _parse(text):
    return ir.Module.parse(text, mlir.make_ir_context())


def _operations(block):
    """All operations in a block and in the regions of its operations."""
    for view in block:
        yield view.operation
        for region in view.operation.regions:
            for inner in region:
                yield from _operations(inner)


def with_precision(text, precision):
    """Change the precision of a module's float32 matrix products and convolutions.

    Args:
      text: StableHLO.
      precision: "float32": as exact as the platform can. "tf32": the platform's fast default for float32: TF32 on
        NVIDIA cards since Ampere, float32 on a CPU. "bfloat16": factors are rounded to bfloat16, convolutions return
        bfloat16, dot products float32. Everything else stays in float32, including variables.
    """
    module = _parse(text)
    with module.context, ir.Location.unknown():
        level = ir.Attribute.parse(f"#stablehlo<precision {'HIGHEST' if precision == 'float32' else 'DEFAULT'}>")
        short, single = ir.BF16Type.get(), ir.F32Type.get()
        for op in [op for op in _operations(module.body) if op.name in _PRODUCTS]:
            op.attributes["precision_config"] = ir.ArrayAttr.get([level, level])
            types = [ir.RankedTensorType(value.type) for value in (*op.operands, op.results[0])]
            if precision == "bfloat16" and all(t.element_type == single for t in types):
                _shorten(op, types, short)
    return str(module)


def _shorten(op, types, short):
    def convert(value, element_type):
        kind = ir.RankedTensorType.get(ir.RankedTensorType(value.type).shape, element_type)
        return ir.Operation.create("stablehlo.convert", results=[kind], operands=[value]).result

    with ir.InsertionPoint(op):
        factors = [convert(value, short) for value in op.operands]
        result = types[-1]
        if op.name == "stablehlo.convolution":
            result = ir.RankedTensorType.get(result.shape, short)
        attributes = {name: op.attributes[name] for name in _names(op.attributes)}
        product = ir.Operation.create(op.name, results=[result], operands=factors, attributes=attributes).result
        if result != types[-1]:
            product = convert(product, types[-1].element_type)
        op.results[0].replace_all_uses_with(product)
    op.erase()


def _names(attributes):
    """Names in an attribute map; iteration gives names or pairs, depending on the version of jaxlib."""
    return [entry if isinstance(entry, str) else entry.name for entry in attributes]


def arithmetic(text):
    """Count the floating-point operations of a module's matrix products and convolutions, with all loop iterations.

    A multiplication and an addition are two. Products with zeros of padding or dilation are not counted, as in XLA's
    analysis. The number of iterations is the smallest number in the loop's condition: TensorFlow's loops over time
    count from zero, and their gradients' loops up to the final count of the loop before.
    """
    module = _parse(text)
    functions = {op.operation.attributes["sym_name"].value: op.operation for op in module.body}
    known = {}

    def called(name):
        if name not in known:
            known[name] = sum(cost(block) for region in functions[name].regions for block in region)
        return known[name]

    def limits(block, given):
        """Right-hand sides of "less than" in a loop's condition, a block with the arguments `given`."""

        def outside(value):
            return next((v for own, v in zip(block.arguments, given, strict=True) if own == value), value)

        for op in _operations(block):
            if op.name == "func.call":
                for region in functions[op.attributes["callee"].value].regions:
                    for inner in region:
                        yield from limits(inner, [outside(value) for value in op.operands])
            elif op.name == "stablehlo.compare" and "LT" in str(op.attributes["comparison_direction"]):
                yield outside(op.operands[1])

    def number(value):
        """Integer of a value that is a constant or a finished loop's counter; else None."""
        op = getattr(value.owner, "operation", None)  # None: a block's argument
        match op and op.name:
            case "stablehlo.constant":
                return int(re.search(r"dense<(-?\d+)>", str(op.attributes["value"]))[1])
            case "stablehlo.while":
                return runs(op)
            case "stablehlo.reshape" | "stablehlo.convert":
                return number(op.operands[0])

    def runs(loop):
        numbers = map(number, limits(loop.regions[0].blocks[0], list(loop.operands)))
        return min((n for n in numbers if n is not None), default=1)

    def cost(block):
        total = 0
        for view in block:
            op = view.operation
            if op.name == "func.call":
                total += called(op.attributes["callee"].value)
            elif op.name == "stablehlo.while":
                total += runs(op) * cost(op.regions[1].blocks[0])
            elif op.name in _PRODUCTS:
                total += _product_cost(op)
            else:
                total += sum(cost(inner) for region in op.regions for inner in region)
        return total

    return called("main")


def _product_cost(op):
    left, right, result = (ir.RankedTensorType(v.type).shape for v in (*op.operands, op.results[0]))
    if op.name == "stablehlo.convolution":
        return _convolution_cost(op, left, right, result)
    if op.name == "stablehlo.dot_general":
        found = re.search(r"lhs_contracting_dimensions = \[(.*?)\]", str(op.attributes["dot_dimension_numbers"]))
        contracted = [left[int(i)] for i in re.findall(r"\d+", found[1])] if found else []
    else:
        contracted = left[-1:]
    return 2 * _prod(result) * _prod(contracted)


def _convolution_cost(op, left, right, result):
    numbers = str(op.attributes["dimension_numbers"])
    inputs, kernel, outputs = (
        part.split(", ") for part in re.search(r"\[(.*?)\]x\[(.*?)\]->\[(.*?)\]", numbers).groups()
    )
    spatial = [name for name in kernel if name.isdigit()]

    def option(name, default):
        given = name in _names(op.attributes)
        values = [int(n) for n in re.findall(r"-?\d+", _elements(str(op.attributes[name])))] if given else []
        return values if len(values) == len(default) else values * len(default) or default

    rank = len(spatial)
    strides, holes = option("window_strides", [1] * rank), option("lhs_dilation", [1] * rank)
    spread, padding = option("rhs_dilation", [1] * rank), option("padding", [0] * 2 * rank)
    pairs = 1
    for i, name in enumerate(spatial):
        size = (left[inputs.index(name)] - 1) * holes[i] + 1
        at = [
            y * strides[i] + k * spread[i] - padding[2 * i]
            for y in range(result[outputs.index(name)])
            for k in range(right[kernel.index(name)])
        ]
        pairs *= sum(0 <= place < size and place % holes[i] == 0 for place in at)
    groups = int(re.match(r"\d+", str(op.attributes["batch_group_count"]))[0])
    batch = left[inputs.index("b")] // groups
    return 2 * batch * right[kernel.index("i")] * right[kernel.index("o")] * pairs


def _elements(attribute):
    """Text of a dense attribute's values, without its type."""
    return attribute.split(" : tensor")[0].split(":")[-1] if "array<" in attribute else attribute.split(" : ")[0]


def _prod(sizes):
    total = 1
    for size in sizes:
        total *= size
    return total
