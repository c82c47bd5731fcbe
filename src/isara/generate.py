"""One round of drafting: questions from neighbourhoods, answers from nearest samples, the filter in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.drafted import Drafted, decided, is_whole, likelihood_of, noted, stored_vectors, wanted
from isara.events import Event, Watch
from isara.filter import Candidate, Drop, Sieve
from isara.heldout import bare_prompt, refuse_nan
from isara.prompts import (
    Style,
    after,
    answer_stops,
    as_messages,
    for_answer,
    for_question,
    parse_answer,
    parse_question,
    question_stops,
)
from isara.protocols import Completion, Embedder, Model, Prompt, Sampling
from isara.retrieve import Pool, request_seed
from isara.rundir import Journal
from isara.samples import Sample
from isara.settings import Settings
from isara.stage import Stage
from isara.targetfiles import ALONE, Files, as_files


class Draft:
    """
    The drafting of one round. Each batch is five committed steps; a step already on disk is read, not done again.

    Of a batch that is decided, what was accepted stays in memory, and what later questions are compared with. What the
    model is asked depends only on the seed, the round, the batch and the pool, so a round that was killed and goes on
    asks for the same, and decides the same.
    """

    def __init__(
        self,
        number: int,
        *,
        journal: Journal,
        load: Callable[[], Model],
        chat: bool,
        embedder: Embedder,
        pool: Pool,
        sieve: Sieve,
        settings: Settings,
        watch: Watch,
        write: Callable[[], Model] | None = None,
    ) -> None:
        """Draft round `number`; `load` brings the model that answers, `write` the one that asks if another does."""
        self.number = number
        self.journal = journal
        self.load = load
        self.write = write or load
        self.embedder = embedder
        self.pool = pool
        self.sieve = sieve
        self.settings = settings
        self.watch = watch
        self.chat = chat
        asks, answers = settings.questions, settings.answers
        floor = settings.target.parse_floor
        auto: Style = "chat" if chat else "text"
        self.questions = Stage("question", asks.style if chat else "text", asks.demonstrations, floor)
        style: Style = auto if answers.style == "auto" or not chat else answers.style
        self.answers = Stage("answer", "text" if answers.principles else style, answers.demonstrations, floor)
        self.kept: list[Sample] = []
        self.kept_vectors: list[NDArray[np.float16]] = []
        self.funnel: dict[str, int] = {}
        self.read_back: list[Candidate] = []

    def run(self) -> Drafted:
        """Draft until the target or the budget is reached."""
        target = self.settings.target
        drafted = batch = 0
        while size := wanted(target, drafted, len(self.kept)):
            if self.journal.done(f"{batch}/decided"):
                self.recall(batch, size)
            else:
                candidates = [Candidate(f"r{self.number}-{drafted + i + 1:05d}", self.number) for i in range(size)]
                self.batch(batch, drafted, candidates)
            drafted += size
            batch += 1
            self.watch(
                Event("progress", {"name": f"draft-{self.number}", "done": min(len(self.kept), target.accepted)})
            )
        return Drafted(
            kept=self.kept,
            vectors=np.concatenate([self.pool.store.held[:0], *self.kept_vectors]),
            funnel=self.funnel,
            drafted=drafted,
            ended="target" if len(self.kept) >= target.accepted else "budget",
            parse_rate={"question": self.questions.rate, "answer": self.answers.rate},
            adapted=[*self.questions.adapted, *self.answers.adapted],
        )

    def recall(self, batch: int, size: int) -> None:
        """Take in a batch that was decided before: its decisions stand, and are not made again."""
        found = decided(self.journal, batch, self.number)
        self.note(self.questions, size, found.parsed)
        self.note(self.answers, len(found.passed), found.answered)
        self.read_back += found.passed
        for sample in found.kept:
            self.sieve.accepted(sample.answer)
        self.take(found.kept, found.vectors)
        for rule in found.rules:
            self.funnel[rule] = self.funnel.get(rule, 0) + 1

    def take(self, samples: Sequence[Sample], vectors: Sequence[NDArray[np.float32]]) -> None:
        """Hold what was accepted."""
        self.kept += samples
        self.kept_vectors += [np.stack(vectors).astype(np.float16)] if vectors else []

    def batch(self, batch: int, offset: int, candidates: list[Candidate]) -> None:
        """Take a batch of candidates from nothing to a decision."""
        for candidate in self.read_back:
            self.sieve.passed(candidate)
        self.read_back = []
        self.ask(batch, offset, candidates)
        vectors = self.vectors(batch, [c for c in candidates if c.question is not None])
        for candidate in candidates:
            candidate.vector = vectors.get(candidate.id)
        drops = self.sieve.questions(candidates)
        asked = [c for c in candidates if c.id not in drops]
        self.answer(batch, asked)
        room = self.settings.target.accepted - len(self.kept)
        accepted: list[Candidate] = []
        for candidate in asked:
            drop = self.sieve.answer(candidate)
            if drop is None and len(accepted) >= room:
                drop = Drop("surplus", f"the round had its {self.settings.target.accepted} samples already")
            if drop is not None:
                drops[candidate.id] = drop
            else:
                accepted.append(candidate)
        self.decide(batch, candidates, accepted, drops)

    def ask(self, batch: int, offset: int, candidates: list[Candidate]) -> None:
        """Let the model write a question for each candidate."""
        stage = self.questions
        settings = self.settings.questions
        shown = self.shown_for_questions(range(offset, offset + len(candidates)))
        prompts = [for_question(few, stage.style, stage.separators) for few in shown]
        sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, question_stops(stage.style))
        for candidate, few in zip(candidates, shown, strict=True):
            candidate.question_parents = tuple(sample.id for sample in few)
        completions = self.complete(batch, stage, candidates, shown, prompts, sampling)
        for candidate, completion in zip(candidates, completions, strict=True):
            candidate.question = parse_question(completion.text)
        self.note(stage, len(candidates), sum(c.question is not None for c in candidates))

    def shown_for_questions(self, turns: Sequence[int]) -> list[list[Sample]]:
        """Return what the model sees before new questions: accepted samples where asked for, then an anchor's."""
        settings, key = self.settings.questions, (self.settings.seed, self.number)
        # As many turns in a row as are drawn after one set of demonstrations see the same.
        turns = [turn // settings.draws for turn in turns]
        machine = min(settings.machine, len(self.kept), self.questions.shown - 1)
        shown = self.pool.for_questions(turns, self.questions.shown - machine, settings.neighbourhood, *key)
        if machine < 1:
            return shown
        found = []
        for turn, few in zip(turns, shown, strict=True):
            drawn = np.random.default_rng([*key, 2, turn]).choice(len(self.kept), size=machine, replace=False)
            found.append([*(self.kept[int(i)] for i in drawn), *few])
        return found

    def shown_for_answers(self, candidates: Sequence[Candidate]) -> list[list[Sample]]:
        """Return what the model sees before its answers."""
        if self.settings.answers.choice == "random":
            turns = (request_seed("demonstrations", candidate.id) for candidate in candidates)
            return [self.pool.at_random(self.answers.shown, self.settings.seed, turn) for turn in turns]
        vectors = [c.vector for c in candidates if c.vector is not None]
        return self.pool.for_answers(vectors, self.answers.shown, self.settings.answers.shared)

    def answer(self, batch: int, candidates: list[Candidate]) -> None:
        """Let the model answer each candidate's question, and score how sure it was."""
        stage = self.answers
        settings = self.settings.answers
        shown = self.shown_for_answers(candidates)
        prompts = [
            after(settings.principles, for_answer(c.question or "", few, stage.style, stage.separators))
            for c, few in zip(candidates, shown, strict=True)
        ]
        sampling = Sampling(
            settings.max_tokens,
            settings.temperature,
            settings.top_p,
            answer_stops(stage.style, stage.separators),
            self.settings.train.top_tokens,
        )
        for candidate, few in zip(candidates, shown, strict=True):
            candidate.answer_parents = tuple(sample.id for sample in few)
            candidate.shown = (*(sample.answer for sample in few), *settings.principles.splitlines())
        completions = self.complete(batch, stage, candidates, shown, prompts, sampling)
        for candidate, completion in zip(candidates, completions, strict=True):
            candidate.answer = parse_answer(completion.text)
            candidate.finished = completion.finished
        self.score(batch, candidates, prompts, completions)
        self.note(stage, len(candidates), sum(c.answer is not None for c in candidates))

    def complete(
        self,
        batch: int,
        stage: Stage,
        candidates: Sequence[Candidate],
        shown: Sequence[Sequence[Sample]],
        prompts: Sequence[Prompt],
        sampling: Sampling,
    ) -> list[Completion]:
        """Return a completion for each prompt: from the disk where they are there, else from the model."""
        step = f"{batch}/{stage.name}s"
        if self.journal.done(step):
            return [
                Completion(r["text"], r["tokens"], r["finished"], likelihood_of(r))
                for r in self.journal.records(step, "completions.jsonl")
            ]
        seeds = [request_seed(self.settings.seed, stage.name, candidate.id) for candidate in candidates]
        speaker = self.write if stage is self.questions else self.load
        completions = speaker().complete(prompts, sampling, seeds=seeds) if prompts else []
        asked = [
            {
                "id": candidate.id,
                "stage": stage.name,
                "batch": batch,
                "demonstrations": [sample.id for sample in few],
                "style": stage.style,
                "prompt": as_messages(prompt),
                "seed": seed,
            }
            for candidate, few, prompt, seed in zip(candidates, shown, prompts, seeds, strict=True)
        ]
        answered = [
            {
                "id": candidate.id,
                "stage": stage.name,
                "batch": batch,
                "text": completion.text,
                "tokens": completion.tokens,
                "finished": completion.finished,
                "log_likelihood": completion.likelihood.total if completion.likelihood else None,
                "likelihood_tokens": completion.likelihood.tokens if completion.likelihood else None,
            }
            for candidate, completion in zip(candidates, completions, strict=True)
        ]
        files: Files = {"prompts.jsonl": asked, "completions.jsonl": answered}
        if sampling.top_tokens:
            files |= noted(candidates, completions)
        self.journal.commit(step, files)
        return completions

    def score(
        self,
        batch: int,
        candidates: Sequence[Candidate],
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
    ) -> None:
        """Note how likely each answer is to its writer, with its demonstrations and without."""
        step = f"{batch}/scores"
        judged = [i for i, candidate in enumerate(candidates) if candidate.answer is not None]
        if not self.journal.done(step):
            self.journal.commit(step, self.scored(batch, [(candidates[i], prompts[i], completions[i]) for i in judged]))
        found = {record["id"]: record for record in self.journal.records(step, "scores.jsonl")}
        for i in judged:
            record = found[candidates[i].id]
            candidates[i].scores["confidence"] = record["nll"]
            candidates[i].scores["gain"] = record["bare_nll"] - record["nll"]

    def scored(self, batch: int, judged: Sequence[tuple[Candidate, Prompt, Completion]]) -> Files:
        """Ask the model for the likelihoods that are not known yet; returns them as files."""
        if not judged:
            return {"scores.jsonl": []}
        model, stage = self.load(), self.answers
        known = [done.likelihood if is_whole(done) else None for _, _, done in judged]
        missing = [i for i, likelihood in enumerate(known) if likelihood is None]
        pairs = [(judged[i][1], judged[i][0].answer or "") for i in missing]
        for i, likelihood in zip(missing, model.score(pairs) if pairs else [], strict=True):
            known[i] = likelihood
        alone = [for_answer(c.question or "", [], stage.style, stage.separators) for c, _, _ in judged]
        pairs = [(prompt, c.answer or "") for prompt, (c, _, _) in zip(alone, judged, strict=True)]
        # What is likely there is taught, where this is how a user asks.
        usual = alone[0] == bare_prompt(judged[0][0].question or "", chat=self.chat)
        bare = model.score(pairs, top_tokens=self.settings.train.top_tokens if usual else 0)
        for likelihoods in (bare, [likelihood for likelihood in known if likelihood is not None]):
            refuse_nan(model, [candidate.id for candidate, _, _ in judged], likelihoods)
        records = [
            {
                "id": candidate.id,
                "batch": batch,
                "nll": round(shown.nll, 6),
                "bare_nll": round(alone.nll, 6),
                "tokens": shown.tokens,
            }
            for (candidate, _, _), shown, alone in zip(judged, known, bare, strict=True)
            if shown is not None
        ]
        told = [(c.id, each.targets) for (c, _, _), each in zip(judged, bare, strict=True) if each.targets]
        return {"scores.jsonl": records} | as_files(told, ALONE)

    def vectors(self, batch: int, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """Return the embedding of each parsed question, rounded as it is stored: a resumed run sees the same."""
        step = f"{batch}/embeddings"
        if not self.journal.done(step):
            rows = (
                self.embedder.embed([c.question or "" for c in candidates])
                if candidates
                else np.zeros((0, 1), np.float32)
            )
            self.journal.commit(
                step,
                {
                    "embeddings.f16": rows.astype("<f2").tobytes(),
                    "embedded.jsonl": [{"id": candidate.id} for candidate in candidates],
                },
            )
        rows = stored_vectors(self.journal, batch, len(candidates))
        return {candidate.id: row for candidate, row in zip(candidates, rows, strict=True)}

    def decide(
        self, batch: int, candidates: Sequence[Candidate], accepted: Sequence[Candidate], drops: dict[str, Drop]
    ) -> None:
        """Write down what was kept and what was not, and why."""
        self.take(
            [Sample(c.id, c.question or "", c.answer or "", self.number, c.parents) for c in accepted],
            [c.vector for c in accepted if c.vector is not None],
        )
        for drop in drops.values():
            self.funnel[drop.rule] = self.funnel.get(drop.rule, 0) + 1
        self.journal.commit(
            f"{batch}/decided",
            {
                "kept.jsonl": [candidate.to_json() for candidate in accepted],
                "dropped.jsonl": [c.to_json() | drops[c.id].to_json() for c in candidates if c.id in drops],
            },
        )

    def note(self, stage: Stage, asked: int, parsed: int) -> None:
        """Watch how much of what comes back can be read, and say when the prompts change."""
        said = stage.observe(asked, parsed)
        if said:
            self.watch(Event("say", {"text": said, "level": "warning"}))
