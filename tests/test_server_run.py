"""Whole runs by the command line with a server as the engine: tiny weights here, a process that plays the server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("httpx2")

from isara import align
from isara.backends import patience
from isara.readers import read_seeds
from serverproc import serving, start
from tiny import checkpoint

pytestmark = pytest.mark.usefixtures("unsynced")
KEY = "sesame-and-lily-1234567890"
SETS = (
    "rounds=1",
    "target.accepted=8",
    "target.batch=8",
    "split.least=6",
    "answers.demonstrations=2",
    "questions.demonstrations=3",
    "train.epochs=0.5",
    "train.rank=4",
    "train.checks=1",
    "model.embedder='hash'",
    # the numbers of weights drawn at random
    "filter.confidence=100",
    "filter.gain=-100",
)
SETS_FOR_CHECK = ("--set", "model.embedder='hash'", "--set", "split.least=6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("tiny")).folder


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    path = tmp_path_factory.mktemp("seeds") / "seeds.jsonl"
    rows = [{"question": s.question, "answer": s.answer} for s in read_seeds("misconceptions")[:18]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(patience, "_FIRST", 0.001)


@pytest.fixture
def words(seeds, folder, tmp_path):
    sets = [word for setting in SETS for word in ("--set", setting)]
    return ["run", str(seeds), "--model", str(folder), "--out", str(tmp_path / "run"), *sets]


def results(run):
    """What a run came to: everything but where the server stood and what clocks said."""
    files = ["seeds.jsonl", "heldout.jsonl"]
    files += [f"{arm}/{name}.jsonl" for arm in ("base", "retrieved", "round-1") for name in ("heldout", "answers")]
    files += [f"round-1/{name}.jsonl" for name in ("prompts", "completions", "scores", "kept", "dropped", "train")]
    return {name: (run / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def smooth(seeds, folder, tmp_path_factory):
    """What a run comes to where the server never fails."""
    out = tmp_path_factory.mktemp("smooth") / "run"
    said = []
    with serving("vllm", "--tokenizer", folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        align(
            str(seeds),
            model=str(folder),
            out=out,
            settings=[*SETS, f"server.url='{server.url}'"],
            watch=lambda event: said.append(event.data.get("text")),
        )
    return said, out


def test_the_run_says_and_notes_who_did_what(smooth):
    said, out = smooth
    assert any(
        text and text.endswith("(vllm) with 'tiny', asked with token ids (server.url names one).") for text in said
    )
    assert "The server takes tuned weights while it runs: it answers and scores for every arm." in said
    model = json.loads((out / "manifest.json").read_text())["model"]
    assert (model["engine"], model["served_model"], model["likelihoods"]) == ("server", "tiny", "server")
    assert "Model served_model" in (out / "report.html").read_text()
    assert json.loads((out / "summary.json").read_text())["generated"]["accepted"] == 8


def test_a_run_through_failures_ends_the_same_and_holds_no_key(isara, words, folder, smooth, monkeypatch, tmp_path):
    monkeypatch.setenv("ISARA_SERVER_KEY", KEY)
    faults = ["503", "429:0", "cut", "no json", "empty", "500", "hang up", "no text", "list"]
    with serving("vllm", "--tokenizer", folder, "--key", KEY) as server:
        server.faults(*(each for fault in faults * 4 for each in (fault, "stall:0")))
        done = isara(*words, "--server", f"{server.url}/v1")
        assert done.code == 0, done.err
        assert all(entry["key"] for entry in server.asked)
    assert results(tmp_path / "run") == results(smooth[1])
    # an error by the same way, in which the server shows what it was sent
    monkeypatch.setenv("ISARA_SERVER_KEY", KEY[::-1])
    with serving("vllm", "--tokenizer", folder, "--key", KEY) as server:
        refused = isara(*words, "--server", server.url)
    assert refused.code == 5
    assert "does not accept the key in ISARA_SERVER_KEY" in refused.err
    for key in (KEY, KEY[::-1]):
        assert key not in done.out + done.err + refused.out + refused.err
        assert [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()] == []


def test_a_run_whose_server_dies_goes_on_with_another(isara, words, folder, smooth, tmp_path):
    out = tmp_path / "run"
    server = start("vllm", "--tokenizer", folder)
    for requests, stage in ((40, "scoring, seeds alone"), (38, "round 1, drafting")):
        server.faults(*["stall:0"] * requests, "die")
        stopped = isara(*words, "--server", server.url, "--set", "server.retries=1")
        server.stop()
        assert stopped.code == 5
        assert "no usable answer in 2 tries" in stopped.err
        assert "start the same command again" in stopped.err
        assert re.findall(r"^(.*): started$", stopped.err, re.MULTILINE)[-1] == stage
        assert not (out / "summary.json").exists()
        server = start("vllm", "--tokenizer", folder)
    done = isara(*words, "--server", server.url)
    server.stop()
    assert done.code == 0, done.err
    assert results(out) == results(smooth[1])


def test_another_kind_of_server_is_another_engine(isara, words, folder, smooth, tmp_path):
    with serving("vllm", "--tokenizer", folder) as server:
        assert isara(*words, "--server", server.url).code == 0
    with serving("llamacpp", "--tokenizer", folder) as server:
        other = isara(*words, "--server", server.url)
    assert other.code == 3
    assert "likelihoods server → transformers" in other.err


def test_a_server_without_adapters_makes_a_run_too(isara, words, folder, tmp_path):
    with serving("llamacpp", "--tokenizer", folder) as server:
        few = ["answers.max_tokens=8", "target.accepted=4", "target.batch=4", "target.budget=1.0"]
        sets = [word for setting in few for word in ("--set", setting)]
        done = isara(*words, "--engine", "server", "--server", server.url, *sets)
        assert "tuned models answer with transformers on cpu" in done.err
        assert len([body for body in server.bodies() if body["temperature"] == 0.8]) == 4
    # weights drawn at random may answer nothing that could be kept
    assert done.code in (0, 4), done.err
    written = [json.loads(line) for line in (tmp_path / "run/round-1/completions.jsonl").read_text().splitlines()]
    assert {record["stage"] for record in written} == {"question", "answer"}


def test_asked_to_stop_it_stops_though_the_server_stalls(words, folder):
    with serving("llamacpp", "--tokenizer", folder) as server:
        server.faults(*["stall:0"] * 10, "stall:120*")
        process = subprocess.Popen(
            [sys.executable, "-m", "isara", *words, "--server", server.url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None and len(server.asked) < 12:
            time.sleep(0.05)
        begun = time.monotonic()
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert err.splitlines()[-1].startswith("isara: stopped.")
        assert time.monotonic() - begun < 30, "it waited for the server"


def test_a_check_asks_no_server(isara, seeds, folder):
    done = isara("check", seeds, "--model", folder, "--set", "server.url='http://127.0.0.1:9'", *SETS_FOR_CHECK)
    assert done.code == 0, done.err


def test_secrets_in_settings_are_refused_before_anything_is_written(isara, words, tmp_path):
    for flags in (["--server", "http://me:sesame@127.0.0.1:1"], ["--set", "server.key_variable=sk-sesame-1"]):
        refused = isara(*words, *flags)
        assert refused.code == 2
        assert "sesame" not in refused.out + refused.err
        assert not (tmp_path / "run").exists()
