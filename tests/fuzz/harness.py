"""
A coverage-guided fuzzer (atheris) for what reads files and values that somebody else wrote.

`make fuzz` runs it; `python tests/fuzz/harness.py TARGET SECONDS` runs one target. What a target does is allowed to do
is read or refuse with an IsaraError; anything else ends the run and leaves the input behind.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["isara", "json", "csv", "tomllib"]):
    import csv  # noqa: F401
    import json
    import tomllib  # noqa: F401

    from isara import columns, config, lineage, prompts, readers, replay, summary, textfiles  # noqa: F401
    from isara.errors import IsaraError
    from isara.rundir import parsed
    from isara.values import visible

FOLDER = Path(tempfile.mkdtemp(prefix="isara-fuzz-"))
NAMES = ("s.jsonl", "s.json", "s.csv", "s.tsv", "s.txt", "s.parquet", "s")
RUN = {
    "manifest.json": "manifest.json",
    "round.json": "round-1/round.json",
    "scores": "base/heldout.jsonl",
    "journal": "round-1/journal.jsonl",
    "kept": "round-1/kept.jsonl",
}


def seeds(data: bytes) -> None:
    """A seed file of any name and any bytes: exactly as many samples as records, or a refusal."""
    if not data:
        return
    path = FOLDER / NAMES[data[0] % len(NAMES)]
    path.write_bytes(data[1:])
    with contextlib.suppress(IsaraError):
        samples = readers.read_seeds(path)
        assert samples
        assert all(visible(sample.question) and visible(sample.answer) for sample in samples)
        assert len({sample.id for sample in samples}) == len(samples)


def records(data: bytes) -> None:
    """Records in memory: one sample for each, or a refusal."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(found, list):
        with contextlib.suppress(IsaraError):
            assert len(readers.from_records(found)) == len(found)


def settings(data: bytes) -> None:
    """A settings file and an override: settings in their ranges, or a refusal."""
    file, _, override = data.partition(b"\xff")
    path = FOLDER / "s.toml"
    path.write_bytes(file)
    with contextlib.suppress(IsaraError):
        chosen = config.load(path, [override.decode("utf-8", "replace")] if override else [])
        assert config.load_over(chosen.model_dump(), []) == chosen


def completions(data: bytes) -> None:
    """What a model wrote: a question or an answer with a letter or a digit in it, or none."""
    text = data.decode("utf-8", "replace")
    question, answer = prompts.parse_question(text), prompts.parse_answer(text)
    assert question is None or any(char.isalpha() for char in question)
    assert answer is None or any(char.isalnum() for char in answer)


def run_directory(data: bytes) -> None:
    """A run directory with one file of any bytes: a summary that can be written, or a refusal."""
    if not data:
        return
    names = list(RUN.values())
    path = FOLDER / "run" / names[data[0] % len(names)]
    before = path.read_bytes()
    path.write_bytes(data[1:])
    try:
        with contextlib.suppress(IsaraError):
            text = json.dumps(summary.summarise(FOLDER / "run"), allow_nan=False, ensure_ascii=False)
            parsed(text.encode("utf-8"))
        with contextlib.suppress(IsaraError):
            lineage.lineage(FOLDER / "run", "r1-00001")
    finally:
        path.write_bytes(before)


TARGETS = {each.__name__: each for each in (seeds, records, settings, completions, run_directory)}


def corpus(name: str) -> Path:
    """Leave inputs to begin with: the table of hostile cases for what reads files, and the shipped samples."""
    folder = FOLDER / f"corpus-{name}"
    folder.mkdir()
    sys.path.insert(0, str(Path(__file__).parent.parent / "hostile"))
    import files
    import values

    found: list[bytes] = []
    if name in ("seeds", "records"):
        for case in (*files.JSON, *files.ENCODINGS, *files.CSV, *files.CONTENT):
            if isinstance(case.content, bytes) and len(case.content) < 5000:
                found.append(  # noqa: PERF401
                    (b"" if name == "records" else bytes([NAMES.index(case.file)] if case.file in NAMES else [0]))
                    + case.content
                )
    elif name == "settings":
        found += [case.toml if isinstance(case.toml, bytes) else case.toml.encode() for case in values.FILES]
        found += [
            b"\xff" + case.words[1].encode("utf-8", "replace") for case in values.SETS if case.words[:1] == ("--set",)
        ]
        found.append(config.starter().encode())
    elif name == "run_directory":
        found += [bytes([place]) + (FOLDER / "run" / file).read_bytes() for place, file in enumerate(RUN.values())]
    else:
        found += [b"Question: Why?\nAnswer: Because.", b'1. "Why?" A: b', b"**Q 1:** x\n\nuser: y"]
    for number, content in enumerate(each for each in found if len(each) < 20_000):
        (folder / f"{number:04}").write_bytes(content)
    return folder


def main() -> None:
    """Fuzz one target for some seconds; crashes are left in the folder named by the third argument."""
    name, seconds, out = sys.argv[1], sys.argv[2], sys.argv[3]
    if name == "run_directory":
        from isara import align

        align("misconceptions", out=FOLDER / "run", model="scripted", settings=("rounds=1", "target.accepted=4"))
    arguments = [sys.argv[0], str(corpus(name)), f"-max_total_time={seconds}", f"-artifact_prefix={out}/{name}-"]
    atheris.Setup([*arguments, "-timeout=20", "-rss_limit_mb=3000", "-max_len=20000", "-verbosity=1"], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
