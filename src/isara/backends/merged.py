"""
Tuned weights as an ordinary checkpoint: the adapter merged in, and a chat template that asks as the tuning did.

Many templates add a system prompt of their own when none is given. A model tuned without one would then be asked
something in use that it never saw in tuning, so the template that goes along leaves it out, and keeps the model's own
rendering for conversations that bring a system prompt themselves.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isara.backends.adapter import read_state
from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import load_tokenizer
from isara.backends.quiet import quiet_loading
from isara.backends.template import Encoder, Template
from isara.backends.trust import SAFE, Trust
from isara.errors import BackendError
from isara.protocols import Chat, Turn


def write_merged(checkpoint: Checkpoint, tuned: Path | None, out: Path, dtype: str) -> str:
    """
    Leave a checkpoint with its tuned weights in the new folder `out`, which appears only when it is complete.

    `dtype` is a torch number format, or `auto` for the one the checkpoint is stored in. Returns the format written.
    """
    whole = tuned is not None and (tuned / "config.json").exists()
    trust = checkpoint.trust.for_own if whole else checkpoint.trust
    network = ordinary(tuned if tuned is not None and whole else checkpoint.folder, trust=trust)
    stored = str(network.config.dtype or torch.float32).removeprefix("torch.")
    if tuned is not None and not (tuned / "config.json").exists():
        add_adapter(network, tuned)
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.trust)
    template = Encoder(tokenizer).template
    if template is not None:
        tokenizer.chat_template = matching_template(tokenizer, template)
    written = stored if dtype == "auto" else dtype
    scratch = out.with_name(f".{out.name}.writing")
    shutil.rmtree(scratch, ignore_errors=True)
    with quiet_loading():
        network.to(number_format(written)).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    scratch.replace(out)
    return written


def number_format(name: str) -> torch.dtype:
    """Return a torch number format by its name; raises BackendError for one that weights are not written in."""
    formats = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in formats:
        raise BackendError(f"--dtype: weights are not written as {name!r}. Use one of: auto, {', '.join(formats)}.")
    return formats[name]


def ordinary(folder: Path, dtype: torch.dtype = torch.float32, trust: Trust = SAFE) -> Any:
    """Return the network in a folder as transformers loads it for anybody, attention included."""
    from transformers import AutoModelForCausalLM

    with quiet_loading():
        network = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, **trust.loading
        ).eval()
        # Loading in float32 changes what the configuration says of the format that the files are in.
        network.config.dtype = stored_format(folder)
    return network


def stored_format(folder: Path) -> torch.dtype | None:
    """Return the number format that a checkpoint says it is stored in."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("dtype") or config.get("torch_dtype")
    return number_format(name) if name else None


def add_adapter(network: Any, folder: Path) -> None:
    """
    Add an adapter's scale · B A to the weights it belongs to, in their own format, which should be float32.

    Raises BackendError where the adapter names layers that the network has not.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    scale = float(config["lora_alpha"]) / int(config["r"])
    state = read_state(folder)
    layers = sorted({key.split(".lora_")[0].removeprefix("base_model.model.") for key in state})
    modules = dict(network.named_modules())
    with torch.no_grad():
        for layer in layers:
            a, b = (state[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
            if layer not in modules:
                raise BackendError(f"{folder}: the adapter has a layer {layer!r}, and this model has not.")
            weight: Tensor = modules[layer].weight
            weight += scale * (b.to(weight.dtype) @ a.to(weight.dtype))


def matching_template(tokenizer: Any, template: Template) -> str:
    """Return a chat template that renders a conversation without a system prompt as the tuning did."""
    own = str(tokenizer.chat_template)
    shown = Chat((Turn("user", "isara asks"), Turn("assistant", "isara answers"), Turn("user", "isara asks again")))
    messages = [{"role": turn.role, "content": turn.text} for turn in shown.turns]
    ours = "".join(text for text, _ in template.pieces(shown))
    if tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == ours:
        return own
    # In JSON's notation, which is Jinja's too but for characters beyond the first plane, so those stay as they are.
    head, user_open, user_close, opened, space, closed = (
        json.dumps(text, ensure_ascii=False)
        for text in (
            template.head,
            template.user_open,
            template.user_close,
            template.assistant_open,
            template.space,
            template.assistant_close,
        )
    )
    return (
        "{% if messages and messages[0]['role'] == 'system' %}" + own + "{% else %}{{ " + head + " }}"
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ " + user_open + " + message['content'] + " + user_close + " }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ " + opened + " + " + space + " + message['content'] + " + closed + " }}"
        "{% else %}{{ raise_exception('only user and assistant turns, or a system prompt first') }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ " + opened + " }}{% endif %}{% endif %}"
    )
