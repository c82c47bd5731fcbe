"""Tiny models with random weights and a tiny tokenizer, made in this process: every backend test runs on these."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from isara.backends.checkpoints import Checkpoint, hash_of
from isara.backends.packing import IMPLEMENTATION, register

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a kind lighthouse.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT = """Why does the moon look larger near the horizon? It is an illusion: it has the same size all night.
Do goldfish have a memory of three seconds? No, goldfish remember things for months.
Question: What is the answer? Answer: The answer is short, and the question was not. system user assistant"""


@functools.cache
def _bpe(special, bos):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines() * 4, trainer)
    if bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer.to_str()


def tokenizer(template=CHATML, special=SPECIAL, *, bos=None, eos="<|im_end|>", adds_bos=False):
    """A byte-level tokenizer; `adds_bos` is about plain text, as with Llama."""
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe(tuple(special), bos if adds_bos else None)),
        bos_token=bos,
        eos_token=eos,
        extra_special_tokens=[token for token in special if token not in (bos, eos)],
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = template
    return made


VOCABULARY = 320
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OLD_SHAPE = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_OLD_SHAPE |= {"bos_token_id": None, "eos_token_id": 2}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MORE_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
_LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOW = 5
"""Shorter than most sequences of the tests."""


def _alike(**more):
    return _SHAPE | more


# name: (model type, configuration, whether transformers' own fused attention can do it)
PACKABLE = {
    "llama": ("llama", _alike(), True),
    "llama with tied weights": ("llama", _alike(tie_word_embeddings=True), True),
    "llama 3 positions": ("llama", _alike(rope_parameters=_LLAMA3), True),
    "mistral": ("mistral", _alike(sliding_window=WINDOW), True),
    "mixtral": ("mixtral", _alike(sliding_window=WINDOW, **_EXPERTS), True),
    "qwen2": ("qwen2", _alike(), True),
    "qwen2 with a window": (
        "qwen2",
        _alike(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
        True,
    ),
    "qwen3": ("qwen3", _alike(head_dim=8), True),
    "qwen3 moe": ("qwen3_moe", _alike(head_dim=8, **_MORE_EXPERTS), True),
    "gemma": ("gemma", _alike(head_dim=8), True),
    "gemma2": (
        "gemma2",
        _alike(head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8, attn_logit_softcapping=2.0),
        False,
    ),
    "gemma3": (
        "gemma3_text",
        _alike(
            head_dim=8,
            sliding_window=WINDOW,
            query_pre_attn_scalar=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
        True,
    ),
    "phi": ("phi", _alike(), True),
    "phi3": ("phi3", _alike(sliding_window=WINDOW), True),
    "gpt_neox": ("gpt_neox", {k: v for k, v in _SHAPE.items() if k != "num_key_value_heads"}, True),
    "gpt2": ("gpt2", _OLD_SHAPE, True),
    "gpt_bigcode": ("gpt_bigcode", _OLD_SHAPE, True),
    "opt": ("opt", _alike(ffn_dim=48, word_embed_proj_dim=32, dropout=0.0), True),
    "olmo2": ("olmo2", _alike(), True),
    "olmo3": ("olmo3", _alike(sliding_window=WINDOW), True),
    "starcoder2": ("starcoder2", _alike(sliding_window=WINDOW), True),
    "cohere2": ("cohere2", _alike(sliding_window=WINDOW, sliding_window_pattern=2, logit_scale=1.0), True),
    "granite": ("granite", _alike(attention_multiplier=0.3, logits_scaling=0.5), True),
    "smollm3": ("smollm3", _alike(no_rope_layers=[1, 0]), True),
    "gpt_oss": ("gpt_oss", _alike(head_dim=8, sliding_window=WINDOW, **_EXPERTS), False),
    "deepseek_v3": (
        "deepseek_v3",
        _alike(
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            moe_intermediate_size=16,
            first_k_dense_replace=1,
            **_LATENT,
        ),
        True,
    ),
}

# name: (model type, configuration, a part of what is said)
REFUSED = {
    "attention is a class of its own": ("falcon", _alike(alibi=False), "cannot be replaced"),
    "attention is a class of its own, older": ("gptj", _OLD_SHAPE | {"rotary_dim": 4}, "cannot be replaced"),
    "attention takes no keywords": ("stablelm", _alike(), "TypeError"),
    "attention written out": ("codegen", _OLD_SHAPE | {"rotary_dim": 4}, "probabilities move"),
    "distances as positions": ("bloom", {k: v for k, v in _SHAPE.items() if k != "num_key_value_heads"}, "move"),
    "positions counted by the model": ("openai-gpt", _OLD_SHAPE, "probabilities move"),
    "recurrent": ("mamba", _alike(state_size=8), "probabilities move"),
    "partly convolution": ("lfm2", _alike(layer_types=["conv", "full_attention"]), "probabilities move"),
    "partly linear attention": (
        "qwen3_next",
        _alike(
            head_dim=8,
            shared_expert_intermediate_size=16,
            layer_types=["linear_attention", "full_attention"],
            **_MORE_EXPERTS,
            **_LINEAR,
        ),
        "probabilities move",
    ),
    "recurrent beside attention": ("falcon_h1", _alike(mamba_d_ssm=64, **_MAMBA), "probabilities move"),
    "differential attention": ("diffllama", _alike(), "probabilities move"),
    "chunks": (
        "llama4_text",
        _alike(head_dim=8, intermediate_size_mlp=48, num_local_experts=2, attention_chunk_size=64),
        "window never reaches",
    ),
    "a window in the mask only": (
        "qwen2_moe",
        _alike(
            use_sliding_window=True,
            sliding_window=64,
            max_window_layers=1,
            shared_expert_intermediate_size=16,
            **_MORE_EXPERTS,
        ),
        "window never reaches",
    ),
}


def configuration(kind, values):
    """The configuration of a model type; skips the test where this transformers does not know the type."""
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {kind}")
    return transformers.AutoConfig.for_model(kind, **copy.deepcopy(values))


def network(config, attention="sdpa", *, spread=0.15, seed=0):
    """A network in float32 with weights so far apart that its predictions are far from uniform."""
    register()
    torch.manual_seed(seed)
    made = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention).eval()
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(torch.randn(weights.shape) * spread)
    return made


@functools.cache
def pair(name):
    """A network with transformers' own attention and one with packed attention, of the same weights."""
    kind, values, fused = PACKABLE[name]
    config = configuration(kind, values)
    ordinary = network(config, "sdpa" if fused else "eager")
    packed = network(config, IMPLEMENTATION)
    packed.load_state_dict(ordinary.state_dict())
    return ordinary, packed


def sequence(length, seed):
    """Random token ids that are no markers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(len(SPECIAL), VOCABULARY, (length,), generator=generator).tolist()


MIXED = tuple(
    (sequence(before, 2 * i), sequence(after, 2 * i + 1))
    for i, (before, after) in enumerate([(9, 6), (1, 3), (3, 12), (4, 1), (12, 2)])
)
"""Prompts and completions of mixed lengths."""


def checkpoint(folder, kind="llama", values=None, *, template=CHATML, spread=0.15):
    """Leave a tiny model in a folder, and return it as isara finds it."""
    network(configuration(kind, values or PACKABLE["llama"][1]), spread=spread).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return Checkpoint("tiny", folder, None, "0" * 64)


def hashed(folder, name="llama", **more):
    """Return a tiny checkpoint of one of `PACKABLE`, known by its content, as what is converted has to be."""
    kind, values, _ = PACKABLE[name]
    made = checkpoint(folder, kind, values | more)
    return replace(made, sha256=hash_of(folder))
