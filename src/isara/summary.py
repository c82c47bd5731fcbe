"""What a run showed: scores, paired differences and a verdict in plain words, from the run directory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isara import diversity, gate, stats
from isara.errors import RunError
from isara.manifest import ARMS
from isara.rundir import Events, read_json, records_in, remedy, write_json
from isara.spent import added_up

_LABELS = {
    "base": "the untouched model",
    "retrieved": "the untouched model with retrieved demonstrations",
    "seeds-only": "tuning on the seeds alone",
}


def summarise(run: Path) -> dict[str, Any]:
    """
    Return what `summary.json` is to hold, for a run that is complete or one at work; nothing is written.

    Raises RunError where the directory holds no run, or a damaged one.
    """
    manifest = read_json(run / "manifest.json")
    confidence = float(manifest["settings"]["gate"]["confidence"])
    rounds = complete_rounds(run, int(manifest["settings"]["rounds"]))
    arms = [arm for arm in (*ARMS, *(f"round-{r['round']}" for r in rounds)) if (run / arm / "done.json").exists()]
    heldout = table(run, arms, "heldout.jsonl", source_of(manifest, "heldout"), rounds, confidence)
    tested = [arm for arm in arms if (run / arm / "test.jsonl").exists()]
    test = table(run, tested, "test.jsonl", source_of(manifest, "test"), rounds, confidence) if tested else None
    best = best_arm(heldout, rounds)
    finished = is_finished(arms, rounds, manifest["settings"])
    return {
        "name": manifest["name"],
        "status": "complete" if finished else "running",
        "model": manifest["model"]["name"],
        "embedder": manifest["embedder"]["name"],
        "isara": manifest["isara"],
        "best": best,
        "adapter": None if best in (None, "base") else f"{best}/adapter",
        "stopped": stopped(rounds, manifest["settings"], finished=finished),
        "verdict": verdict(heldout, test, rounds, best) if finished else ["The run is not complete yet."],
        "heldout": heldout,
        "test": test,
        "rounds": rounds,
        "generated": {
            "candidates": sum(r["drafted"] for r in rounds),
            "accepted": sum(r["accepted"] for r in rounds),
        },
        "seconds": seconds(run),
    }


def write_summary(run: Path) -> dict[str, Any]:
    """Write `summary.json` into a run directory, and return it."""
    found = summarise(run)
    write_json(run / "summary.json", found)
    return found


def label(arm: str) -> str:
    """Return what a person calls an arm."""
    return _LABELS.get(arm, arm.replace("-", " "))


def complete_rounds(run: Path, most: int) -> list[dict[str, Any]]:
    """Return `round.json` of every complete round up to the last one asked for, in order."""
    found = []
    for number in range(1, most + 1):
        folder = run / f"round-{number}"
        if not (folder / "done.json").exists():
            break
        found.append(read_json(folder / "round.json"))
    return found


def source_of(manifest: Mapping[str, Any], part: str) -> str:
    """Return where samples came from: a path, or `split` for those set aside from the seeds."""
    entry = manifest["inputs"].get(part)
    return str(entry["path"]) if entry else "split"


def is_finished(arms: Sequence[str], rounds: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> bool:
    """Whether nothing is left to do: every baseline is there, and the rounds ended."""
    if not set(ARMS) <= set(arms):
        return False
    return len(rounds) >= int(settings["rounds"]) or failures_at_end(rounds) >= int(settings["gate"]["patience"])


def failures_at_end(rounds: Sequence[Mapping[str, Any]]) -> int:
    """Return how many rounds at the end were not kept."""
    count = 0
    for entry in reversed(rounds):
        if entry["kept"]:
            break
        count += 1
    return count


def stopped(rounds: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], *, finished: bool) -> str:
    """Say why the rounds ended."""
    if not finished:
        return "The run has not ended."
    failures = failures_at_end(rounds)
    if failures >= settings["gate"]["patience"]:
        return gate.stopped(len(rounds), failures)
    if not rounds:
        return "No round was asked for."
    return f"All {len(rounds)} rounds asked for were run." if len(rounds) > 1 else "The 1 round asked for was run."


def table(
    run: Path,
    arms: Sequence[str],
    file: str,
    source: str,
    rounds: Sequence[Mapping[str, Any]],
    confidence: float,
) -> dict[str, Any]:
    """Return the scores of the arms on one set of samples, and the differences that matter."""
    values = {arm: scores_in(run / arm / file) for arm in arms}
    refuse_unpaired(run, values, file)
    rows = []
    for arm in arms:
        interval = stats.mean_interval(values[arm], confidence=confidence)
        rows.append({"arm": arm, "label": label(arm)} | asdict(interval) | {"values": values[arm]})
    tuned = [arm for arm in arms if arm not in ("base", "retrieved")]
    pairs = [("retrieved", "base"), *((arm, "base") for arm in tuned)]
    for entry in rounds:
        arm = f"round-{entry['round']}"
        pairs += [(arm, "seeds-only"), (arm, "retrieved")]
        pairs += [(arm, f"round-{entry['round'] - 1}")] if entry["round"] > 1 else []
    pairs += [("seeds-only", "retrieved")]
    return {
        "n": len(next(iter(values.values()), [])),
        "source": source,
        "arms": rows,
        "differences": [
            difference(values, arm, against, confidence)
            for arm, against in pairs
            if arm in values and against in values
        ],
    }


def scores_in(path: Path) -> list[float]:
    """Return the scores of an arm; raises RunError where there are none."""
    found = [float(record["nll"]) for record in records_in(path)]
    if not found:
        raise RunError(f"{path}: no scores here. {remedy(path)}")
    return found


def refuse_unpaired(run: Path, values: Mapping[str, Sequence[float]], file: str) -> None:
    """Raise RunError where two arms have scores of different numbers of samples: they cannot be compared."""
    counts = {arm: len(scores) for arm, scores in values.items()}
    usual = max(counts.values(), default=0)
    for arm, count in counts.items():
        if count != usual:
            path = run / arm / file
            raise RunError(f"{path}: scores of {count} samples, and {usual} in another arm. {remedy(path)}")


def difference(values: Mapping[str, Sequence[float]], arm: str, against: str, confidence: float) -> dict[str, Any]:
    """Return a paired difference with its sentence; above zero, `arm` is better."""
    found = stats.compare(values[against], values[arm], names=(against, arm), confidence=confidence)
    words = stats.describe(found, arm_label=label(arm), against_label=label(against))
    return asdict(found) | {"words": words}


def best_arm(heldout: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the arm whose weights are the result: the lowest mean among the untouched model and what was kept."""
    kept = {"base", "seeds-only", *(f"round-{entry['round']}" for entry in rounds if entry["kept"])}
    rows = [row for row in heldout["arms"] if row["arm"] in kept]
    return str(min(rows, key=lambda row: row["mean"])["arm"]) if rows else None


def verdict(
    heldout: Mapping[str, Any],
    test: Mapping[str, Any] | None,
    rounds: Sequence[Mapping[str, Any]],
    best: str | None,
) -> list[str]:
    """Return plain sentences: the winner first, then how sure that is, then what to keep in mind."""
    judged = test or heldout
    said = [winner(judged, rounds)]
    if best is not None and best != "base":
        said += [words(judged, best, against) for against in ("base", "seeds-only", "retrieved") if against != best]
    said += [keeps(best, winning_arm(judged), rounds)]
    if test is None:
        said.append(
            f"These {heldout['n']} held-out samples also chose the training steps and the round, so they flatter what "
            "was tuned; give --test FILE with samples that nothing was chosen by for an unbiased figure."
        )
    else:
        said.append(
            f"These figures are from the {test['n']} test samples, by which nothing was chosen; the "
            f"{heldout['n']} held-out samples chose the training steps and the round."
        )
    return [*(sentence for sentence in said if sentence), *diversity.warnings([r["diversity"] for r in rounds])]


def winner(judged: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence that names the arm with the best mean, and says so when it is a baseline."""
    rows = sorted(judged["arms"], key=lambda row: row["mean"])
    first = rows[0]
    score = f"{first['mean']:.3f} nats per token on {judged['n']} samples, lower is better"
    if not first["arm"].startswith("round-"):
        if not rounds:
            tail = "no round was run."
        elif first["arm"] == "seeds-only":
            tail = "no round of the loop was better."
        elif first["arm"] == "retrieved":
            tail = "no tuning was better than showing the seeds to the model at every question."
        else:
            tail = "nothing that was tried was better."
        return f"A baseline wins: {first['label']} ({score}); {tail}"
    baselines = [row for row in rows[1:] if not row["arm"].startswith("round-")]
    rival = baselines[0]
    # A baseline with a worse mean can still be the one that cannot be told apart, where its scores vary more.
    unsure = next((row for row in baselines if not is_better(judged, first["arm"], row["arm"])), None)
    if unsure is not None:
        which = "the best baseline" if unsure is rival else "one baseline"
        return (
            f"{first['label'].capitalize()} has the best mean ({score}), but {judged['n']} samples cannot tell it from "
            f"{which}, {unsure['label']} ({unsure['mean']:.3f})."
        )
    second = f"{rival['label']} ({rival['mean']:.3f})"
    return f"{first['label'].capitalize()} wins ({score}): better than every baseline, the best of which is {second}."


def find(judged: Mapping[str, Any], arm: str, against: str) -> dict[str, Any] | None:
    """Return the difference of two arms, where it was computed."""
    return next((d for d in judged["differences"] if d["arm"] == arm and d["against"] == against), None)


def is_better(judged: Mapping[str, Any], arm: str, against: str) -> bool:
    """Whether the whole confidence interval of a difference is on the side of `arm`."""
    found = find(judged, arm, against)
    return found is not None and found["low"] is not None and found["low"] > 0


def words(judged: Mapping[str, Any], arm: str, against: str) -> str:
    """Return the sentence of a difference, where it was computed."""
    found = find(judged, arm, against)
    return str(found["words"]) if found else ""


def winning_arm(judged: Mapping[str, Any]) -> str:
    """Return the arm with the lowest mean."""
    return str(min(judged["arms"], key=lambda row: row["mean"])["arm"])


def keeps(best: str | None, winning: str, rounds: Sequence[Mapping[str, Any]]) -> str:
    """Say which weights are the result, and why they are not the winner's where a round won and is not the result."""
    won = next((entry for entry in rounds if winning == f"round-{entry['round']}"), None)
    if won is not None and winning != best:
        ahead = f"by them it is ahead of {label(winning)}."
        found = ahead if won["kept"] else won.get("why", f"{label(winning)} was not kept.")
        return f"The result is {label(best or 'base')} all the same: the held-out samples decide, and {found}"
    if best in (None, "base"):
        return "The result is the untouched model: no tuned weights were better on the held-out samples."
    return f"The result is {label(str(best))}: its weights are in {best}/adapter."


def seconds(run: Path) -> dict[str, Any]:
    """Return how long each stage took, added up over every time the run was started."""
    stages = added_up(event for event in Events(run / "events.jsonl").read() if event.get("kind") == "stage")
    by_stage = {name: round(took, 2) for name, took in stages.items()}
    return {"total": round(sum(by_stage.values()), 2), "by_stage": by_stage}
