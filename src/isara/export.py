"""`isara export`: the tuned model as one ordinary checkpoint, and proof that it still says the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isara.config import recorded
from isara.errors import RunError, SettingsError
from isara.heldout import bare_prompt
from isara.manifest import arms_in
from isara.rundir import read_json, records_in, write_json, write_text
from isara.settings import Settings
from isara.summary import summarise

if TYPE_CHECKING:
    from isara.backends.checkpoints import Checkpoint
    from isara.backends.outside import Asked

AGREEMENT = 0.95
"""
Share of the tuned model's answer tokens that have to be the exported one's first choice, or within a rounding of it.

The same weights give 0.989 to 1 (135M, two domains, exported in 16 and in 32 bits), those of another arm up to 0.875.
"""
OF_8_BITS = 0.9
"""The same where the run wrote with weights in 8 bits: by their rounding alone some tokens come out otherwise."""
DRIFT = 0.02
"""Largest change of the mean held-out NLL per token (nats) that counts as the same model."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported checkpoint beside the run's own record of it, on the held-out samples."""

    folder: Path
    arm: str
    dtype: str
    """Number format of the weights."""
    samples: int
    first_choice: float
    """Share of the answer tokens recorded in the run that are the exported model's first choice."""
    agreement: float
    """The same with the tokens that rounding alone could have put in the place of the first choice."""
    word_for_word: int
    """Held-out answers that come out the same to the letter."""
    nll: float
    """Mean held-out NLL per token of the exported checkpoint, in nats."""
    recorded_nll: float
    """The same in the run."""
    rows: tuple[Mapping[str, Any], ...]
    """For each held-out sample: its id, both NLLs, its tokens and how many agree, both answers."""
    rounded: str = "float32"
    """The coarser of the number formats of the run and of the export."""
    eight_bits: bool = False
    """Whether the run wrote and scored with weights in 8 bits, which the export has not."""

    @property
    def same(self) -> bool:
        """Whether the exported model still says what the run's did."""
        least = OF_8_BITS if self.eight_bits else AGREEMENT
        return self.agreement >= least and abs(self.nll - self.recorded_nll) <= DRIFT

    @property
    def words(self) -> str:
        """The finding in a sentence."""
        verdict = "still says the same" if self.same else "does NOT say the same"
        return (
            f"The export, in {self.dtype}, {verdict}: {self.agreement:.1%} of the answer tokens of {self.arm} on "
            f"{self.samples} held-out samples are its first choice to within the rounding of {self.rounded} "
            f"({self.first_choice:.1%} outright), {self.word_for_word} answers are word for word the same, and the "
            f"mean NLL per token is {self.nll:.3f} (in the run {self.recorded_nll:.3f})."
            + (f" The run's weights were in 8 bits, so {OF_8_BITS:.0%} are asked for." if self.eight_bits else "")
        )


def export(run: Path, out: Path, *, arm: str | None = None, dtype: str = "auto") -> Exported:
    """
    Write an arm's tuned weights as a checkpoint that transformers, vLLM and others load, and ask it again.

    It is asked as its users will ask, by transformers alone; every answer is in `export.json` beside the weights.
    With `dtype` `auto`, weights in the model's own format that do not say the same are written in float32 instead.
    Raises RunError where the run has no such arm, `out` is there already, or the model is another one by now.
    """
    manifest = read_json(run / "manifest.json")
    settings = recorded(manifest["settings"], run / "manifest.json")
    chosen = arm or summarise(run)["best"]
    if chosen is None or chosen not in arms_in(run) or not (run / str(chosen) / "answers.jsonl").exists():
        raise RunError(f"{run}: no finished arm {chosen or ''!r} to export. `isara status {run}` lists the arms.")
    if chosen == "retrieved":
        raise RunError(f"{run}: 'retrieved' has no weights of its own; it is the untouched model shown demonstrations.")
    if out.exists():
        raise RunError(f"{out}: already there. Remove it, or give another folder.")
    checkpoint = checkpoint_of(manifest, settings)
    exported = write_and_ask(run, out, str(chosen), checkpoint, settings, dtype)
    if not exported.same and dtype == "auto" and exported.dtype != "float32":
        # A small change to a weight is below the spacing of a 16-bit format, and rounded away.
        shutil.rmtree(out)
        exported = write_and_ask(run, out, str(chosen), checkpoint, settings, "float32")
    write_json(
        out / "export.json", asdict(exported) | {"folder": out.name, "run": manifest["name"], "same": exported.same}
    )
    write_text(out / "README.md", card(manifest, exported, tuning(run, str(chosen)), summarise(run)["verdict"]))
    return exported


def checkpoint_of(manifest: Mapping[str, Any], settings: Settings) -> Checkpoint:
    """Return the base model of a run; raises RunError where its files are others by now."""
    if settings.model.name == "scripted":
        raise SettingsError("The scripted stand-in has no weights to export. Run with a real model first.")
    try:
        from isara.backends.checkpoints import locate
        from isara.backends.trust import Trust
    except ModuleNotFoundError as error:
        raise SettingsError(f'Exporting needs {error.name}. Run: pip install "isara[hf]"') from error
    asked = settings.model
    checkpoint = locate(asked.name, asked.revision, Trust(asked.allow_pickle, asked.trust_remote_code))
    if checkpoint.sha256 != manifest["model"]["sha256"]:
        raise RunError(
            f"{checkpoint.folder}: not the files that this run was made with (other hash). Bring those back, or start "
            "a run with the new ones."
        )
    return checkpoint


def write_and_ask(run: Path, out: Path, arm: str, checkpoint: Checkpoint, settings: Settings, dtype: str) -> Exported:
    """Write a checkpoint and compare what it says with the run's record."""
    from isara.backends.merged import write_merged
    from isara.backends.outside import coarser, hear

    tuned = None if arm == "base" else run / arm / "adapter"
    written = write_merged(checkpoint, tuned, out, dtype)
    recorded = records_in(run / arm / "heldout.jsonl")
    model = read_json(run / "manifest.json")["model"]
    asked = questions(records_in(run / arm / "answers.jsonl"), chat=model["chat"])
    rounded = coarser(model["dtype"], written)
    heard = hear(out, asked, max_tokens=settings.answers.max_tokens, device=settings.model.device, rounded=rounded)
    rows = tuple(
        {
            "id": record["id"],
            "nll": round(now.nll, 6),
            "recorded_nll": record["nll"],
            "tokens": now.tokens,
            "first_choice": now.first,
            "agreeing": now.agreeing,
            "answer": now.answer,
            "recorded_answer": item.said,
        }
        for record, item, now in zip(recorded, asked, heard, strict=True)
    )
    return Exported(
        folder=out,
        arm=arm,
        dtype=written,
        samples=len(rows),
        first_choice=share(rows, "first_choice"),
        agreement=share(rows, "agreeing"),
        word_for_word=sum(row["answer"] == row["recorded_answer"] for row in rows),
        nll=sum(row["nll"] for row in rows) / len(rows),
        recorded_nll=sum(row["recorded_nll"] for row in rows) / len(rows),
        rows=rows,
        rounded=rounded,
        # Among the model's facts where it was chosen for the CPU, in the settings where a person asked for it.
        eight_bits="int8" in (model.get("weights"), settings.model.weights),
    )


def share(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return which share of all tokens a count in the rows comes to."""
    return float(sum(row[name] for row in rows) / max(1, sum(row["tokens"] for row in rows)))


def questions(answers: Sequence[Mapping[str, Any]], *, chat: bool) -> list[Asked]:
    """Return an arm's recorded answers as questions to ask again."""
    from isara.backends.outside import Asked

    return [
        Asked(
            bare_prompt(record["question"], chat=chat),
            record["question"],
            record["reference"],
            record["answer"],
            record["finished"],
        )
        for record in answers
    ]


def tuning(run: Path, arm: str) -> str:
    """Say what an arm was tuned on."""
    if arm == "base":
        return "not tuned: no arm of the run was better"
    found = read_json(run / arm / "training.json")
    generated = f" and {found['generated']} generated ones" if found["generated"] else ""
    return f"tuned on {found['seeds']} samples{generated}"


def card(manifest: Mapping[str, Any], exported: Exported, tuned: str, verdict: Sequence[str]) -> str:
    """Return a short model card: what this is, how to ask it, and what the run showed."""
    chat = manifest["model"]["chat"]
    ask = (
        "a conversation through its chat template; without a system prompt none is added, as in tuning"
        if chat
        else "plain text: a line `Question: ...` and then `Answer:`"
    )
    sentences = "\n".join(f"- {sentence}" for sentence in verdict)
    return (
        f"# {manifest['name']}: {exported.arm}\n\n"
        f"{manifest['model']['name']}, {tuned}, by isara {manifest['isara']}. Ask it with {ask}.\n\n"
        f"What the run showed:\n\n{sentences}\n\n"
        f"Asked with transformers alone, on the run's {exported.samples} held-out samples. {exported.words}\n\n"
        "Generated training data can be false in the right style; read it before you rely on this model. The base "
        "model's licence applies.\n"
    )
