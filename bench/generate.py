"""
Generation: isara's engines against transformers as it is usually called, OpenVINO GenAI and CTranslate2.

    python bench/generate.py [--model smollm2-135m] [--prompts 64] [--new 40] [--turns 2]

Every way answers the same prompts (demonstrations, then a question), greedily, with as many new tokens; none may stop
early. They take turns, so that a noisy machine is noisy for all, and the best of each one's turns counts. Opening a
model is not counted. One more row says what 8-bit weights cost in held-out likelihood.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import Row, matrix_rate, row, unmeasured

from isara.backends.checkpoints import locate
from isara.backends.decode import Lane, decode
from isara.backends.hf import TransformersModel, choose_device
from isara.heldout import bare_prompt
from isara.protocols import Chat, Prompt, Sampling, Turn
from isara.readers import read_seeds

Way = Callable[[], object]
"""Answers all the prompts once."""
PADDED = 32
"""Prompts in a batch of the usual transformers loop."""
DEMONSTRATIONS = 3
UNIT = "new tokens/s"


def prompts(count: int) -> list[Prompt]:
    """Return questions that ship, each after demonstrations; neighbours share some, as in a run."""
    seeds = read_seeds("misconceptions")
    made: list[Prompt] = []
    for i in range(count):
        shown = [seeds[(i // 4 * 7 + 11 * place) % len(seeds)] for place in range(DEMONSTRATIONS)]
        turns = [turn for s in shown for turn in (Turn("user", s.question), Turn("assistant", s.answer))]
        made.append(Chat((*turns, Turn("user", seeds[(5 * i + 3) % len(seeds)].question))))
    return made


def usual(folder: Path, ids: Sequence[Sequence[int]], new: int) -> Way:
    """Return transformers' own `generate`, on padded batches."""
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=TransformersModel(locate(str(folder))).dtype)
    network.to(choose_device("auto")).eval()

    def way() -> None:
        for at in range(0, len(ids), PADDED):
            some = ids[at : at + PADDED]
            longest = max(map(len, some))
            rows = torch.tensor([[0] * (longest - len(row)) + list(row) for row in some], device=network.device)
            seen = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in some], device=network.device)
            with torch.inference_mode():
                network.generate(
                    rows, attention_mask=seen, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
                )

    return way


def on_transformers(model: TransformersModel, ids: Sequence[list[int]], new: int) -> Way:
    """Return isara's transformers engine."""

    def way() -> None:
        with torch.inference_mode():
            decode(model.network, [Lane(row, 0) for row in ids], Sampling(new), frozenset(), model.tokenizer.decode)

    return way


def on_openvino(model: Any, ids: Sequence[list[int]], new: int) -> Way:
    """Return isara's OpenVINO engine."""
    from isara.backends.openvino import decode as decode_paged

    session = model.session()

    def way() -> None:
        decode_paged(session, [Lane(row, 0) for row in ids], Sampling(new), frozenset(), model.tokenizer.decode)

    return way


def genai(file: Path, ids: Sequence[list[int]], new: int, number_format: str, *, cached: bool) -> Way | None:
    """Return OpenVINO GenAI's continuous batching on the same file; None where it is not installed."""
    if importlib.util.find_spec("openvino_genai") is None:
        return None
    import openvino as ov
    import openvino_genai as ovg  # type: ignore[import-not-found]

    plan = ovg.SchedulerConfig()
    plan.cache_size, plan.enable_prefix_caching, plan.max_num_batched_tokens = 1, cached, 2048
    options = {"INFERENCE_PRECISION_HINT": number_format, "KV_CACHE_PRECISION": number_format}
    pipe = ovg.ContinuousBatchingPipeline(str(file.parent), plan, "CPU", options)
    wanted = ovg.GenerationConfig(max_new_tokens=new, ignore_eos=True)
    given = [ov.Tensor(np.array([row], np.int64)) for row in ids]
    return lambda: pipe.generate(given, [wanted] * len(given))


def ctranslate2(folder: Path, ids: Sequence[list[int]], new: int, tokenizer: Any) -> Way | None:
    """Return CTranslate2 with 8-bit weights; None where it is not installed or does not know the model."""
    if importlib.util.find_spec("ctranslate2") is None:
        return None
    import ctranslate2 as ct  # type: ignore[import-not-found]
    from ctranslate2.converters import TransformersConverter  # type: ignore[import-not-found]

    scratch = tempfile.mkdtemp(prefix="isara-bench-")
    try:
        TransformersConverter(str(folder)).convert(scratch, quantization="int8", force=True)
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        sys.stderr.write(f"CTranslate2 cannot convert this model: {error}\n")
        return None
    made = ct.Generator(scratch, device="cpu")
    rows = [tokenizer.convert_ids_to_tokens(row) for row in ids]
    return lambda: made.generate_batch(
        rows, max_length=new, min_length=new, include_prompt_in_result=False, max_batch_size=PADDED, sampling_topk=1
    )


def seconds(ways: Mapping[str, Way], turns: int) -> dict[str, float]:
    """Return the best time of each way, in turns; one turn before them warms up."""
    best = dict.fromkeys(ways, float("inf"))
    for turn in range(turns + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def rows(
    model: str = "smollm2-135m", count: int = 64, new: int = 40, turns: int = 2, skip: Sequence[str] = ()
) -> list[Row]:
    """Measure, and return a row for each comparison, the ones that cannot be made here included."""
    checkpoint = locate(model)
    theirs = TransformersModel(checkpoint)
    ids = [theirs.encoder.prompt(prompt) for prompt in prompts(count)]
    ways: dict[str, Way | None] = {
        "transformers generate": usual(checkpoint.folder, ids, new),
        "isara, transformers": on_transformers(theirs, ids, new),
        "CTranslate2 int8": ctranslate2(checkpoint.folder, ids, new, theirs.tokenizer),
    }
    if importlib.util.find_spec("openvino") is not None:
        from isara.backends.openvino import OpenVinoModel

        ours = OpenVinoModel(checkpoint)
        file, number_format = ours.opened.file, ours.opened.number_format
        ways["isara, OpenVINO"] = on_openvino(ours, ids, new)
        ways["isara, OpenVINO int8"] = on_openvino(OpenVinoModel(checkpoint, int8=True), ids, new)
        ways["OpenVINO GenAI"] = genai(file, ids, new, number_format, cached=False)
        ways["OpenVINO GenAI, all prompts cached"] = genai(file, ids, new, number_format, cached=True)
    # What sharing leaves to do: each different beginning once, the head for what is written.
    head = theirs.network.get_output_embeddings().weight.numel()
    frozen = sum(m.weight.numel() for m in theirs.network.modules() if isinstance(m, torch.nn.Linear)) - head
    left = len({tuple(row[:end]) for row in ids for end in range(1, len(row) + 1)}) + count * new
    limit = count * new * matrix_rate(theirs.dtype, theirs.device) / (2.0 * (left * frozen + count * new * head))
    best = seconds({name: way for name, way in ways.items() if way is not None and name not in skip}, turns)
    rate = {name: count * new / took for name, took in best.items()}
    for name in ways:
        said = f"{rate[name]:8.0f} new tokens/s  {best[name]:6.2f} s" if name in rate else "not measured"
        sys.stdout.write(f"{name:36} {said}\n")
    # What `auto` takes.
    auto = "isara, OpenVINO" if "isara, OpenVINO" in rate else "isara, transformers"
    pairs = [
        ("generate", auto, "transformers generate"),
        ("generate_ctranslate2", auto, "CTranslate2 int8"),
        ("generate_genai", "isara, OpenVINO", "OpenVINO GenAI"),
        ("generate_engines", "isara, OpenVINO", "isara, transformers"),
        ("generate_int8", "isara, OpenVINO int8", "isara, OpenVINO"),
    ]
    detail = f"{count} prompts of {sum(map(len, ids)) / count:.0f} tokens, {new} new ones each"
    found = [
        row(name, rate[us], rate[peer], peer, UNIT, limit=limit, detail=detail)
        if us in rate and peer in rate
        else unmeasured(name, peer, UNIT, "what it needs is not installed here, or was left out")
        for name, us, peer in pairs
    ]
    return [*found, eight_bits(model, 80)] if "isara, OpenVINO" in rate else found


def eight_bits(model: str, count: int) -> Row:
    """Return what 8-bit weights cost: NLL per token of held-out answers, in nats."""
    from isara.backends.openvino import OpenVinoModel

    checkpoint = locate(model)
    full, small = OpenVinoModel(checkpoint), OpenVinoModel(checkpoint, int8=True)
    seeds = read_seeds("supportdesk")[:count]
    pairs = [(bare_prompt(s.question, chat=full.chat), s.answer) for s in seeds]
    nll = [float(np.mean([score.nll for score in m.score(pairs)])) for m in (full, small)]
    sys.stdout.write(f"held-out NLL per token: {nll[0]:.4f}, int8 {nll[1]:.4f} ({nll[1] - nll[0]:+.4f} nats)\n")
    return row("int8_heldout_nll", nll[1], nll[0], "full weights", "nats per token")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new", type=int, default=40)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--skip", nargs="*", default=[])
    arguments = parser.parse_args()
    found = rows(arguments.model, arguments.prompts, arguments.new, arguments.turns, arguments.skip)
    for each in found:
        ratio = "not measured" if each["ratio"] is None else f"{each['ratio']:.2f}"
        sys.stdout.write(f"{each['name']:24} against {each['peer_name']:32} {ratio}\n")


if __name__ == "__main__":
    main()
