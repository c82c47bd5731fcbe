"""Which engine is taken, and what is said of it."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from isara.api import real_backend
from isara.backends import openvino_choice
from isara.backends.engines import open_engine
from isara.errors import BackendError, SettingsError
from isara.settings import ModelSettings, Settings
from tiny import checkpoint


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def here(monkeypatch):
    """OpenVINO as if it were installed, or as if it were not; a model on it is a name."""

    def make(*, installed=True, refuses=None):
        def model(checkpoint, **options):
            if refuses:
                raise BackendError(f"{refuses}. {openvino_choice.CURE}")
            return Stand(options)

        monkeypatch.setattr(openvino_choice.importlib.util, "find_spec", lambda name: installed or None)
        monkeypatch.setattr(openvino_choice, "OpenVinoModel", model)

    return make


class Stand:
    dtype = torch.float32
    chat = True

    def __init__(self, options):
        self.options = options


def wanted(engine, **more):
    return Settings(model=ModelSettings(engine=engine, device="cpu", dtype="float32", **more))


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(here, tiny_model):
    here()
    engine = open_engine(tiny_model, wanted("auto", batch_tokens=128))
    assert engine.name == "openvino"
    assert engine.why == "Engine: OpenVINO on cpu in float32 (installed, and faster than transformers on a CPU)."
    assert engine.model.options == {"dtype": "float32", "batch_tokens": 128, "int8": False}


@pytest.mark.parametrize("products", ["avx512_vnni", "avx_vnni"])
def test_left_open_weights_are_in_8_bits_where_those_are_the_faster_ones(products, here, tiny_model, monkeypatch):
    here()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {products: True})
    engine = open_engine(tiny_model, Settings(model=ModelSettings(device="cpu")))
    assert engine.model.options["int8"] is engine.int8 is True
    assert ", weights in 8 bits (installed" in engine.why
    (note,) = engine.notes
    assert "--set model.weights='full' keeps them whole" in note
    # A run that another machine goes on with is told of the difference.
    assert engine.facts == {"weights": "int8"}


@pytest.mark.parametrize("int8", [True, False])
def test_adapters_are_tuned_on_the_weights_that_the_model_writes_with(int8, here, tiny_model, monkeypatch):
    here()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": int8})
    model = ModelSettings(name=str(tiny_model.folder), embedder="hash", device="cpu")
    assert real_backend(Settings(model=model)).trainer.int8 is int8


@pytest.mark.parametrize(
    ("has", "chosen"),
    [
        ({}, {}),
        ({"avx512_vnni": True, "avx512_bf16": True}, {}),
        ({"avx512_vnni": True, "amx_bf16": True}, {}),
        ({"avx512_vnni": True}, {"dtype": "float32"}),
        ({"avx512_vnni": True}, {"weights": "full"}),
    ],
)
def test_left_open_weights_are_whole_elsewhere(has, chosen, here, tiny_model, monkeypatch):
    here()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    engine = open_engine(tiny_model, Settings(model=ModelSettings(device="cpu", **chosen)))
    assert (engine.model.options["int8"], engine.int8, engine.notes, engine.facts) == (False, False, (), {})
    assert "8 bits" not in engine.why


def test_without_openvino_weights_left_open_are_whole(here, tiny_model, monkeypatch):
    here(installed=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    engine = open_engine(tiny_model, Settings(model=ModelSettings(device="cpu")))
    assert (engine.name, engine.notes, engine.facts) == ("transformers", (), {})


def test_auto_says_why_it_falls_back(here, tiny_model):
    here(installed=False)
    engine = open_engine(tiny_model, wanted("auto"))
    assert engine.name == "transformers"
    assert 'not installed. Run: pip install "isara[openvino]"' in engine.why
    here(refuses="This model has a sliding window")
    engine = open_engine(tiny_model, wanted("auto"))
    assert engine.name == "transformers"
    assert engine.why == "Engine: transformers on cpu in float32 (This model has a sliding window)."


def test_asked_for_it_is_had_or_the_reason_said(here, tiny_model):
    here()
    engine = open_engine(tiny_model, wanted("openvino", weights="int8"))
    assert (engine.name, engine.model.options["int8"], engine.int8) == ("openvino", True, True)
    assert engine.facts == {}
    assert engine.why == "Engine: OpenVINO on cpu in float32, weights in 8 bits (asked for)."
    here(installed=False)
    with pytest.raises(SettingsError, match=r"'openvino' is not installed. Run: pip install"):
        open_engine(tiny_model, wanted("openvino"))
    here(refuses="This model has a sliding window")
    with pytest.raises(BackendError, match=r"sliding window\. Set model.engine='transformers'"):
        open_engine(tiny_model, wanted("openvino"))


def test_transformers_asked_for_is_taken(here, tiny_model):
    here()
    engine = open_engine(tiny_model, wanted("transformers"))
    assert engine.why == "Engine: transformers on cpu in float32 (asked for)."


def elsewhere(engine):
    return Settings(model=ModelSettings(engine=engine, device="meta", dtype="float32"))


def test_on_another_device_openvino_is_not_considered(here, tiny_model):
    here()
    assert open_engine(tiny_model, elsewhere("auto")).name == "transformers"
    with pytest.raises(SettingsError, match="is for the CPU"):
        open_engine(tiny_model, elsewhere("openvino"))


def test_eight_bits_without_openvino_are_refused(here, tiny_model):
    here(installed=False)
    for engine in ("auto", "transformers"):
        with pytest.raises(SettingsError, match="only the openvino engine has 'int8'"):
            open_engine(tiny_model, wanted(engine, weights="int8"))
