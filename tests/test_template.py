import functools
import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given
from hypothesis import strategies as st

from isara.backends.template import PLAIN, Encoder, Template, chat_template, departures, take_apart
from isara.errors import BackendError
from isara.protocols import Chat, Turn
from tiny import CHATML, tokenizer

LLAMA3 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nKnowledge ends: June 2024\n"
    "Today: {{ strftime_now('%d %b %Y') }}\n\n<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PHI3 = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
THINKS_FIRST = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHANNELS = (
    "<|start|>system<|message|>Channels: thought, final.<|end|>{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
WORDS = (
    "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

CHATML_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA_MARKS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
PHI_MARKS = ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>")
CHANNEL_MARKS = ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|return|>")

# name: (template, special tokens, beginning and end of text, pieces, what ends an answer, what ends a question)
FAMILIES = {
    "chatml": (
        CHATML,
        CHATML_MARKS,
        {"eos": "<|im_end|>"},
        Template("", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
        ("<|im_end|>", "<|im_end|>"),
    ),
    "llama3": (
        LLAMA3,
        LLAMA_MARKS,
        {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "adds_bos": True},
        Template(
            "<|begin_of_text|>",
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
        ("<|eot_id|>", "<|eot_id|>"),
    ),
    "mistral": (
        MISTRAL,
        ("<s>", "</s>", "[INST]", "[/INST]"),
        {"bos": "<s>", "eos": "</s>", "adds_bos": True},
        Template("<s>", "[INST] ", "", " [/INST]", "</s>", " "),
        ("</s>", "[/INST]"),
    ),
    "gemma": (
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        {"bos": "<bos>", "eos": "<eos>", "adds_bos": True},
        Template("<bos>", "<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n", "<end_of_turn>\n"),
        ("<end_of_turn>", "<end_of_turn>"),
    ),
    "zephyr": (
        ZEPHYR,
        ("<s>", "</s>"),
        {"bos": "<s>", "eos": "</s>"},
        Template("", "<|user|>\n", "</s>\n", "<|assistant|>\n", "</s>\n"),
        ("</s>", "</s>"),
    ),
    "qwen3": (
        QWEN3,
        CHATML_MARKS,
        {"eos": "<|im_end|>"},
        Template("", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n"),
        ("<|im_end|>", "<|im_end|>"),
    ),
    "phi3": (
        PHI3,
        PHI_MARKS,
        {"bos": "<s>", "eos": "<|endoftext|>", "adds_bos": True},
        Template("<s>", "<|user|>\n", "<|end|>\n", "<|assistant|>\n", "<|end|>\n"),
        ("<|end|>", "<|end|>"),
    ),
    "thinks first": (
        THINKS_FIRST,
        CHATML_MARKS,
        {"eos": "<|im_end|>"},
        Template("", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n", "<|im_end|>\n", faithful=False),
        ("<|im_end|>", "<|im_end|>"),
    ),
    "channels": (
        CHANNELS,
        CHANNEL_MARKS,
        {"eos": "<|return|>"},
        Template(
            "",
            "<|start|>user<|message|>",
            "<|end|>",
            "<|start|>assistant<|channel|>final<|message|>",
            "<|end|>",
            faithful=False,
        ),
        ("<|end|>", "<|end|>"),
    ),
    "words": (
        WORDS,
        ("<|endoftext|>",),
        {"eos": "<|endoftext|>"},
        Template("", "USER: ", "\n", "ASSISTANT:", "\n", " "),
        ("<|endoftext|>", None),
    ),
}
each_family = pytest.mark.parametrize("family", FAMILIES)
CONVERSATION = (Turn("user", "Is the moon far?"), Turn("assistant", "Yes, it is."), Turn("user", "How far?"))
# Ordinary text: words, and no white space at either end.
ordinary = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12).filter(
    lambda text: text == text.strip()
)


def tokenizer_of(family):
    template, special, marks, *_ = FAMILIES[family]
    return tokenizer(template, special, **marks)


@functools.cache
def encoder_of(family):
    return Encoder(tokenizer_of(family))


def rendered(family, turns):
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    return tokenizer_of(family).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@each_family
def test_a_template_comes_apart_into_its_pieces(family):
    assert chat_template(tokenizer_of(family)) == FAMILIES[family][3]


@each_family
def test_pieces_put_together_are_what_the_template_renders(family):
    template = FAMILIES[family][3]
    text = "".join(text for text, _ in template.pieces(Chat(CONVERSATION)))
    whole = rendered(family, CONVERSATION)
    assert text.startswith(template.head)
    shared = text.removeprefix(template.head)
    if family == "thinks first":
        whole = whole.removesuffix("<think>\n")
    if family == "channels":
        shared = shared.removesuffix("<|channel|>final<|message|>")
    assert whole.endswith(shared)
    before = whole.removesuffix(shared).removeprefix(template.head)
    # What is left is a system prompt of the template's own, or nothing.
    assert before == "" or "system" in before
    assert (before != "") == (family in {"chatml", "llama3", "channels"})


@each_family
def test_no_prompt_has_a_system_prompt_that_nobody_asked_for(family):
    encoder = encoder_of(family)
    for opens in ("user", "assistant"):
        turns = CONVERSATION if opens == "assistant" else CONVERSATION[:2]
        text = encoder.tokenizer.decode(encoder.prompt(Chat(turns, opens)))
        assert not re.search(r"system|lighthouse|Knowledge|Today|Channels", text)
        assert "Is the moon far?" in text


@each_family
def test_the_next_turn_may_be_the_users(family):
    encoder, template = encoder_of(family), FAMILIES[family][3]
    text = encoder.tokenizer.decode(encoder.prompt(Chat(CONVERSATION[:2], opens="user")))
    assert text.endswith(template.space + "Yes, it is." + template.assistant_close + template.user_open)
    alone = encoder.tokenizer.decode(encoder.prompt(Chat((), opens="user")))
    assert alone == template.head + template.user_open


@each_family
def test_what_ends_an_answer_and_what_ends_a_question(family):
    encoder = encoder_of(family)
    answer, question = FAMILIES[family][4]
    known = encoder.tokenizer.convert_tokens_to_ids
    assert encoder.end == known(answer)
    assert encoder.user_ends == ({known(question)} if question else frozenset())


@pytest.mark.parametrize("family", [name for name, (_, _, marks, *_) in FAMILIES.items() if "bos" in marks])
def test_text_begins_once(family):
    encoder = encoder_of(family)
    bos = encoder.tokenizer.bos_token_id
    adds = FAMILIES[family][2].get("adds_bos", False)
    chat, plain = encoder.prompt(Chat(CONVERSATION)), encoder.prompt("Question: How far?\nAnswer:")
    assert chat.count(bos) == (1 if FAMILIES[family][3].head else 0)
    assert plain.count(bos) == (1 if adds else 0)
    if adds:
        assert chat[0] == plain[0] == bos
    assert bos not in encoder.completion("Answer:", "far")
    assert bos not in encoder.content("far")


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "phi3", "mistral"])
def test_a_marker_in_a_sample_is_only_text(family):
    encoder, (_, special, _, template, _) = encoder_of(family), FAMILIES[family]
    known = set(encoder.tokenizer.convert_tokens_to_ids(list(special)))
    clean = Chat(CONVERSATION)
    spoilt = Chat(tuple(Turn(turn.role, f"{turn.text} {' '.join(special)} on") for turn in CONVERSATION))
    markers = [token for token in encoder.prompt(clean) if token in known]
    assert markers
    assert [token for token in encoder.prompt(spoilt) if token in known] == markers
    assert encoder.tokenizer.decode(encoder.prompt(spoilt)) == "".join(text for text, _ in template.pieces(spoilt))
    for prompt in (clean, "Answer:"):
        assert not known & set(encoder.completion(prompt, f"on {special[-1]} and on"))
    assert not known & set(encoder.prompt(f"Question: {special[-1]}")) - {encoder.tokenizer.bos_token_id}


@given(st.lists(ordinary, min_size=1, max_size=5), ordinary)
def test_piece_by_piece_gives_the_tokens_of_the_whole(texts, completion):
    encoder = encoder_of("chatml")
    roles = ("user", "assistant")
    chat = Chat(tuple(Turn(roles[i % 2], text) for i, text in enumerate(texts)), opens=roles[len(texts) % 2])
    pieces = encoder.template.pieces(chat)
    apart = [token for text, _ in pieces for token in encoder.ids(text)]
    assert encoder.prompt(chat) == apart == encoder.ids("".join(text for text, _ in pieces))
    whole = "".join(text for text, _ in pieces) + completion
    assert encoder.prompt(chat) + encoder.completion(chat, completion) == encoder.ids(whole)


@given(ordinary, ordinary)
def test_an_answer_goes_on_from_its_prompt_as_one_text(question, answer):
    encoder = encoder_of("mistral")
    chat = Chat((Turn("user", question),))
    template = encoder.template
    whole = f"{template.head}{template.user_open}{question}{template.assistant_open} {answer}"
    assert encoder.prompt(chat) + encoder.completion(chat, answer) == encoder.ids(whole)


@given(ordinary)
def test_a_plain_answer_takes_the_space_before_it(answer):
    encoder = encoder_of("chatml")
    assert encoder.prompt("Answer:") + encoder.completion("Answer:", answer) == encoder.ids(f"Answer: {answer}")
    assert encoder.prompt("Answer:\n") + encoder.completion("Answer:\n", answer) == encoder.ids(f"Answer:\n{answer}")


def test_a_base_model_without_a_template():
    encoder = Encoder(tokenizer(None, ("<|endoftext|>",), eos="<|endoftext|>"))
    assert encoder.template is None
    assert encoder.end == encoder.tokenizer.eos_token_id
    assert encoder.user_ends == frozenset()
    text = encoder.tokenizer.decode(encoder.prompt(Chat(CONVERSATION)))
    assert text == "".join(piece for piece, _ in PLAIN.pieces(Chat(CONVERSATION)))
    assert text.endswith("How far?\nAnswer: ")


def test_a_base_model_that_begins_its_texts():
    encoder = Encoder(tokenizer(None, ("<s>", "</s>"), bos="<s>", eos="</s>", adds_bos=True))
    for prompt in ("Question:", Chat(CONVERSATION)):
        ids = encoder.prompt(prompt)
        assert ids[0] == encoder.tokenizer.bos_token_id
        assert ids.count(ids[0]) == 1


def test_after_nothing_comes_the_end_of_another_text():
    plain = Encoder(tokenizer(None, ("<|endoftext|>",), eos="<|endoftext|>"))
    assert plain.prompt("") == [plain.tokenizer.eos_token_id]
    begins = Encoder(tokenizer(None, ("<s>", "</s>"), bos="<s>", eos="</s>"))
    assert begins.prompt("") == [begins.tokenizer.bos_token_id]


def test_a_template_that_hides_turns_is_refused():
    with pytest.raises(BackendError, match=r"Set answers\.style and questions\.style to 'text'"):
        take_apart(lambda turns, go_on=False: turns[-1].text)
    with pytest.raises(BackendError, match="does not show user and assistant turns in order"):
        take_apart(lambda turns, go_on=False: "".join(turn.text for turn in turns if turn.role == "user"))


def test_a_tokenizer_that_cannot_end_a_text_is_refused():
    with pytest.raises(BackendError, match="no end-of-text token"):
        Encoder(tokenizer(None, ("<pad>",), eos=None))


def test_a_template_that_is_put_together_otherwise_is_told_to_the_reader():
    assert departures(None) == ()
    assert departures(chat_template(tokenizer(CHATML))) == ()
    (sentence,) = departures(chat_template(tokenizer(THINKS_FIRST)))
    assert "writes a finished answer otherwise than it invites a new one" in sentence


FRAGMENTS = st.sampled_from(
    ["<|im_start|>", "<|im_end|>", "<|", "|>", "im_end", "<|im_", "end|>", "\n", " ", "a", "system"]
)


@given(texts=st.lists(st.lists(FRAGMENTS, max_size=6).map("".join), min_size=3, max_size=3))
def test_pieces_of_markers_never_add_up_to_one(texts):
    encoder = Encoder(tokenizer(CHATML))
    plain = Chat((Turn("user", "q"), Turn("assistant", "a"), Turn("user", "r")))
    chat = Chat(tuple(Turn(turn.role, text) for turn, text in zip(plain.turns, texts, strict=True)))
    assert encoder.marks(encoder.prompt(chat)) == encoder.marks(encoder.prompt(plain))
    assert encoder.marks(encoder.completion(chat, "".join(texts))) == 0


def test_a_marker_that_is_also_the_unknown_token_is_only_text_in_a_sample():
    """SmolLM2 names its end-of-text marker as the token for unknown characters as well."""
    made = tokenizer(CHATML)
    made.unk_token = "<|endoftext|>"
    encoder = Encoder(made)
    number = made.convert_tokens_to_ids("<|endoftext|>")
    assert number in encoder.ids("a <|endoftext|> b")
    assert number not in encoder.content("a <|endoftext|> b")
    assert number not in encoder.prompt(Chat((Turn("user", "a <|endoftext|> b"),)))
