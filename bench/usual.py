"""
The work of a finished run, done with the usual glue: transformers' `generate`, a forward pass for scores, TRL to train.

    python bench/usual.py RUN [--share 0.1]

Reads from the run directory what was asked, drafted, trained on and judged, and does the same again: the same prompts
with the same limits, the same training sets for as many steps, the same samples scored and answered under every arm.
What isara does besides (embedding, filters, the report, savepoints) is left out. With a share below 1, each kind of
work is timed on that share of its items and scaled to all of them. Prints the seconds of each kind as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from isara.backends.checkpoints import locate
from isara.backends.hf import choose_device, choose_dtype
from isara.prompts import SEPARATORS, answer_stops, question_stops
from isara.samples import read_jsonl

GENERATED, SCORED = 32, 8
"""Texts in a batch."""
Texts = Sequence[tuple[str, str]]
"""Prompts with completions, as text that a chat template has been applied to."""


class Usual:
    """A model as people load it, and the work that is timed."""

    def __init__(self, run: Path, share: float) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.run = run
        self.share = share
        self.settings = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["settings"]
        self.folder = locate(self.settings["model"]["name"]).folder
        self.device = choose_device("auto")
        self.dtype = choose_dtype("auto", self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, padding_side="left")
        self.network: Any = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype).to(self.device).eval()

    def text(self, prompt: Any) -> str:
        """Return a prompt as text."""
        if isinstance(prompt, str):
            return prompt
        made: str = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return made

    def some(self, items: Sequence[Any], least: int) -> Sequence[Any]:
        """Return the share of items that is timed, in steps across all of them."""
        count = min(len(items), max(least, math.ceil(self.share * len(items))))
        return [items[i * len(items) // count] for i in range(count)]

    def generate(self, prompts: Sequence[str], wanted: Mapping[str, Any], stops: Sequence[str]) -> float:
        """Return the seconds that completions of all prompts take."""
        chosen = self.some(prompts, GENERATED)
        options: dict[str, Any] = {"do_sample": False}
        if wanted["temperature"]:
            options = {"do_sample": True, "temperature": wanted["temperature"], "top_p": wanted["top_p"]}
        if stops:
            options |= {"stop_strings": list(stops), "tokenizer": self.tokenizer}
        begun = time.perf_counter()
        for at in range(0, len(chosen), GENERATED):
            rows = self.tokenizer(list(chosen[at : at + GENERATED]), return_tensors="pt", padding=True).to(self.device)
            with torch.inference_mode():
                made = self.network.generate(**rows, max_new_tokens=wanted["max_tokens"], **options)
            self.tokenizer.batch_decode(made[:, rows.input_ids.shape[1] :], skip_special_tokens=True)
        return (time.perf_counter() - begun) * len(prompts) / max(1, len(chosen))

    def score(self, texts: Texts) -> float:
        """Return the seconds that the likelihoods of all completions take, in padded batches."""
        chosen = self.some(texts, 2 * SCORED)
        begun = time.perf_counter()
        for at in range(0, len(chosen), SCORED):
            part = chosen[at : at + SCORED]
            rows = self.tokenizer([p + c for p, c in part], return_tensors="pt", padding=True).to(self.device)
            with torch.inference_mode():
                logs = self.network(**rows).logits.float().log_softmax(-1)
            for place, (_, completion) in enumerate(part):
                count = len(self.tokenizer(completion, add_special_tokens=False).input_ids)
                wanted = rows.input_ids[place, -count:, None]
                float(logs[place, -count - 1 : -1].gather(1, wanted).sum())
        return (time.perf_counter() - begun) * len(texts) / max(1, len(chosen))

    def train(self, arm: Path) -> float:
        """Return the seconds of a whole training with TRL's SFTTrainer, its start included."""
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, TrainerCallback
        from trl import SFTConfig, SFTTrainer

        wanted, records = self.settings["train"], list(read_jsonl(arm / "train.jsonl"))
        training = json.loads((arm / "training.json").read_text(encoding="utf-8"))
        # A rate that was tried and not taken is a training too; its start is not counted again.
        steps = training["steps"] + sum(other["steps"] for other in training["tried"])
        timed = min(steps, max(4, math.ceil(self.share * steps)))
        times = [time.perf_counter()]

        class Clock(TrainerCallback):
            def on_step_end(self, *unused: Any, **more: Any) -> None:
                times.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as folder:
            trainer = SFTTrainer(
                model=AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype),
                processing_class=self.tokenizer,
                args=SFTConfig(
                    output_dir=folder,
                    max_steps=timed,
                    per_device_train_batch_size=wanted["batch"],
                    learning_rate=training["learning_rate"],
                    use_cpu=self.device.type == "cpu",
                    # Its default is bfloat16 also where a CPU only emulates that, which takes several times as long.
                    bf16=self.dtype == torch.bfloat16,
                    report_to=[],
                    save_strategy="no",
                    disable_tqdm=True,
                    logging_strategy="no",
                ),
                train_dataset=Dataset.from_list([{k: r[k] for k in ("prompt", "completion")} for r in records]),
                peft_config=LoraConfig(
                    r=wanted["rank"], lora_alpha=wanted["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
                ),
                callbacks=[Clock()],
            )
            trainer.train()
            trainer.save_model(folder)
        return times[1] - times[0] + (times[-1] - times[1]) / (timed - 1) * (steps - 1)

    def drafted(self, folder: Path) -> dict[str, float]:
        """Return the seconds of a round's drafting."""
        prompts = list(read_jsonl(folder / "prompts.jsonl"))
        asked = {stage: [r for r in prompts if r["stage"] == stage] for stage in ("question", "answer")}
        stops = {
            "question": question_stops(asked["question"][0]["style"]),
            "answer": answer_stops(asked["answer"][0]["style"], SEPARATORS[0]),
        }
        took = {
            f"{stage}s": self.generate([self.text(r["prompt"]) for r in asked[stage]], self.settings[f"{stage}s"], stop)
            for stage, stop in stops.items()
        }
        said = {r["id"]: r["text"] for r in read_jsonl(folder / "completions.jsonl") if r["stage"] == "answer"}
        shown = {r["id"]: r["prompt"] for r in asked["answer"]}
        texts = [(self.text(shown[r["id"]]), said[r["id"]]) for r in read_jsonl(folder / "scores.jsonl")]
        bare = [
            (self.text(shown[r["id"]][-1:] if isinstance(shown[r["id"]], list) else shown[r["id"]]), said[r["id"]])
            for r in read_jsonl(folder / "scores.jsonl")
        ]
        took["scores of answers"] = self.score(texts) + self.score(bare)
        if (folder / "targets").exists():
            took["probabilities"] = self.taught(folder, shown)
        return took

    def taught(self, folder: Path, shown: Mapping[str, Any]) -> float:
        """Return the seconds of what teachers say of a round's answers: a pass over each, as for a score."""
        kept = list(read_jsonl(folder / "kept.jsonl"))
        after = [(self.text(shown[r["id"]]), r["answer"]) for r in kept]
        alone = [(self.text([{"role": "user", "content": r["question"]}]), r["answer"]) for r in kept]
        passes = [after, alone, after] if self.settings["train"]["teacher"] == "mean" else [after]
        return sum(map(self.score, passes))

    def judged(self, arm: Path, shown: Mapping[str, str]) -> dict[str, float]:
        """Return the seconds of judging an arm on the held-out samples, and of the checks while it was trained."""
        samples = list(read_jsonl(arm / "answers.jsonl"))
        alone = [(self.text([{"role": "user", "content": r["question"]}]), r["reference"]) for r in samples]
        longer = [(shown.get(r["id"], prompt), r["reference"]) for r, (prompt, _) in zip(samples, alone, strict=True)]
        asked = longer if arm.name == "retrieved" else alone
        took = self.score(asked)
        checks = 0
        if (arm / "training.json").exists():
            took += self.score(longer)
            training = json.loads((arm / "training.json").read_text(encoding="utf-8"))
            curves = [training["curve"], *(other["curve"] for other in training["tried"])]
            checks = sum(step["heldout"] is not None for curve in curves for step in curve)
        limits = self.settings["answers"] | {"temperature": 0}
        return {
            "held-out scores": took,
            "held-out answers": self.generate([prompt for prompt, _ in asked], limits, ()),
            "checks in training": checks * self.score(alone) if checks else 0.0,
        }

    def all(self) -> dict[str, float]:
        """Return the seconds of each kind of work."""
        took: dict[str, float] = {}
        arms = [path.parent for path in sorted(self.run.glob("*/answers.jsonl"))]
        rounds = [arm for arm in arms if (arm / "prompts.jsonl").exists()]
        # Demonstrations as in the run: those of the first answers stand for those of the held-out samples.
        first = [r["prompt"] for r in read_jsonl(rounds[0] / "prompts.jsonl") if r["stage"] == "answer"]
        ids = [r["id"] for r in read_jsonl(self.run / "heldout.jsonl")]
        shown = {name: self.text(first[i % len(first)]) for i, name in enumerate(ids)}
        for arm in arms:
            parts = [self.judged(arm, shown)]
            if arm in rounds:
                parts.append(self.drafted(arm))
            if (arm / "training.json").exists():
                parts.append({"training": self.train(arm)})
            for part in parts:
                for kind, seconds in part.items():
                    took[kind] = took.get(kind, 0.0) + seconds
        return took


def main() -> None:
    """Time the work, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    given = parser.parse_args()
    begun = time.perf_counter()
    usual = Usual(given.run, given.share)
    loading = time.perf_counter() - begun
    took = {"loading": loading} | usual.all()
    sys.stdout.write(json.dumps({kind: round(seconds, 2) for kind, seconds in took.items()}) + "\n")


if __name__ == "__main__":
    main()
