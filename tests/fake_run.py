"""A complete run directory without a model: made-up numbers in the real shape (docs/run-directory.md)."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isara.settings import Settings
from isara.stats import compare, describe, mean_interval

Row = dict[str, Any]

TOPICS = (
    "rye starter",
    "wheat sourdough",
    "focaccia",
    "a baguette",
    "brioche",
    "ciabatta",
    "pumpernickel",
    "pita",
    "a milk loaf",
    "bagels",
    "challah",
    "a seeded loaf",
    "spelt bread",
    "cornbread",
    "pretzels",
    "naan",
)
TROUBLES = (
    ("spreads flat in the oven", "It proved too long or was shaped too loosely. Shape it tighter and bake it sooner."),
    ("smells of acetone", "It is hungry. Feed it twice a day at room temperature until the smell is mild again."),
    ("has a gummy crumb", "It was cut too warm or baked too short. Wait two hours and bake ten minutes longer."),
    ("will not rise", "The dough is too cold or the leaven too young. Keep it warm and wait until it doubles."),
    ("tears when stretched", "The gluten has not rested. Cover the dough and try again after twenty minutes."),
    ("burns underneath", "The stone is hotter than the air. Put a tray under it for the last half of the bake."),
)
FORMS = ("Why is it that {topic} {trouble}?", "What do I do when {topic} {trouble}?", "My {topic} {trouble}. What now?")
HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror='window.hacked=2'> and <b>bold</b>",
    "abc\u202egnp.exe\u202c \x1b[31mred\x1b[0m \x00 nul",
    "<!-- --><svg/onload=window.hacked=3>\u2028next\u2029line",
    "]]></style><a href='javascript:window.hacked=4'>click</a> ![x](http://example.invalid/x.png) | cell",
    "مرحبا، كيف أخبز الخبز؟ 👩‍🍳 \u200bzero",
    "x" * 600,
)
RULES = ("parse", "question_words", "heldout_rouge", "heldout_cosine", "rouge", "cosine", "no_answer", "truncated")
RULES += ("answer_words", "repetition", "echo", "copied", "confidence", "gain", "surplus")
ARMS = ("base", "retrieved", "seeds-only")
LABELS = {
    "base": "the untouched model",
    "retrieved": "the untouched model with retrieved demonstrations",
    "seeds-only": "tuning on the seeds alone",
}
SHIFT = {"base": 0.0, "retrieved": 0.22, "seeds-only": 0.44, "round-1": 0.5, "round-2": 0.34}
VARIETY = {"distinct_1": 0.41, "distinct_2": 0.74, "distinct_3": 0.86, "self_bleu": 0.28, "spread": 0.62}
VARIETY |= {"to_seeds": 0.31, "copy_rate": 0.0, "question_words": 9.8, "answer_words": 17.5}
VERDICT = (
    "Round 1 is the winner: tuned on 40 seeds and what the loop added, the model finds the held-out answers likelier.",
    "It is better than the base model by 0.45 nats per token on 16 held-out samples.",
    "Against tuning on the seeds alone, 16 samples cannot tell the two apart.",
)


def build_run(
    folder: Path,
    *,
    rounds: int = 2,
    seeds: int = 40,
    heldout: int = 16,
    test: int = 0,
    drafted: int = 120,
    best: str = "round-1",
    hostile: bool = True,
    verdict: Iterable[str] = VERDICT,
    words: int = 1,
) -> Path:
    """Write a finished run into `folder` and return it; `words` makes answers that many times as long."""
    rng = random.Random(7)
    samples = {
        kind: [
            {"id": f"{kind.removesuffix('s')}-{n}", **_pair(rng), "round": 0, "parents": []} for n in range(1, size + 1)
        ]
        for kind, size in (("seeds", seeds), ("heldout", heldout), ("test", test))
    }
    for kind, rows in samples.items():
        if rows:
            write_rows(folder / f"{kind}.jsonl", rows)
    arms = [*ARMS, *(f"round-{n}" for n in range(1, rounds + 1))]
    for arm in arms:
        _arm(folder / arm, arm, samples, rng, hostile)
    pool = list(samples["seeds"])
    facts = []
    for number in range(1, rounds + 1):
        candidates = [_candidate(number, n, pool, rng, hostile, words) for n in range(1, drafted + 1)]
        facts.append(_round(folder / f"round-{number}", number, candidates, pool, samples["heldout"], rng))
    write_object(folder / "manifest.json", _manifest(hostile))
    told = {"best": best, "verdict": list(verdict), "adapter": None if best == "base" else f"{best}/adapter"}
    write_object(folder / "summary.json", _summary(folder, arms, samples, facts) | told)
    return folder


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSONL as isara does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def write_object(path: Path, value: Row) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8", newline="\n")


def read_object(path: Path) -> Row:
    return json.loads(path.read_text(encoding="utf-8"))


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _pair(rng: random.Random) -> dict[str, str]:
    trouble, answer = rng.choice(TROUBLES)
    return {"question": rng.choice(FORMS).format(topic=rng.choice(TOPICS), trouble=trouble), "answer": answer}


def _arm(folder: Path, arm: str, samples: dict[str, list[Row]], rng: random.Random, hostile: bool) -> None:
    for kind in ("heldout", "test"):
        hard = random.Random(3)
        rows = []
        for sample in samples[kind]:
            nll = max(0.2, 1.4 + 1.6 * hard.random() - SHIFT.get(arm, 0.4) + rng.gauss(0, 0.16))
            shown = None if arm == "retrieved" else nll * 0.9
            rows.append({"id": sample["id"], "nll": nll, "tokens": 24, "shown_nll": shown})
        if rows:
            write_rows(folder / f"{kind}.jsonl", rows)
    answers = []
    for n, sample in enumerate(samples["heldout"]):
        text = sample["answer"] if rng.random() < 0.4 + SHIFT.get(arm, 0.4) else rng.choice(TROUBLES)[1] * 2
        if hostile and n < len(HOSTILE) and arm == "round-1":
            text = HOSTILE[n]
        told = {"question": sample["question"], "reference": sample["answer"], "answer": text, "finished": n % 5 != 4}
        answers.append({"id": sample["id"], **told})
    write_rows(folder / "answers.jsonl", answers)
    if arm not in ("base", "retrieved"):
        write_object(folder / "training.json", _training(arm, samples, rng))
    write_object(folder / "done.json", {"seconds": {"train": 61.5, "score": 4.2, "answer": 8.8}})


def _training(arm: str, samples: dict[str, list[Row]], rng: random.Random) -> Row:
    steps, curve = 48, []
    for step in range(1, steps + 1):
        level = 2.2 - SHIFT.get(arm, 0.4) * min(1.0, step / 30) + 0.006 * max(0, step - 30)
        heldout = [level + rng.gauss(0, 0.02) for _ in samples["heldout"]] if step % 6 == 0 else None
        curve.append({"step": step, "loss": 0.9 + 1.7 * math.exp(-step / 12) + rng.gauss(0, 0.08), "heldout": heldout})
    seeds, generated = len(samples["seeds"]), 0 if arm == "seeds-only" else 96
    return {"steps": steps, "best_step": 30, "start": "base", "curve": curve, "dropped_overlong": []} | {
        "examples": seeds + generated,
        "seeds": seeds,
        "generated": generated,
    }


def _candidate(number: int, n: int, pool: list[Row], rng: random.Random, hostile: bool, words: int) -> Row:
    pair = _pair(rng)
    if hostile and n <= 2 * len(HOSTILE):
        pair = {"question": f"Bad {n}: {HOSTILE[n % len(HOSTILE)]}", "answer": HOSTILE[(n + 3) % len(HOSTILE)]}
    pair["answer"] = " ".join([pair["answer"]] * words)
    scores = {"question_words": 9, "answer_words": 18 * words, "repetition": 0.02, "echo": 0.21, "cosine": 0.8}
    scores |= {"rouge": round(rng.random(), 6), "confidence": 1.2 + rng.random(), "gain": 0.3}
    parents = [sample["id"] for sample in rng.sample(pool, 5)]
    return {"id": f"r{number}-{n:05d}", **pair, "round": number, "parents": parents, "scores": scores}


def _round(
    folder: Path, number: int, candidates: list[Row], pool: list[Row], heldout: list[Row], rng: random.Random
) -> Row:
    kept: list[Row] = []
    dropped: list[Row] = []
    for row in candidates:
        if rng.random() < 0.6:
            parents = {"question_parents": row["parents"][:3], "answer_parents": row["parents"][2:]}
            kept.append({**row, **parents})
        else:
            near = {"rouge": rng.choice(pool)["id"], "heldout_rouge": heldout[0]["id"]}
            dropped.append(_drop(row, rng.choice(RULES), near))
    write_rows(folder / "kept.jsonl", kept)
    write_rows(folder / "dropped.jsonl", dropped)
    pool += kept
    facts = _facts(number, len(candidates), kept, dropped) | {"pool": len(pool)}
    write_object(folder / "round.json", facts)
    return facts


def _drop(row: Row, rule: str, neighbours: dict[str, str]) -> Row:
    near = neighbours.get(rule)
    told = {"rule": rule, "reason": f"the rule {rule} says no", "score": None, "threshold": None, "nearest": near}
    if near:
        told |= {"reason": f"ROUGE-L 0.83 with {near}, more than 0.7", "score": 0.8312345, "threshold": 0.7}
    if rule == "parse":
        told |= {"answer": None, "scores": {}}
    return row | told


def _facts(number: int, drafted: int, kept: list[Row], dropped: list[Row]) -> Row:
    funnel, left = [], drafted
    for rule in RULES:
        gone = sum(row["rule"] == rule for row in dropped)
        left -= gone
        funnel.append({"rule": rule, "left": left, "dropped": gone})
    narrower = {key: value * (1 - 0.16 * number) for key, value in VARIETY.items()}
    narrower |= {"self_bleu": 0.28 + 0.09 * number, "copy_rate": 0.06 * number}
    return {
        "round": number,
        "generator": "base" if number == 1 else "round-1",
        "target": len(kept),
        "accepted": len(kept),
        "drafted": drafted,
        "budget": 4 * len(kept),
        "ended": "target",
        "reason": f"{len(kept)} samples were wanted and accepted.",
        "parse_rate": {"question": 0.97, "answer": 0.94},
        "adapted": ["Batch 2 showed 4 demonstrations, because 41 % of batch 1 could be read."] if number == 1 else [],
        "funnel": funnel,
        "diversity": {**narrower, "seeds": VARIETY},
        "kept": number == 1,
        "why": "Mean held-out NLL fell by 0.448." if number == 1 else "Mean held-out NLL rose; the best stays.",
    }


def _manifest(hostile: bool) -> Row:
    settings = Settings(rounds=3).model_dump()
    settings["filter"]["rouge"] = 0.65
    settings["model"]["name"] = "<script>window.hacked=5</script>" if hostile else "smollm2-135m"
    return {
        "isara": "0.1.0",
        "python": "3.12.4",
        "platform": "Linux-6.1-x86_64",
        "packages": {"torch": "2.9.1", "numpy": "2.1.0"},
        "created": "2026-01-02T03:04:05Z",
        "command": ["isara", "run", "seeds.jsonl", "--out", "runs/bread"],
        "name": "bread",
        "settings": settings,
        "model": {"name": "smollm2-135m", "revision": None, "sha256": "ab" * 32, "chat": True},
        "embedder": {"name": "minilm", "sha256": "cd" * 32},
        "inputs": {"seeds": {"path": "seeds.jsonl", "sha256": "ef" * 32, "samples": 56}, "heldout": None, "test": None},
        "seed": 17,
    }


def _summary(folder: Path, arms: list[str], samples: dict[str, list[Row]], facts: list[Row]) -> Row:
    drafted, accepted = (sum(fact[key] for fact in facts) for key in ("drafted", "accepted"))
    stages = {"generate": 240.1, "train": 188.0, "score": 52.2, "answer": 30.0, "embed": 2.1}
    return {
        "name": "bread",
        "status": "complete",
        "model": "smollm2-135m",
        "embedder": "minilm",
        "isara": "0.1.0",
        "stopped": "Round 2 did not lower the held-out NLL, and patience is 1.",
        "heldout": _evidence(folder, "heldout", arms, "split"),
        "test": _evidence(folder, "test", arms, "test.jsonl") if samples["test"] else None,
        "rounds": facts,
        "generated": {"candidates": drafted, "accepted": accepted},
        "seconds": {"total": 512.4, "by_stage": stages},
    }


def _evidence(folder: Path, kind: str, arms: list[str], source: str) -> Row:
    values = {arm: [row["nll"] for row in read_rows(folder / arm / f"{kind}.jsonl")] for arm in arms}
    told = []
    for arm, nll in values.items():
        mean = mean_interval(nll)
        numbers = {"n": mean.n, "mean": mean.mean, "low": mean.low, "high": mean.high, "values": nll}
        told.append({"arm": arm, "label": _label(arm), **numbers})
    pairs = [(arm, "base") for arm in arms if arm != "base"]
    pairs += [("round-1", against) for against in ("seeds-only", "retrieved") if "round-1" in arms]
    differences = []
    for arm, against in pairs:
        found = compare(values[against], values[arm], names=(against, arm))
        said = describe(found, arm_label=_label(arm), against_label=_label(against))
        fields = {key: value for key, value in asdict(found).items() if key != "confidence"}
        differences.append({**fields, "words": said})
    return {"n": len(values["base"]), "source": source, "arms": told, "differences": differences}


def _label(arm: str) -> str:
    return LABELS.get(arm, arm.replace("-", " "))
