"""Stand-ins for the three slow things: a whole run in seconds, with no model, and the same on every machine.

Use them to test code of your own, or try the command line with `--model scripted`. They imitate what goes wrong
with real models as well: copies, near-duplicates, loops, echoes, answers without an end. How good a scripted model
is at a text is made up from words in common and from hashes; nothing it says is evidence of anything.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from isara.errors import BackendError
from isara.protocols import (
    Chat,
    Completion,
    Example,
    Likelihood,
    Prompt,
    Sampling,
    Step,
    Targets,
    Trained,
    Vectors,
)
from isara.rouge import tokens
from isara.rundir import write_json
from isara.scripted import dice, flat, judge, noise, number, read, write_answer, write_question
from isara.settings import TrainSettings
from isara.turning import best_of, has_turned

Respond = Callable[[Prompt, Sampling, int], str]
"""Writes the completion of a prompt, given how to sample and the random seed."""
_TOKEN = re.compile(r"\w+|[^\w\s]")


class HashEmbedder:
    """An embedder that hashes words and pairs of words: texts are alike as far as they share them."""

    def __init__(self, dimensions: int = 256) -> None:
        self.dimensions = dimensions

    @property
    def name(self) -> str:
        """What a person calls this embedder."""
        return "hash"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of length 1, shape (texts, dimensions); texts without a word share one."""
        rows = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            words = tokens(text)
            features = [(word, 1.0) for word in words] + [(" ".join(pair), 0.5) for pair in pairwise(words)]
            for feature, weight in features:
                place = number(feature)
                row[place % self.dimensions] += weight if place >> 62 & 1 else -weight
            if not row.any():
                row[0] = 1.0
        lengths: Vectors = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / lengths


class ScriptedModel:
    """A model that answers from a function you give it, and remembers what it was asked.

    Without a function it reads the demonstrations out of the prompt and recombines them. `memory` are questions that
    it has seen before and now and then repeats, as a model does whose training data held your held-out samples.
    """

    def __init__(
        self,
        respond: Respond | None = None,
        *,
        chat: bool = True,
        memory: Sequence[str] = (),
        delay: float = 0.0,
        remember: bool = True,
    ) -> None:
        self.prompts: list[Prompt] = []
        self.remember = remember
        """Whether `prompts` is kept; a long run has no room for that."""
        self.strength = 0.0
        self._respond = respond
        self._chat = chat
        self._memory = tuple(memory)
        self._delay = delay

    @property
    def name(self) -> str:
        """What a person calls this model."""
        return "scripted"

    @property
    def chat(self) -> bool:
        """Whether it takes a `Chat` as prompt."""
        return self._chat

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, *, seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each prompt, in order, the same for the same prompt, seed and adapter."""
        self._slow()
        done = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            self._readable(prompt)
            if self.remember:
                self.prompts.append(prompt)
            text = self._respond(prompt, sampling, seed) if self._respond else self._recombined(prompt, sampling, seed)
            completion = _ended(text, sampling)
            if sampling.top_tokens:
                targets = self._made_up(prompt, completion.text, sampling.top_tokens)
                completion = replace(completion, targets=targets)
            done.append(completion)
        return done

    def score(self, pairs: Sequence[tuple[Prompt, str]], *, top_tokens: int = 0) -> list[Likelihood]:
        """Return the likelihood of each completion after its prompt: an NLL from 0.5 to 4, higher only for babble."""
        self._slow()
        counts = self.count([completion for _, completion in pairs])
        return [
            Likelihood(
                -judge(read(prompt), completion, self.strength) * count,
                count,
                self._made_up(prompt, completion, top_tokens) if top_tokens else None,
            )
            for (prompt, completion), count in zip(pairs, counts, strict=True)
        ]

    def distributions(self, pairs: Sequence[tuple[Prompt, str]], k: int) -> list[Targets]:
        """Return made-up tokens and probabilities: the completion's own token first, likely as `score` finds it."""
        self._slow()
        return [self._made_up(prompt, completion, k) for prompt, completion in pairs]

    def _made_up(self, prompt: Prompt, completion: str, k: int) -> Targets:
        words = [number("word", word) % 2**31 for word in [*_TOKEN.findall(completion), "the end of the turn"]]
        likely = math.exp(-judge(read(prompt), completion, self.strength))
        shares = np.array([likely, *[(1 - likely) / (2 * k)] * (k - 1)], dtype=np.float16)
        ids = np.array([[(word + i) % 2**31 for i in range(k)] for word in words], dtype=np.int32)
        return Targets(tuple(words), ids, np.tile(shares, (len(words), 1)))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of words and punctuation marks of each text."""
        return [len(_TOKEN.findall(text)) for text in texts]

    def with_adapter(self, adapter: Path | None) -> ScriptedModel:
        """Return this model as ScriptedTrainer tuned it, or bare for None; both add to the same `prompts`."""
        return self.tuned(_strength_in(adapter) if adapter else 0.0)

    def tuned(self, strength: float) -> ScriptedModel:
        """Return this model after a training of that strength, from 0 (none) to 1."""
        model = ScriptedModel(
            self._respond, chat=self._chat, memory=self._memory, delay=self._delay, remember=self.remember
        )
        model.prompts, model.strength = self.prompts, strength
        return model

    def _recombined(self, prompt: Prompt, sampling: Sampling, seed: int) -> str:
        scene = read(prompt)
        # without temperature the seed plays no part
        rng = dice(flat(prompt), self.strength, seed if sampling.temperature else None)
        if scene.question is None:
            return write_question(rng, scene, self._memory) + scene.goes_on
        return write_answer(rng, scene, scene.question, sampling.max_tokens)

    def _readable(self, prompt: Prompt) -> None:
        if isinstance(prompt, Chat) and not self._chat:
            raise BackendError("scripted: this model has no chat template. Set the prompt styles to 'text'.")

    def _slow(self) -> None:
        if self._delay:
            time.sleep(self._delay)


def _ended(text: str, sampling: Sampling) -> Completion:
    """Cut a text where the sampling would have ended it."""
    stops = [place for place in (text.find(stop) for stop in sampling.stop) if place >= 0]
    text = text[: min(stops)] if stops else text
    found = list(_TOKEN.finditer(text))
    if len(found) <= sampling.max_tokens:
        return Completion(text, len(found), finished=True)
    return Completion(text[: found[sampling.max_tokens - 1].end()], sampling.max_tokens, finished=False)


class ScriptedTrainer:
    """A trainer that tunes nothing: it writes down how much a real one might have learned from the examples.

    More examples teach more, the first ones most, and repetitive ones little: a second or third round of the same
    words no longer helps.
    """

    def __init__(
        self, model: ScriptedModel | None = None, *, checks: int = 4, patience: int = 4, delay: float = 0.0
    ) -> None:
        self.model = model or ScriptedModel()
        self.checks = checks
        self.patience = patience
        """Checks in a row without likelier held-out samples after which it ends."""
        self.delay = delay
        """Seconds each step takes, for a test that wants to interrupt it."""

    def train(
        self,
        examples: Sequence[Example],
        heldout: Sequence[Example],
        *,
        steps: int,
        start: Path | None,
        out: Path,
        seed: int,
        watch: Callable[[Step], None],
        learning_rate: float | None = None,
    ) -> Trained:
        """Leave `scripted.json` in the folder `out`: the same for the same arguments, and either whole or not there."""
        before = _strength_in(start) if start else 0.0
        learned = _learned(examples, seed) * _suits(learning_rate)
        shares = [_ramp(step / steps) for step in range(1, steps + 1)]
        reached = [round(before + (1 - before) * learned * share, 6) for share in shares]
        pairs = [(example.prompt, example.completion) for example in heldout]
        curve: list[Step] = []
        for done, strength in enumerate(reached, start=1):
            time.sleep(self.delay)
            scored = None
            if pairs and done * self.checks // steps > (done - 1) * self.checks // steps:
                scored = tuple(each.nll for each in self.model.tuned(strength).score(pairs))
            loss = 2.4 - 1.6 * done / steps + 0.1 * noise("loss", seed, done)
            curve.append(Step(done, steps, loss, scored))
            watch(curve[-1])
            if has_turned(curve, self.patience):
                break
        best = (best_of(curve) or curve[-1]).number
        soft = sum(example.targets is not None for example in examples)
        write_json(out / "scripted.json", {"examples": len(examples), "soft": soft, "strength": reached[best - 1]})
        return Trained(len(curve), best, tuple(curve))

    def average(self, folders: Sequence[Path], out: Path) -> None:
        """Leave the mean of what several trainings learned in the folder `out`."""
        learned = [_strength_in(folder) for folder in folders]
        strength = round(sum(learned) / len(learned), 6)
        write_json(out / "scripted.json", {"trainings": len(learned), "strength": strength})

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Return the words and punctuation marks of each example, and one for the end of the turn."""
        texts = [f"{flat(example.prompt)} {example.completion}" for example in examples]
        return [count + 1 for count in self.model.count(texts)]


def _ramp(share: float) -> float:
    """Return how much of what there is to learn is learned after a share of the steps; the last ones lose a bit."""
    return min(1.0, share / 0.75) - 0.12 * max(0.0, share - 0.75)


def _suits(learning_rate: float | None) -> float:
    """Return the share of what there is to learn that is learned with a rate: all with the default, else less."""
    usual = TrainSettings().learning_rate
    return 1.0 if learning_rate is None else 1 / (1 + abs(math.log2(learning_rate / usual)) / 8)


def _learned(examples: Sequence[Example], seed: int) -> float:
    """Return how much examples teach, from 0 to 1: more with their number, less where they repeat each other."""
    texts = [tokens(f"{flat(example.prompt)} {example.completion}") for example in examples]
    pairs = [pair for words in texts for pair in pairwise(words)]
    variety = len(set(pairs)) / max(1, len(pairs))
    luck = noise("luck", seed, *(example.id for example in examples)) - 0.5
    return min(1.0, max(0.0, (1 - math.exp(-len(texts) * variety / 50)) * (0.3 + 0.7 * variety) + 0.03 * luck))


def _strength_in(adapter: Path) -> float:
    path = adapter / "scripted.json"
    try:
        strength = float(json.loads(path.read_text(encoding="utf-8"))["strength"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(f"{path}: not the adapter of a scripted model ({error!r}). Train it again.") from error
    if not 0 <= strength <= 1:
        raise BackendError(f"{path}: expected a strength from 0 to 1, found {strength}. Train it again.")
    return strength
