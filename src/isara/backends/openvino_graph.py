"""An OpenVINO file made ready to run: paged attention, logits only where they are asked for, an adapter's factors."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isara.backends.products import in_eight_bits
from isara.backends.quiet import without_telemetry
from isara.errors import BackendError

Graph = Any
"""An OpenVINO model; its classes are not typed."""
Tensors = list[Any]
"""Memory for pages: the piece itself, and in it one tensor of OpenVINO for the keys or the values of each layer."""
Factors = tuple[NDArray[np.float32], NDArray[np.float32]]
"""The factors A (rank, in) and B (out, rank) of an adapted layer, the adapter's scale within A."""

CURE = "Set model.engine='transformers' (--engine transformers)."
"""What helps where OpenVINO cannot be used."""
LAYER = "__module.network."
"""What the names of layers begin with in a traced graph."""

_ELEMENTWISE = {"Add", "Subtract", "Multiply", "Divide", "Tanh", "Convert"}
_ACTIVATIONS = {"Swish", "Gelu"}
_POSITIONS = ["isara", "positions"]
_ALIGNED = 64
"""Bytes of a cache line, on which tensors begin."""
_CACHES = ("key_cache.", "value_cache.")


@dataclass
class Batch:
    """What is computed at once: some tokens of several sequences, end to end."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=lambda: [0])
    pasts: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    page_begins: list[int] = field(default_factory=lambda: [0])
    places: list[int] = field(default_factory=list)
    """The tokens of this batch whose logits are wanted."""
    longest: int = 0

    def with_company(self, page: int) -> Batch:
        """Return the batch with one more token in it, that nobody asks for, in a page that nobody uses."""
        both = copy.deepcopy(self)
        both.add([0], 0, [page], [])
        return both

    def add(self, tokens: Sequence[int], past: int, pages: Sequence[int], wanted: Sequence[int]) -> None:
        """Add a sequence's next tokens, `past` others being in its pages; `wanted` counts from the first of them."""
        start = len(self.tokens)
        self.tokens += tokens
        self.positions += range(past, past + len(tokens))
        self.begins.append(len(self.tokens))
        self.pasts.append(past)
        self.pages += pages
        self.page_begins.append(len(self.pages))
        self.places += (start + place for place in wanted)
        self.longest = max(self.longest, past + len(tokens))


def read_graph(file: Path, *, mapped: bool) -> Graph:
    """
    Return the graph in a file with paged attention, and with logits for the tokens named by the input `places`.

    `mapped` leaves its weights in the file, for the system to take in and out: what is computed with are copies in
    another order. Two graphs of one file then share them. The file must stay as it is; it may be deleted.
    """
    without_telemetry()
    import openvino as ov

    core = ov.Core()
    core.set_property({"ENABLE_MMAP": mapped})
    return paged(core.read_model(file))


def paged(graph: Graph) -> Graph:
    """Put paged attention into a graph that keeps its keys and values as states, and pick out the places asked for."""
    from openvino import opset13 as ops
    from openvino._offline_transformations import paged_attention_transformation

    paged_attention_transformation(graph)
    places = ops.parameter([-1], np.int64, name="places")
    places.output(0).get_tensor().set_names({"places"})
    head = head_of(graph)
    chosen = ops.gather(head.input_value(0), places, ops.constant(np.int64(0)))
    head.input(0).replace_source_output(chosen.output(0))
    graph.add_parameters([places])
    keep_gates_apart(graph)
    graph.validate_nodes_and_infer_types()
    return graph


def keep_gates_apart(graph: Graph) -> None:
    """
    Keep OpenVINO from making one operation of a gated layer's three products, as it does in bfloat16 on CPUs with AMX.

    That operation divides by half the number of its threads, so that the process dies where there is one thread
    (openvinotoolkit/openvino#33300), and it rounds otherwise than the three products do, which it leaves alone where
    an adapter is in between: a model and its tuned self would be computed in two ways. It saves about 6 % of the time.
    It is looked for by its multiplication with numpy's broadcasting, which factors of the same shape do not need.
    """
    from openvino import opset13 as ops

    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        factors = node.input_values()
        shapes = {str(factor.get_partial_shape()) for factor in factors}
        if len(shapes) > 1 or not any(factor.get_node().get_type_name() in _ACTIVATIONS for factor in factors):
            continue
        plain = ops.multiply(*factors, auto_broadcast="NONE")
        for user in list(node.output(0).get_target_inputs()):
            user.replace_source_output(plain.output(0))


def note_positions(graph: Graph, positions: int | None) -> None:
    """Write down in a graph how many positions its network has learned; beyond, it would compute, and find nothing."""
    if positions is not None:
        graph.set_rt_info(str(positions), _POSITIONS)


def learned_positions(graph: Graph) -> int | None:
    """Return how many positions a graph's network has learned, None where they are computed."""
    return int(graph.get_rt_info(_POSITIONS).value) if graph.has_rt_info(_POSITIONS) else None


def head_of(graph: Graph) -> Any:
    """Return the matrix product that makes the logits."""
    node = graph.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() in _ELEMENTWISE:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul":
        raise BackendError(f"its logits come from {node.get_type_name()} and not from a matrix product")
    return node


def refuse_format(number_format: str) -> None:
    """Raise BackendError where OpenVINO does not compute in a number format on this CPU; in f32 it does everywhere."""
    without_telemetry()
    import openvino as ov

    name, mark = {"bf16": ("bfloat16", "BF16"), "f16": ("float16", "FP16")}.get(number_format, ("float32", "FP32"))
    if mark not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError(
            f"model.dtype: OpenVINO does not compute in {name} on this CPU. Set model.dtype='auto'. {CURE}"
        )


def add_adapter(graph: Graph, adapter: Mapping[str, Factors]) -> None:
    """
    Add low-rank factors to the layers of those names; raises BackendError for one not here.

    They become constants of the graph, which compiling lays out for its products. As inputs they would be converted
    and laid out anew with every batch, which costs a quarter of the speed.
    """
    from openvino import opset13 as ops

    products = {
        node.get_friendly_name().removeprefix(LAYER).rpartition("/aten::")[0]: node
        for node in graph.get_ops()
        if node.get_type_name() == "MatMul"
    }
    for name, (a, b) in adapter.items():
        if name not in products:
            raise BackendError(f"adapter: OpenVINO's graph has no layer {name!r} to put it on. {CURE}")
        product = products[name]
        users = list(product.output(0).get_target_inputs())
        narrow = ops.matmul(product.input_value(0), ops.constant(a), False, True)
        wide = ops.matmul(narrow, ops.constant(b), False, True)
        total = ops.add(product, wide)
        for user in users:
            user.replace_source_output(total.output(0))
    graph.validate_nodes_and_infer_types()


def compress(graph: Graph) -> None:
    """
    Keep the weights of matrix products in 8 bits, each row with a scale of its own and no offset.

    The largest magnitude of a row becomes 127; products are then made from these weights in the graph's own format.
    """
    import openvino as ov
    from openvino import opset13 as ops

    made: dict[str, Any] = {}
    for node in graph.get_ordered_ops():
        source = node.input_value(1) if node.get_type_name() == "MatMul" else None
        constant = constant_behind(source) if source is not None else None
        if source is None or constant is None or not node.get_attributes()["transpose_b"]:
            continue
        name = constant.get_friendly_name()
        if name not in made:
            numbers, steps = in_eight_bits(torch.from_numpy(constant.get_data().astype(np.float32)))
            wide = ops.convert(ov.op.Constant(numbers.numpy()), "f32")
            made[name] = ops.multiply(wide, ops.constant(steps.numpy()), name=name)
        node.input(1).replace_source_output(made[name].output(0))
    graph.validate_nodes_and_infer_types()


def constant_behind(source: Any) -> Any:
    """Return the constant that an input comes from, perhaps by way of another number format; None where it does not."""
    node = source.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


class Runner:
    """A compiled graph with its pages of keys and values."""

    def __init__(self, graph: Graph, number_format: str) -> None:
        import openvino as ov

        options = {"INFERENCE_PRECISION_HINT": number_format, "KV_CACHE_PRECISION": number_format}
        self.compiled = ov.Core().compile_model(graph, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
        self.request = self.compiled.create_infer_request()
        self.caches = [end for end in self.compiled.inputs if end.get_any_name().startswith(_CACHES)]
        self.page_size = int(self.caches[0].get_partial_shape()[2].get_length())
        self.spare = 0
        self.pages: Tensors = []
        self.positions = learned_positions(graph)
        self.vocabulary = int(self.compiled.output("logits").get_partial_shape()[-1].get_length())

    def new_pages(self, count: int) -> Tensors:
        """
        Return memory for that many pages, and for one more that nobody uses.

        It is one piece, which goes back to the system as soon as it is not used; many would leave holes.
        """
        import openvino as ov

        shapes = [[count + 1, *(int(n.get_length()) for n in list(end.get_partial_shape())[1:])] for end in self.caches]
        sizes = [math.prod(shape) * end.get_element_type().size for end, shape in zip(self.caches, shapes, strict=True)]
        whole = np.empty(sum(sizes) + _ALIGNED * (len(sizes) + 1), np.uint8)
        pages, place = [], 0
        for end, shape, size in zip(self.caches, shapes, sizes, strict=True):
            place += -(whole.ctypes.data + place) % _ALIGNED
            pages.append(ov.Tensor(whole[place : place + size], ov.Shape(shape), end.get_element_type()))
            place += size
        return [whole, *pages]

    def use(self, pages: Tensors) -> None:
        """Keep keys and values in these pages from now on; what is in them is not looked at."""
        for end, tensor in zip(self.caches, pages[1:], strict=True):
            self.request.set_tensor(end, tensor)
        self.spare, self.pages = int(pages[1].shape[0]) - 1, pages

    def copy(self, page: int, to: int) -> None:
        """Copy a page of every layer's keys and values; whoever takes the copy over writes over what is not its own."""
        for tensor in self.pages[1:]:
            layer = tensor.data
            layer[to] = layer[page]

    def release(self) -> None:
        """Give back the memory for pages and for what was computed."""
        self.use(self.new_pages(0))
        self.compiled.release_memory()

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """
        Compute a batch; returns the logits of its places, shape (places, vocabulary), good until the next batch.

        A sequence that decodes alone gets company: alone it would be computed in another order, and rounded otherwise.
        """
        if len(batch.tokens) == 1:
            batch = batch.with_company(self.spare)
        import openvino as ov

        given = {
            "input_ids": np.array(batch.tokens, np.int64),
            "position_ids": np.array(batch.positions, np.int64),
            "past_lens": np.array(batch.pasts, np.int32),
            "subsequence_begins": np.array(batch.begins, np.int32),
            "block_indices": np.array(batch.pages, np.int32),
            "block_indices_begins": np.array(batch.page_begins, np.int32),
            "max_context_len": np.array(batch.longest, np.int32),
            "places": np.array(batch.places, np.int64),
        }
        for name, values in given.items():
            self.request.set_tensor(name, ov.Tensor(values))
        self.request.infer()
        logits: NDArray[np.float32] = self.request.get_output_tensor(0).data
        return logits.reshape(len(batch.places), -1)
