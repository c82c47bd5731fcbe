"""Gated layers in OpenVINO: their three products stay three, on any CPU and however many threads there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
ov = pytest.importorskip("openvino")

from isara.backends.openvino_export import exported  # noqa: E402
from isara.backends.openvino_graph import Runner, read_graph  # noqa: E402
from tiny import hashed  # noqa: E402

LARGE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
"""Large enough that OpenVINO would make one operation of a gated layer."""
FORMATS = [("bf16", "BF16"), ("f32", "FP32")]
NEAR = {"bf16": 0.05, "f32": 1e-3}
"""How far logits may differ where threads share a product in another way; one of these models' is about 3."""

SCORE = """
import json, os, sys
from pathlib import Path
if sys.argv[2]:
    os.sched_setaffinity(0, json.loads(sys.argv[2]))
from isara.backends.openvino_graph import Batch, Runner, read_graph
runner = Runner(read_graph(Path(sys.argv[1]), mapped=True), sys.argv[3])
runner.use(runner.new_pages(2))
batch = Batch()
batch.add(list(range(5, 30)), 0, [0], range(25))
print(json.dumps([runner.compiled.get_property("INFERENCE_NUM_THREADS"), runner.run(batch).tolist()]))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISARA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield exported(hashed(tmp_path_factory.mktemp("models") / "gated", **LARGE))


@pytest.fixture(params=FORMATS, ids=[name for name, _ in FORMATS])
def number_format(request):
    name, mark = request.param
    if mark not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip(f"this CPU does not compute in {name}")
    return name


def kinds_of(graph):
    return [node.get_type_name() for node in graph.get_ops()]


def test_the_factors_of_a_gate_are_multiplied_as_they_are(file):
    graph = read_graph(file, mapped=False)
    gates = [node for node in graph.get_ops() if node.get_type_name() == "Multiply" and has_activation(node)]
    assert len(gates) == kinds_of(graph).count("Swish") == 2
    assert {node.get_attributes()["auto_broadcast"] for node in gates} == {"none"}


def has_activation(node):
    return any(value.get_node().get_type_name() == "Swish" for value in node.input_values())


def test_the_three_products_of_a_gated_layer_are_computed_as_three(file, number_format):
    compiled = Runner(read_graph(file, mapped=False), number_format).compiled
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()]
    assert "LLMMLP" not in kinds
    assert kinds.count("FullyConnected") == 2 * 7 + 1


@pytest.mark.skipif(sys.platform != "linux", reason="no cores to choose here")
def test_on_one_core_the_same_is_computed(file, number_format):
    """With one thread the operation that OpenVINO would make of a gated layer ends the process on CPUs with AMX."""
    one = sorted(os.sched_getaffinity(0))[:1]
    (threads, alone), (_, together) = (score(file, cores, number_format) for cores in (one, None))
    assert threads == 1
    assert np.array(alone) == pytest.approx(np.array(together), abs=NEAR[number_format])
    assert np.abs(alone).max() > 1


def score(file: Path, cores: list[int] | None, number_format: str):
    words = [sys.executable, "-c", SCORE, str(file), json.dumps(cores) if cores else "", number_format]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return json.loads(done.stdout)
