"""A model on transformers: completes prompts, and says how likely given completions are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from isara.backends.adapter import AdaptedLinear, linear_layers, put_on, read_adapter
from isara.backends.checkpoints import Checkpoint
from isara.backends.decode import Lane, decode
from isara.backends.loss import log_probabilities
from isara.backends.memory import Budget, ran_out, told_by
from isara.backends.packing import IMPLEMENTATION, register
from isara.backends.positions import positions_of, refuse_beyond
from isara.backends.quiet import quiet_loading
from isara.backends.scoring import Pair, completion_logits, score_encoded
from isara.backends.selfcheck import check_packing, refusal
from isara.backends.targets import likeliest, recorded
from isara.backends.template import Encoder
from isara.backends.trust import SAFE, Trust
from isara.errors import BackendError
from isara.protocols import Completion, Likelihood, Prompt, Sampling, Targets

Network = Any
"""A transformers model; its classes are not typed."""


def choose_device(wanted: str) -> torch.device:
    """Return the device to compute on; `auto` is a GPU where there is one."""
    if wanted != "auto":
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the number format of the weights; `auto` is bfloat16 where the hardware multiplies it."""
    if wanted != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def load_network(folder: Path, device: torch.device, dtype: torch.dtype, trust: Trust = SAFE) -> Network:
    """Return the network in a folder with isara's packed attention; raises BackendError where that is not possible."""
    from transformers import AutoModelForCausalLM

    register()
    try:
        with quiet_loading():
            network = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, attn_implementation=IMPLEMENTATION, local_files_only=True, **trust.loading
            )
        network = network.to(device).eval()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if error.args == (IMPLEMENTATION,):
            raise BackendError(refusal(folder, "its attention cannot be replaced")) from error
        raise BackendError(
            f"{folder}: not a causal language model that transformers can load here ({error}).{allowance(error)}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        raise no_room(folder, error) from error
    check_packing(network, folder)
    return network


def no_room(folder: Path, error: Exception) -> Exception:
    """Return a BackendError in place of what is said where a model does not fit into memory; else the error itself."""
    if not ran_out(error):
        return error
    return BackendError(
        f"{folder}: there is not enough memory to load this model ({told_by(error)}). Close other programs, or "
        "give a smaller model with --model; what is complete is kept."
    )


def allowance(error: Exception) -> str:
    """Return the setting that allows what was refused, as a sentence; nothing for other errors."""
    said = str(error)
    if "trust_remote_code" in said:
        return " Set model.trust_remote_code=true to run the code that comes with it, after reading that."
    if "safetensors" in said:
        return " Convert its weights to safetensors, or set model.allow_pickle=true where you trust its maker."
    return ""


def load_tokenizer(folder: Path, trust: Trust = SAFE) -> Any:
    """Return the tokenizer in a folder."""
    from transformers import AutoTokenizer

    try:
        with quiet_loading():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust.code)
    except (OSError, ValueError) as error:
        raise BackendError(
            f"{folder}: no tokenizer that transformers can load here ({error}).{allowance(error)}"
        ) from error


class Base:
    """A network that is loaded once, at first use, and the adapters that it wears in turn."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype, trust: Trust = SAFE) -> None:
        self.folder = folder
        self.device = device
        self.dtype = dtype
        self.trust = trust
        self._network: Network | None = None
        self._bare: dict[str, nn.Linear] = {}
        self._worn: dict[str, AdaptedLinear] | None = None

    def same_as(self, other: Base) -> bool:
        """Whether another base would load the same network to the same place."""
        own = (self.folder, self.device, self.dtype, self.trust)
        return own == (other.folder, other.device, other.dtype, other.trust)

    def wearing(self, adapter: dict[str, AdaptedLinear] | None) -> Network:
        """Return the network with an adapter on, or bare: the same object each time, so use it before the next."""
        if self._network is None:
            self._network = load_network(self.folder, self.device, self.dtype, self.trust).requires_grad_(False)
            self._bare = linear_layers(self._network)
        if adapter is not self._worn:
            put_on(self._network, self._bare if adapter is None else adapter)
            self._worn = adapter
        return self._network

    def layers(self) -> dict[str, nn.Linear]:
        """Return the layers that an adapter can be put on."""
        self.wearing(self._worn)
        return self._bare

    def adapter(self, folder: Path) -> dict[str, AdaptedLinear]:
        """
        Return the adapter in a folder, to wear.

        It is not merged: in bfloat16 the sum would round most of a small change away (0.08 nats per token were lost
        so on a 135M model after 24 steps), and what is scored here must be what the adapter file says.
        """
        if not (folder / "adapter_config.json").exists():
            raise BackendError(f"{folder}: no adapter here (neither adapter_config.json nor config.json).")
        return read_adapter(self.layers(), folder)


class Tokenized:
    """A checkpoint with its tokenizer: what is known of a model without its weights."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = load_tokenizer(checkpoint.folder, checkpoint.trust)
        self.encoder = Encoder(self.tokenizer)

    @property
    def name(self) -> str:
        """What a person calls this model."""
        return self.checkpoint.name

    @property
    def chat(self) -> bool:
        """Whether it has a chat template."""
        return self.encoder.template is not None

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the length of each text in tokens."""
        return [len(self.encoder.content(text)) for text in texts]


class TransformersModel(Tokenized):
    """A checkpoint, bare or wearing an adapter. Satisfies the `Model` protocol."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_tokens: int = 16384,
        adapter: Path | None = None,
        base: Base | None = None,
    ) -> None:
        """Take a checkpoint; `base` is its network where it has been loaded already."""
        super().__init__(checkpoint)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.budget = Budget(batch_tokens, "writing or scoring")
        self.adapter = adapter
        self.base = base or Base(checkpoint.folder, self.device, self.dtype, checkpoint.trust)
        self._worn: dict[str, AdaptedLinear] | None = None
        self._whole: Network | None = None

    @property
    def network(self) -> Network:
        """The network itself, loaded at first use; other adapters take their turns on it."""
        if self.adapter is None:
            return self.base.wearing(None)
        if self._whole is None and (self.adapter / "config.json").exists():
            self._whole = load_network(self.adapter, self.device, self.dtype, self.base.trust.for_own)
        if self._whole is not None:
            return self._whole
        if self._worn is None:
            self._worn = self.base.adapter(self.adapter)
        return self.base.wearing(self._worn)

    def with_adapter(self, adapter: Path | None) -> TransformersModel:
        """Return the same checkpoint wearing the adapter in that folder, loaded when first used."""
        if adapter == self.adapter:
            return self
        dtype = str(self.dtype).removeprefix("torch.")
        tuned = TransformersModel(
            self.checkpoint, device=str(self.device), dtype=dtype, adapter=adapter, base=self.base
        )
        tuned.budget = self.budget
        return tuned

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, *, seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each prompt, in order; each has its own random seed, whatever its neighbours."""
        encoded = [self.encoder.prompt(prompt) for prompt in prompts]
        ends = self.ends()
        done: list[Completion | None] = [None] * len(prompts)

        def write(group: list[int]) -> None:
            lanes = [Lane(encoded[i], seeds[i]) for i in group]
            with torch.inference_mode():
                finished = decode(self.network, lanes, sampling, ends, self.tokenizer.decode)
            for i, lane, completion in zip(group, lanes, finished, strict=True):
                done[i] = checked(self.encoder, prompts[i], lane, completion)

        sizes = [len(ids) + sampling.max_tokens for ids in encoded]
        refuse_beyond(positions_of(self.network), sizes)
        self.budget.work(sizes, write)
        return [completion for completion in done if completion is not None]

    def ends(self) -> frozenset[int]:
        """Return every token that ends a completion."""
        return self.encoder.ends(self.network.generation_config.eos_token_id)

    def score(self, pairs: Sequence[tuple[Prompt, str]], *, top_tokens: int = 0) -> list[Likelihood]:
        """Return the likelihood of each completion after its prompt, in order; and what is likely at its places."""
        encoded = self.encoder.pairs(pairs)
        if not top_tokens:
            refuse_beyond(positions_of(self.network), lengths(encoded))
            return score_encoded(self.network, encoded, self.budget)
        ended = self.encoder.with_ends(pairs, encoded)
        scored = [Likelihood(0.0, 0)] * len(pairs)

        def look(i: int, logits: Tensor) -> None:
            own = torch.tensor(encoded[i][1], dtype=torch.long, device=logits.device)
            logs = log_probabilities(logits[: len(own)], own).double()
            scored[i] = Likelihood(float(logs.sum()), len(own), likeliest(ended[i][1], logits, top_tokens))

        self.look_at(ended, look)
        return scored

    def distributions(self, pairs: Sequence[tuple[Prompt, str]], k: int) -> list[Targets]:
        """Return the `k` likeliest tokens at each place of each completion, in order."""
        encoded = self.encoder.with_ends(pairs, self.encoder.pairs(pairs))
        found: dict[int, Targets] = {}

        def look(i: int, logits: Tensor) -> None:
            found[i] = likeliest(encoded[i][1], logits, k)

        self.look_at(encoded, look)
        return [found[i] for i in range(len(pairs))]

    def look_at(self, encoded: Sequence[Pair], look: Callable[[int, Tensor], None]) -> None:
        """Call `look` for each completion (ids) with the logits before its tokens."""

        def read(group: list[int]) -> None:
            with torch.inference_mode():
                logits, _ = completion_logits(self.network, [encoded[i] for i in group])
                for i, rows in zip(group, torch.split(logits, [len(encoded[i][1]) for i in group]), strict=True):
                    look(i, rows)

        refuse_beyond(positions_of(self.network), lengths(encoded))
        self.budget.work(lengths(encoded), read)


def lengths(pairs: Sequence[tuple[list[int], list[int]]]) -> list[int]:
    """Return how many tokens each prompt (ids) has with its completion (ids)."""
    return [len(prompt) + len(completion) for prompt, completion in pairs]


def checked(encoder: Encoder, prompt: Prompt, lane: Lane, completion: Completion) -> Completion:
    """Return a completion with what was noted of its tokens, and without where its text would be read as others."""
    if completion.likelihood is None:
        return completion
    bare = completion.text.strip()
    own = encoder.completion(prompt, bare)
    if own != lane.tokens and encoder.completion(prompt, completion.text) != lane.tokens:
        return replace(completion, likelihood=None)
    # A space in front makes another first token of the same word. What was likely there and after it stands.
    if len(own) != len(lane.tokens) or own[1:] != lane.tokens[1:]:
        return completion
    return replace(completion, targets=recorded(encoder.ended(prompt, own), lane.likely))
