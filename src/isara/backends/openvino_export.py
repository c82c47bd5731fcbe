"""
A causal language model as an OpenVINO file, written once and found again by the hash of its checkpoint.

The network is traced as transformers runs it, with an attention function of ours that takes the keys and values of
earlier tokens as inputs. That needs nothing but torch and OpenVINO: the usual exporter, optimum-intel, asks for
older versions of transformers than isara uses. What the file computes is compared with the network before it is used.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every reader of torch code knows)
from safetensors import safe_open
from torch import Tensor, nn

from isara.backends.checkpoints import Checkpoint, cache_folder
from isara.backends.hf import load_network, no_room
from isara.backends.memory import ran_out
from isara.backends.openvino_graph import CURE, Batch, Runner, note_positions, paged
from isara.backends.positions import positions_of
from isara.backends.quiet import quiet_loading, without_telemetry
from isara.backends.selfcheck import alone, distance, probes
from isara.errors import BackendError

IMPLEMENTATION = "isara-openvino"
FILE = "openvino_model.xml"
VERSION = 2
"""Raised when what is written changes, so that older files are not used."""

_LIMIT = 1e-2
"""Largest distance between next-token distributions of the file and the network; both compute in float32."""


class Past:
    """The keys and values of earlier tokens, layer by layer, and what each token may see."""

    def __init__(self, states: Mapping[int, tuple[Tensor, Tensor]], mask: Tensor | None) -> None:
        self.states = states
        self.mask = mask
        self.present: dict[int, tuple[Tensor, Tensor]] = {}


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Past,
    layer_idx: int | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attend to earlier and to present tokens, in the operations that OpenVINO knows as paged attention."""
    if sliding_window is not None or softcap is not None or s_aux is not None:
        what = "a sliding window" if sliding_window is not None else "attention with soft capping or sinks"
        raise BackendError(f"it has {what}")
    layer: int = module.layer_idx if layer_idx is None else layer_idx  # type: ignore[assignment]
    keys, values = key, value
    if layer in layout.states:
        keys = torch.cat([layout.states[layer][0], key], 2)
        values = torch.cat([layout.states[layer][1], value], 2)
    layout.present[layer] = (keys, values)
    shared = query.shape[1] // int(key.shape[1])
    if shared > 1:
        keys, values = repeat(keys, shared), repeat(values, shared)
    out = F.scaled_dot_product_attention(query, keys, values, attn_mask=layout.mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def repeat(states: Tensor, times: int) -> Tensor:
    """Give each query head its own copy of the keys or values that it shares with others."""
    batch, heads, length, size = states.shape
    return states[:, :, None].expand(batch, heads, times, length, size).reshape(batch, heads * times, length, size)


class Stepped(nn.Module):
    """A network as a function of tensors alone: tokens, mask, positions and earlier keys and values."""

    def __init__(self, network: Any, layers: int) -> None:
        super().__init__()
        self.network = network
        self.layers = layers

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the logits of every token, then the keys and values of each layer."""
        before = past[0].shape[2]
        columns = torch.arange(before + input_ids.shape[1])
        rows = torch.arange(input_ids.shape[1]) + before
        seen = (columns[None, :] <= rows[:, None])[None, None] & (attention_mask[:, None, None, :] > 0)
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        layout = Past({layer: (past[2 * layer], past[2 * layer + 1]) for layer in range(self.layers)}, mask)
        logits = self.network(input_ids=input_ids, position_ids=position_ids, use_cache=False, layout=layout).logits
        return (logits, *(states for layer in range(self.layers) for states in layout.present[layer]))


def exported(checkpoint: Checkpoint) -> Path:
    """
    Return the OpenVINO file of a checkpoint, made where it is not there yet.

    Raises BackendError, with the reason, for an architecture that cannot be converted.
    """
    home = cache_folder() / "openvino"
    folder = home / f"{checkpoint.folder.name[:40]}-{checkpoint.sha256[:16]}-{VERSION}"
    if (folder / FILE).exists():
        return folder / FILE
    home.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=home, prefix=".converting-"))
    try:
        export(checkpoint.folder, scratch)
        scratch.replace(folder)
    except OSError:
        # Another process may have been quicker; its folder has the same content, so either will do.
        if not (folder / FILE).exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder / FILE


def export(source: Path, out: Path) -> None:
    """Write the model in a folder of safetensors as an OpenVINO file, after comparing the two."""
    without_telemetry()
    import openvino as ov
    from openvino.frontend import GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure

    unconverted = (GeneralFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure)
    network = load_network(source, torch.device("cpu"), torch.float32)
    config = network.config.get_text_config()
    refuse_moving_positions(config.to_dict(), source)
    sequences = probes(network.get_input_embeddings().num_embeddings)
    with torch.inference_mode():
        wanted = alone(network, sequences)
    try:
        graph = traced(network)
        note_positions(graph, positions_of(network))
        ov.save_model(graph, out / FILE, compress_to_fp16=sixteen_bits(source))
        found = paged_logits(ov.Core().read_model(out / FILE), sequences)
        apart = max(distance(*pair) for pair in zip(found, wanted, strict=True))
    except BackendError as error:
        raise BackendError(refusal(source, str(error))) from error
    except unconverted as error:
        raise BackendError(refusal(source, last_line(error))) from error
    except (RuntimeError, MemoryError, TypeError, ValueError, LookupError, AttributeError) as error:
        if ran_out(error):
            raise no_room(source, error) from error
        raise BackendError(refusal(source, f"it stops with {type(error).__name__}: {last_line(error)}")) from error
    if apart > _LIMIT:
        raise BackendError(refusal(source, f"next-token probabilities move by {apart:.3f}, and {_LIMIT:g} is rounding"))
    for name in ("config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, out / name)


def traced(network: Any) -> Any:
    """Return a network as an OpenVINO graph that keeps keys and values as states."""
    import openvino as ov
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, lambda *unused, **unused_too: None)
    with quiet_loading(), warnings.catch_warnings(), torch.no_grad():
        # Tracing warns of every shape that Python looks at; whether one was taken for a constant is compared later.
        warnings.simplefilter("ignore")
        network.set_attn_implementation(IMPLEMENTATION)
        shapes = cache_shapes(network)
        past = [torch.zeros(2, heads, 4, size) for heads, size in shapes]
        example = (torch.ones(2, 3).long(), torch.ones(2, 7).long(), torch.arange(4, 7).expand(2, 3), *past)
        stepped = Stepped(network, len(shapes) // 2).eval()
        decoder = TorchScriptPythonDecoder(stepped, example_input=example, trace_kwargs={"check_trace": False})
        graph = ov.convert_model(decoder, example_input=example)
    name_ends(graph, shapes)
    keep_states(graph)
    return graph


def cache_shapes(network: Any) -> list[tuple[int, int]]:
    """Return the heads and the size of the keys and of the values of each layer, in this order."""
    seen = Past({}, None)
    network(input_ids=torch.ones(1, 3).long(), position_ids=torch.arange(3)[None], use_cache=False, layout=seen)
    pairs = [seen.present[layer] for layer in range(len(seen.present))]
    return [(states.shape[1], states.shape[3]) for pair in pairs for states in pair]


def name_ends(graph: Any, shapes: list[tuple[int, int]]) -> None:
    """Name the inputs and outputs of a traced graph, and open the sizes that may change."""
    import openvino as ov

    states = [f"{layer}.{part}" for layer in range(len(shapes) // 2) for part in ("key", "value")]
    names = ["input_ids", "attention_mask", "position_ids", *(f"past.{state}" for state in states)]
    sizes = [(-1, -1)] * 3 + [(-1, heads, -1, size) for heads, size in shapes]
    for end, name, shape in zip(graph.inputs, names, sizes, strict=True):
        end.get_tensor().set_names({name})
        end.get_node().set_friendly_name(name)
        end.get_node().set_partial_shape(ov.PartialShape(list(shape)))
    for end, name in zip(graph.outputs, ["logits", *(f"present.{state}" for state in states)], strict=True):
        end.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()


def keep_states(graph: Any) -> None:
    """Turn the keys and values of earlier tokens from inputs into states, as OpenVINO's passes expect them."""
    import numpy as np
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    order = ops.parameter([-1], np.int32, name="beam_idx")
    order.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([order])
    pairs = {}
    for end in list(graph.inputs):
        name = end.get_any_name()
        if name.startswith("past."):
            users = list(end.get_target_inputs())
            chosen = ops.gather(end.get_node(), order, ops.constant(np.int64(0)))
            for user in users:
                user.replace_source_output(chosen.output(0))
            pairs[name] = name.replace("past.", "present.")
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    tokens = ops.shape_of(graph.input("input_ids").get_node(), output_type="i64")
    batch = ops.gather(tokens, ops.constant(np.array([0])), ops.constant(np.int64(0)))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, size = node.get_output_partial_shape(0)
            empty = ops.concat([batch, ops.constant(np.array([heads.get_length(), 0, size.get_length()]))], 0)
            node.set_arguments([ops.broadcast(ops.constant(np.float32(0)), empty)])
    graph.validate_nodes_and_infer_types()


def refuse_moving_positions(config: Mapping[str, Any], source: Path) -> None:
    """Raise BackendError where rotary positions depend on the length of a text: a trace would keep one length's."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        raise BackendError(refusal(source, "its positions are scaled by the length of the text"))


def paged_logits(graph: Any, sequences: list[list[int]]) -> list[Tensor]:
    """Return the logits of every token of probes, computed as in use: packed, and the last tokens as a further step."""
    runner = Runner(paged(graph), "f32")
    runner.use(runner.new_pages(len(sequences)))
    first, last = Batch(), Batch()
    for page, sequence in enumerate(sequences):
        first.add(sequence[:-1], 0, [page], range(len(sequence) - 1))
        last.add(sequence[-1:], len(sequence) - 1, [page], [0])
    rows = torch.split(torch.from_numpy(runner.run(first).copy()), [len(sequence) - 1 for sequence in sequences])
    return [*rows, torch.from_numpy(runner.run(last).copy())]


def sixteen_bits(source: Path) -> bool:
    """Whether the weights of a folder are in 16 bits, so that next to nothing is lost by keeping them so."""
    kinds = set()
    for path in source.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            kinds |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return kinds <= {"BF16", "F16"}


def refusal(source: Path, why: str) -> str:
    """Return the sentence that says which model cannot be converted, why, and what can be done."""
    return f"{source}: this architecture does not work with OpenVINO here ({why}). {CURE}"


def last_line(error: BaseException) -> str:
    """Return the last line of what an error says, where OpenVINO's come to the point."""
    lines = [line.strip(" -.") for line in str(error).splitlines() if line.strip(" -.")]
    return lines[-1] if lines else ""
