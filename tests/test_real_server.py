"""
The real lane with a real server: llama.cpp with the demo's model, on this machine; two minutes.

    pip install xllamacpp
    pytest -m real tests/test_real_server.py

It is 34 MB to fetch, and so not among what the tests need; without it these are skipped. With
ISARA_TEST_SERVER=http://127.0.0.1:8000 another server of that model takes its place, such as vLLM.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("torch")
pytest.importorskip("httpx2")

from isara.backends.checkpoints import embedded_gguf, embedded_minilm, locate
from isara.backends.engines import open_engine
from isara.config import load
from isara.errors import BackendError
from isara.heldout import bare_prompt
from isara.protocols import Sampling
from isara.readers import read_seeds

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

SERVE = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 4, 8192, 2
server = xllamacpp.Server(params)
while True:
    time.sleep(60)
"""
SETTINGS = (
    "rounds=1",
    "target.accepted=4",
    "target.batch=8",
    "target.budget=4.0",
    "split.least=6",
    "split.heldout=0.1",
    "questions.max_tokens=24",
    "answers.max_tokens=32",
    "answers.demonstrations=2",
    "train.epochs=0.5",
    "train.checks=1",
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    given = os.environ.get("ISARA_TEST_SERVER")
    if given:
        yield given
        return
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("no server to test with: `pip install xllamacpp`, or name one in ISARA_TEST_SERVER")
    try:
        model = embedded_gguf()
        embedded_minilm()
    except BackendError as error:
        pytest.skip(str(error))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path_factory.mktemp("server") / "log.txt"
    with (
        path.open("w") as log,
        subprocess.Popen([sys.executable, "-c", SERVE, model, str(port)], stdout=log, stderr=log) as process,
    ):
        address = f"http://127.0.0.1:{port}"
        while not is_up(address):
            assert process.poll() is None, f"the server did not start: {path.read_text()[-2000:]}"
            time.sleep(0.2)
        yield address
        process.kill()


def is_up(url):
    try:
        urllib.request.urlopen(f"{url}/v1/models", timeout=5).close()
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


@pytest.fixture(scope="module")
def engine(url):
    return open_engine(locate("smollm2-135m"), load(None, [f"server.url={url}"]))


def test_it_is_asked_with_token_ids_and_draws_by_seed(engine):
    assert engine.facts["prompts"] == "token ids"
    assert engine.model.line.served.draws
    assert engine.model.line.served.repeats


def test_it_writes_what_the_same_weights_write_here(engine):
    samples = read_seeds("misconceptions")[:8]
    prompts = [bare_prompt(sample.question, chat=True) for sample in samples]
    there = engine.model.complete(prompts, Sampling(6), seeds=[0] * 8)
    here = engine.model.local.complete(prompts, Sampling(6), seeds=[0] * 8)
    # llama.cpp computes with other number formats, so that close calls come out otherwise
    assert sum(one.text == other.text for one, other in zip(there, here, strict=True)) >= 6
    assert [one.tokens for one in there] == [6] * 8


def test_the_same_seed_brings_the_same_question_and_another_one_another(engine):
    prompt = "Question: Is the night short?\nQuestion: Do goldfish forget?\nQuestion:"
    drawn = engine.model.complete([prompt] * 6, Sampling(24, 0.8, 0.95, ("\n",)), seeds=[1, 2, 3, 4, 5, 1])
    assert len({done.text for done in drawn}) > 2
    assert drawn[0].text == drawn[5].text
    assert not any("\n" in done.text for done in drawn)


def test_its_likelihoods_are_those_of_the_model_here(engine):
    samples = read_seeds("misconceptions")[:6]
    pairs = [(bare_prompt(sample.question, chat=True), sample.answer) for sample in samples]
    there, here = engine.model.score(pairs), engine.model.local.score(pairs)
    assert [one.tokens for one in there] == [other.tokens for other in here]
    assert [one.nll for one in there] == pytest.approx([other.nll for other in here], abs=0.15)


def test_a_whole_run(url, tmp_path):
    seeds = tmp_path / "seeds.jsonl"
    rows = [{"question": s.question, "answer": s.answer} for s in read_seeds("misconceptions")[:24]]
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    words = [sys.executable, "-m", "isara", "run", str(seeds), "--out", str(tmp_path / "run"), "--server", url, *sets]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run/manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["engine"] == "server"
    assert manifest["model"]["server"] == url
    answers = (tmp_path / "run/base/answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 6
    summary = json.loads((tmp_path / "run/summary.json").read_text(encoding="utf-8"))
    means = {row["arm"]: row["mean"] for row in summary["heldout"]["arms"]}
    assert means["seeds-only"] < means["base"], "tuning on the seeds makes their like likelier"
