"""Every setting, with one sentence each: that sentence is the help text, the reference page and the starter file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of settings: immutable, closed to unknown names, each field documented by the sentence under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelSettings(Section):
    """The model to teach, and the embedder that says which questions are alike."""

    name: str = "smollm2-135m"
    """A folder, a Hugging Face name, `smollm2-135m` (comes with the `demo` extra) or `scripted` (a stand-in)."""
    revision: str | None = None
    """Branch, tag or commit, for a model with a Hugging Face name."""
    engine: Literal["auto", "transformers", "openvino", "server"] = "auto"
    """What completes and scores: `transformers` is always there, `openvino` (an extra) is for CPUs, `server` is the one
    that `server.url` names; `auto` takes a server that is named, else the fastest that can run the model here."""
    weights: Literal["auto", "full", "int8"] = "auto"
    """Weights while completing and scoring, and frozen ones while adapters are tuned in float32: `full`, or `int8`
    (openvino only), which changes what the model says a little; `auto` is `int8` on openvino where the CPU multiplies
    8 bits and no bfloat16, and faster there."""
    embedder: str = "minilm"
    """A sentence-transformers folder or name, `minilm` (comes with the `demo` extra) or `hash` (a stand-in)."""
    device: str = "auto"
    """Where to compute: `auto` takes a GPU where there is one; else a torch device such as `cpu` or `cuda:1`."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the weights; `auto` is bfloat16 where the hardware multiplies it, else float32."""
    batch_tokens: int = Field(default=16384, ge=64, le=2**24)
    """Tokens held at once while generating and scoring; halved by itself when memory runs out."""
    allow_pickle: bool = False
    """Load weights of a model or an embedder that are not safetensors as well: reading such a file can run code."""
    trust_remote_code: bool = False
    """Run the Python code that comes with a model or an embedder; read it before you say yes."""


class ServerSettings(Section):
    """An OpenAI-compatible server that completes, and scores where it can; training stays on this machine."""

    url: str | None = None
    """Its address, such as `http://localhost:8000`; `--server` sets it. Keys do not belong here."""
    model: str | None = None
    """Name under which it serves the model to teach; left out, the only one that it lists."""
    key_variable: str = "ISARA_SERVER_KEY"
    """Name of the environment variable that holds its key, where it wants one; the key itself is written nowhere."""
    adapters: bool = True
    """Whether to load tuned weights into a server that takes them (vLLM); it has to see the run directory."""
    concurrency: int = Field(default=32, ge=1, le=1024)
    """Most requests under way at once; fewer are sent while the server pushes back or gains nothing by more."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds to wait for one answer before asking again."""
    retries: int = Field(default=8, ge=0, le=100)
    """How often a request is sent again after a failure that may pass: a cut connection, an overload, no JSON."""
    deadline: float = Field(default=600.0, gt=0)
    """Seconds that one request may take, repeats and waits included; then the run stops, and can be gone on with."""


class SplitSettings(Section):
    """Which samples are held out to judge the rounds."""

    heldout: float = Field(default=0.2, gt=0, lt=1)
    """Share of the seed file held out when no held-out file is given; these are never shown or trained on."""
    least: int = Field(default=8, ge=2)
    """Fewest samples to hold out, whatever the share."""


class QuestionSettings(Section):
    """How the model is led to write new questions."""

    style: Literal["text", "chat"] = "text"
    """Demonstrations as `text` (plain few-shot lines) or `chat` (earlier turns, the next user turn left open)."""
    writer: Literal["base", "generator"] = "base"
    """Who writes questions: the untouched model, or the tuned one that answers them. A model tuned on answers alone
    tends to write answers where a question is wanted."""
    demonstrations: int = Field(default=6, ge=1, le=64)
    """Pool samples shown before the new question: an anchor and its neighbours."""
    machine: int = Field(default=0, ge=0, le=64)
    """At most this many of them are samples that the round has accepted so far, drawn at random."""
    neighbourhood: int = Field(default=16, ge=1)
    """The demonstrations are drawn from this many nearest neighbours of the anchor; larger is more varied, and more
    than the pool has is at random."""
    draws: int = Field(default=4, ge=1, le=64)
    """Questions drawn after each set of demonstrations, which is then read once for all of them."""
    temperature: float = Field(default=0.8, ge=0, le=5)
    """Sampling temperature; 0 always takes the most likely token, and then repeats itself."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Sample among the most likely tokens that hold this much of the probability."""
    max_tokens: int = Field(default=48, ge=4, le=32768)
    """Longest question, in tokens."""


class AnswerSettings(Section):
    """How the model is led to answer them."""

    style: Literal["auto", "text", "chat"] = "auto"
    """Demonstrations as `chat` turns or plain `text`; `auto` is chat where the model has a chat template."""
    demonstrations: int = Field(default=5, ge=0, le=64)
    """Pool samples shown before the question."""
    choice: Literal["nearest", "random"] = "nearest"
    """Which ones: those whose questions are `nearest` to this one, the most similar last, or `random` ones."""
    shared: int = Field(default=3, ge=0, le=64)
    """How many of them, the first ones, are those that most questions of a batch have in common among the seeds near to
    them, twice as many as are shown, and not those nearest: what prompts begin with in common is read once."""
    principles: str = ""
    """Written rules that stand before the demonstrations, all in plain text, and are not trained on: an instruction,
    which isara does without; for a comparison with methods that need one."""
    temperature: float = Field(default=0.0, ge=0, le=5)
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Sample among the most likely tokens that hold this much of the probability."""
    max_tokens: int = Field(default=96, ge=4, le=32768)
    """Longest answer, in tokens; one that has not ended by then is dropped as truncated."""


class TargetSettings(Section):
    """How much each round makes."""

    accepted: int = Field(default=128, ge=1, le=100_000)
    """Samples each round is to accept."""
    budget: float = Field(default=4.0, ge=1, le=1000)
    """Candidates a round may draft at most, as a multiple of `accepted`."""
    batch: int = Field(default=512, ge=1, le=10_000)
    """Candidates drafted at most between two savepoints, fewer where fewer are needed; larger is faster, and a kill
    costs more."""
    parse_floor: float = Field(default=0.5, ge=0, le=1)
    """When a smaller share of a batch parses, the next one shows fewer demonstrations and other separators."""


class FilterSettings(Section):
    """What makes a generated sample worth keeping. Every rule can be replayed with another threshold."""

    question_words_min: int = Field(default=3, ge=1)
    """Fewest words in a question."""
    question_words_max: int = Field(default=60, ge=1)
    """Most words in a question."""
    answer_words_min: int = Field(default=1, ge=1)
    """Fewest words in an answer."""
    answer_words_max: int = Field(default=200, ge=1)
    """Most words in an answer."""
    repetition: float = Field(default=0.3, ge=0, le=1)
    """Largest share of an answer's word 3-grams that may be repeats of an earlier one."""
    echo: float = Field(default=0.8, gt=0, le=1)
    """Largest ROUGE-L between an answer and its own question."""
    copied: float = Field(default=0.9, gt=0, le=1)
    """Largest ROUGE-L between an answer and the answer of a demonstration it was shown."""
    rouge: float = Field(default=0.7, gt=0, le=1)
    """A question this close (ROUGE-L) to a seed, a pool sample or an accepted one is a near-duplicate."""
    cosine: float = Field(default=0.95, gt=0, le=1)
    """A question this close (cosine of embeddings) to one of those is a near-duplicate."""
    common: float = Field(default=0.1, gt=0, le=1)
    """Largest share of a round's samples with one and the same answer, word for word; an answer that a larger share of
    the seeds has may be as frequent as there."""
    keywords: str = ""
    """Words, separated by commas; a question with one of them is dropped."""
    topic: float = Field(default=0.3, ge=-1, le=1)
    """A question less like every seed and pool sample than this (cosine of embeddings) is off topic."""
    heldout_rouge: float = Field(default=0.7, gt=0, le=1)
    """A question this close (ROUGE-L) to a held-out one is contamination; this rule cannot be turned off."""
    heldout_cosine: float = Field(default=0.9, gt=0, le=1)
    """A question this close (cosine of embeddings) to a held-out one is contamination."""
    confidence: float = Field(default=4.0, gt=0)
    """Largest NLL per token (nats) of an answer, by the model that wrote it, with its demonstrations in view."""
    gain: float = Field(default=-1.0)
    """Smallest fall in NLL per token that the demonstrations must bring; negative asks for little."""


class TrainSettings(Section):
    """How the model is tuned on the seeds and on what a round accepted."""

    method: Literal["lora", "full"] = "lora"
    """`lora` tunes low-rank adapters on every linear layer; `full` tunes all weights."""
    rank: int = Field(default=16, ge=1, le=4096)
    """Rank of the adapters."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate; rises over the first 10 % of the steps, then falls in a straight line to 0."""
    other_rate: float = Field(default=1.0, gt=0, le=100)
    """A multiple of `train.learning_rate` with which the seeds are tuned as well; every round has the one of the two
    that made the held-out samples likeliest. 1 tries no other."""
    batch: int = Field(default=8, ge=1, le=4096)
    """Examples in each optimiser step."""
    epochs: float = Field(default=8.0, gt=0, le=1000)
    """Passes over the seeds; with `batch` this sets the optimiser steps of the baseline tuned on the seeds alone."""
    targets: Literal["sampled", "soft"] = "soft"
    """What a generated answer teaches: the tokens that were `sampled`, or at each of them the `soft` probabilities
    that `train.teacher` gave."""
    teacher: Literal["generator", "mean"] = "mean"
    """Whose probabilities: those of the `generator`, its demonstrations in view, or the `mean` of these, of the
    generator's without them and of the untouched model's with them."""
    top_tokens: int = Field(default=32, ge=1, le=1024)
    """Tokens whose probabilities are recorded at each place, for soft targets; together they count as 1."""
    seed_share: float = Field(default=0.5, ge=0, le=1)
    """Share of each round's training examples drawn from the seeds; the rest are generated."""
    replay: float = Field(default=0.0, ge=0, lt=1)
    """Share of every training drawn from the text in `train.replay_text`, so that less outside the domain is
    forgotten; the steps stay the same, so that fewer go to the domain."""
    replay_text: str = ""
    """A plain text file that is nothing of the domain, for `train.replay`."""
    max_tokens: int = Field(default=512, ge=16, le=131_072)
    """Longest training example in tokens, template included."""
    overlong: Literal["refuse", "drop"] = "refuse"
    """What to do with a longer one: `refuse` to train, or `drop` it and say so. None is ever cut."""
    start: Literal["base", "seeds", "previous"] = "base"
    """Weights a round's training starts from: the untouched model's (`base`), those tuned on the seeds alone, or the
    best so far (`previous`)."""
    round_steps: float | None = Field(default=None, gt=0, le=100)
    """Optimiser steps of each round, as a multiple of the baseline's; left out, 1 where a round starts from the
    untouched model's weights, and 0.5 where from tuned ones."""
    average: bool = False
    """Whether a later round leaves the mean of its own training's weights and of those of the rounds kept before it, at
    the same rank; otherwise its own alone."""
    keep: Literal["best", "last"] = "best"
    """Which weights a training leaves: those of the step where the held-out samples were likeliest, or the last."""
    checks: int = Field(default=8, ge=1, le=1000)
    """How often a training scores the held-out samples, spread evenly over its steps."""
    patience: int = Field(default=2, ge=1, le=1000)
    """Checks in a row without likelier held-out samples after which a training ends, as `keep` throws away what comes
    after its best step; with `keep` at `last`, or as many as `checks`, it goes on to its last step."""
    checkpoint: int = Field(default=25, ge=1)
    """Optimiser steps between two savepoints from which a killed training goes on."""


class GateSettings(Section):
    """When a round counts as better, and when to stop."""

    min_gain: float = Field(default=0.0, ge=0)
    """A round is kept when it lowers the mean held-out NLL per token by more than this (nats)."""
    standard_errors: float = Field(default=0.0, ge=0, le=100)
    """And by more than this many standard errors of the difference over the held-out samples; 0 looks at the mean
    alone. With a dozen of them 1 turns down most rounds that do gain."""
    keep: Literal["better", "all"] = "better"
    """Which rounds are gone on with: those that are `better`, or `all`, for a study. The result is the best arm in
    either case."""
    pool: Literal["grown", "seeds"] = "grown"
    """What later rounds take demonstrations from: the pool `grown` by what kept rounds accepted, or the `seeds`."""
    patience: int = Field(default=1, ge=1)
    """Stop after this many rounds in a row that were not kept."""
    generator: Literal["best", "latest"] = "best"
    """Who writes the next round: the tuned model that answers held-out questions `best` when shown
    demonstrations, or the `latest` one kept."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence level of every interval."""


class Settings(Section):
    """Everything that decides what a run does."""

    rounds: int = Field(default=2, ge=0, le=100)
    """Most rounds to run; it stops earlier when held-out quality stops rising. 0 makes the baselines alone."""
    seed: int = Field(default=17, ge=0, le=2**31 - 1)
    """Random seed; the same seed on the same machine gives the same data."""
    model: ModelSettings = ModelSettings()
    server: ServerSettings = ServerSettings()
    split: SplitSettings = SplitSettings()
    questions: QuestionSettings = QuestionSettings()
    answers: AnswerSettings = AnswerSettings()
    target: TargetSettings = TargetSettings()
    filter: FilterSettings = FilterSettings()
    train: TrainSettings = TrainSettings()
    gate: GateSettings = GateSettings()
