"""What SECURITY.md promises: weights are data, nothing leaves this machine, nothing is written beside the run."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import isara as package
from isara.errors import BackendError, RunError

SOURCE = Path(package.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
UNPICKLING = {"pickle", "cPickle", "_pickle", "shelve", "marshal", "joblib", "dill", "cloudpickle", "pandas", "yaml"}


def modules_in(tree):
    """Every module that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def calls_of(name):
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name:
                yield path.name, node


# Weights are data


def test_nothing_is_unpickled():
    assert {path.name: found for path, tree in TREES.items() if (found := UNPICKLING & {*modules_in(tree)})} == {}
    for library, functions in (("torch", {"load", "save"}), ("np", {"load", "save", "savez"})):
        found = [
            name
            for function in functions
            for name, node in calls_of(function)
            if ast.unparse(node.func.value) == library
        ]
        assert found == []


def test_whatever_loads_a_model_is_told_what_it_may_load():
    """`trust_remote_code` left open makes transformers ask at the terminal, and somebody may say yes."""
    # What a generation configuration holds is numbers.
    calls = [call for call in calls_of("from_pretrained") if "GenerationConfig" not in ast.unparse(call[1].func)]
    assert len(calls) > 5
    for name, node in calls:
        given = {keyword.arg for keyword in node.keywords} | {ast.unparse(k.value) for k in node.keywords if not k.arg}
        assert given & {"trust_remote_code", "trust.loading", "SAFE.loading"}, (name, ast.unparse(node))
        if "AutoModel" in ast.unparse(node.func):
            assert given & {"trust.loading", "SAFE.loading", "gguf_file"}, (name, ast.unparse(node))


def test_there_is_no_export_to_spreadsheets():
    """So there are no formulas to guard against; whoever adds one has to."""
    for name in ("writer", "DictWriter"):
        assert [path for path, node in calls_of(name) if ast.unparse(node.func.value) == "csv"] == []
    assert [path for name in ("to_csv", "to_excel", "write_csv") for path, _ in calls_of(name)] == []


@pytest.fixture
def tiny_folder(tmp_path):
    pytest.importorskip("transformers")
    import tiny

    return tiny.checkpoint(tmp_path / "model").folder


def pickled(folder):
    """Put the weights of a folder into a file that is read by unpickling."""
    import torch
    from safetensors.torch import load_file

    (weights,) = folder.glob("*.safetensors")
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


def test_weights_that_are_not_safetensors_are_refused_until_they_are_asked_for(tiny_folder):
    import torch

    from isara.backends.checkpoints import locate
    from isara.backends.hf import load_network
    from isara.backends.trust import Trust

    before = load_network(tiny_folder, torch.device("cpu"), torch.float32).state_dict()
    pickled(tiny_folder)
    with pytest.raises(BackendError, match=r"set model\.allow_pickle=true where you trust its maker"):
        load_network(tiny_folder, torch.device("cpu"), torch.float32)
    allowed = locate(str(tiny_folder), None, Trust(pickle=True))
    after = load_network(allowed.folder, torch.device("cpu"), torch.float32, allowed.trust).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert allowed.sha256 != locate(str(tiny_folder)).sha256, "what was loaded is part of the hash"


def bring_code(folder):
    """Let a model's configuration ask for code in its folder, which leaves a trace when it is run."""
    trace = folder.parent / "ran"
    code = f"open({str(trace)!r}, 'w').close()\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
    code += "class OddConfig(LlamaConfig):\n    model_type = 'odd'\n"
    code += "class OddModel(LlamaForCausalLM):\n    config_class = OddConfig\n"
    (folder / "odd.py").write_text(code)
    path = folder / "config.json"
    names = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "odd", "auto_map": names}))
    return trace


def test_code_of_a_model_is_not_run_until_it_is_asked_for(tiny_folder, monkeypatch):
    import io

    import torch

    from isara.backends.hf import load_network
    from isara.backends.trust import Trust

    trace = bring_code(tiny_folder)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(BackendError, match=r"model\.trust_remote_code=true"):
        load_network(tiny_folder, torch.device("cpu"), torch.float32)
    assert not trace.exists()
    load_network(tiny_folder, torch.device("cpu"), torch.float32, Trust(code=True))
    assert trace.exists()


def test_an_embedder_is_held_to_the_same(tmp_path):
    from isara.backends.trust import SAFE, Trust, refuse_untrusted

    parts = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps(parts))
    (tmp_path / "model.safetensors").touch()
    refuse_untrusted(tmp_path, "e", SAFE)
    (tmp_path / "2_Dense" / "pytorch_model.bin").touch()
    with pytest.raises(BackendError, match=r"its weights in pytorch_model\.bin, and only safetensors are loaded"):
        refuse_untrusted(tmp_path, "e", SAFE)
    refuse_untrusted(tmp_path, "e", Trust(pickle=True))
    (tmp_path / "2_Dense" / "model.safetensors").touch()
    refuse_untrusted(tmp_path, "e", SAFE)
    for bad, words in (
        ([{"path": "", "type": "subprocess.Popen"}], "made with 'subprocess.Popen'"),
        ([{"path": "../..", "type": "sentence_transformers.models.Dense"}], "leads out of its folder"),
        ([{"path": ""}], "cannot be read"),
        ("[", "cannot be read"),
    ):
        (tmp_path / "modules.json").write_text(bad if isinstance(bad, str) else json.dumps(bad))
        with pytest.raises(BackendError, match=words):
            refuse_untrusted(tmp_path, "e", SAFE)


def test_an_embedder_of_pickled_weights_is_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    import torch
    from transformers import AutoConfig, AutoModel

    from isara.backends.embed import SentenceEmbedder
    from isara.backends.trust import Trust
    from tiny import tokenizer

    shape = {"vocab_size": 320, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("bert", intermediate_size=32, **shape)).save_pretrained(tmp_path)
    made = tokenizer(None, ("<pad>",), eos=None)
    made.pad_token = "<pad>"
    made.model_max_length = 64
    made.save_pretrained(tmp_path)
    safe = SentenceEmbedder(str(tmp_path), device="cpu").embed(["a"])
    pickled(tmp_path)
    with pytest.raises(BackendError, match=r"set model\.allow_pickle=true"):
        SentenceEmbedder(str(tmp_path), device="cpu")
    assert (SentenceEmbedder(str(tmp_path), device="cpu", trust=Trust(pickle=True)).embed(["a"]) == safe).all()


def test_what_was_allowed_is_recorded_and_shown(isara, small, tmp_path, unsynced):
    out = tmp_path / "run"
    allowed = ("--set", "model.trust_remote_code=true", "--set", "model.allow_pickle=true")
    assert isara("run", small.seeds, *small.flags, *allowed, "--set", "rounds=1", "--out", out).code == 0
    settings = json.loads((out / "manifest.json").read_text())["settings"]["model"]
    assert (settings["trust_remote_code"], settings["allow_pickle"]) == (True, True)
    assert "| model.trust_remote_code | true | false |" in (out / "report.md").read_text()
    pytest.importorskip("torch")
    from isara.backends.trust import SAFE, Trust

    assert SAFE.told() == ()
    assert [sentence.partition(" may be ")[0] for sentence in Trust(pickle=True, code=True).told()] == [
        "Weights that are not safetensors",
        "Python code that comes with the model",
    ]


# Samples are data


def test_a_tokenizer_that_takes_look_alikes_for_its_markers_cannot_end_a_turn(tmp_path):
    pytest.importorskip("transformers")
    from tokenizers import AddedToken, normalizers

    import tiny
    from isara.backends.template import Encoder

    made = tiny.tokenizer()
    made.backend_tokenizer.normalizer = normalizers.NFKC()
    made.add_tokens([AddedToken("<|stop|>", normalized=True, special=True)], special_tokens=True)
    encoder = Encoder(made)
    plain = encoder.prompt(question("What does it mean?"))
    for text in ("＜|stop|＞", "<|stop|>", "a ＜｜im_end｜＞ b", "<|im_end|>"):
        ids = encoder.prompt(question(f"What does {text} mean?"))
        assert encoder.marks(ids) == encoder.marks(plain), text
        assert encoder.marks(encoder.completion(question("Why?"), f"It is {text}.")) == 0, text


def question(text):
    from isara.heldout import bare_prompt

    return bare_prompt(text, chat=True)


# The terminal


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m \u202egnp.exe\r\x08\x08\n\x1b[8mgone"


def test_what_a_model_says_does_not_steer_the_terminal(isara, run, monkeypatch):
    from isara.testing import ScriptedModel

    monkeypatch.setattr(ScriptedModel, "_recombined", lambda self, prompt, sampling, seed: HOSTILE)
    ended = isara("chat", run, stdin=f"{HOSTILE}\n")
    assert ended.code == 0
    assert "owned" in ended.out
    assert not [char for char in ended.out + ended.err if not char.isprintable() and char != "\n"]


def test_a_terminal_that_cannot_show_a_character_shows_its_number(run):
    env = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(SOURCE.parent)}
    (run / "manifest.json").write_text((run / "manifest.json").read_text().replace('"small"', '"\u0645ude"'))
    done = subprocess.run([sys.executable, "-m", "isara", "status", run], capture_output=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert b"\\u0645ude" in done.stdout


def test_a_question_that_is_no_text_is_refused(run):
    env = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(SOURCE.parent)}
    words = [sys.executable, "-m", "isara", "chat", run]
    done = subprocess.run(words, capture_output=True, check=False, env=env, input=b"\xff\n")
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)


# Nothing leaves this machine, and nothing is left beside the run


WATCHER = """
import os, sys
def watch(event, arguments, file=os.environ["ISARA_SEEN"]):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.sendto", "urllib")):
        with open(file, "a") as seen:
            seen.write(f"{event} {arguments!r}\\n")
sys.addaudithook(watch)
"""


@pytest.fixture
def watched(tmp_path):
    """Run a command as a process that notes what it asks of the network, and without one where that is possible."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(WATCHER)
    for name in ("tmp", "home"):
        (tmp_path / name).mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"ISARA_SEEN": str(tmp_path / "seen"), "TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path / "home")}
    env |= {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hook"), str(SOURCE.parent)]), "OMP_NUM_THREADS": "2"}
    alone = ["unshare", "--net", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []

    def command(*words):
        done = subprocess.run(
            [*alone, sys.executable, "-m", "isara", *map(str, words)],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert not (tmp_path / "seen").exists(), (tmp_path / "seen").read_text()
        # torch makes an empty folder there for kernels that it compiles; isara has it compile none.
        assert [path for path in (tmp_path / "tmp").rglob("*") if not path.is_dir()] == []
        return done

    command.folder, command.env = tmp_path, env
    return command


def walk(run, watched, seeds, *flags):
    watched("run", seeds, *flags, "--out", run)
    watched("status", run)
    watched("report", run)
    watched("lineage", run, "r1-00001")
    watched("replay", run, "--set", "filter.rouge=0.9")
    for path in [run, *run.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & stat.S_IWOTH, path
        assert path.is_dir() or not mode & 0o111, path
        assert not path.name.endswith((".writing", ".part")), path


def test_a_scripted_run_asks_the_network_for_nothing_and_leaves_no_scratch(watched, small):
    watched("check", small.seeds, "--model", "scripted")
    walk(watched.folder / "run", watched, small.seeds, *small.flags, "--set", "rounds=1")


def test_openvino_is_kept_from_its_telemetry():
    pytest.importorskip("torch")
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    script = """
from isara.backends.quiet import without_telemetry
without_telemetry()
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""
    env = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split()[-1] == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.real
@pytest.mark.timeout(1200)
def test_a_real_run_asks_the_network_for_nothing_and_leaves_no_scratch(watched, small):
    pytest.importorskip("torch")
    from isara.backends.checkpoints import embedded_gguf, embedded_minilm, locate

    try:
        embedded_gguf(), embedded_minilm()
    except BackendError as error:
        pytest.skip(str(error))
    # Converted once, where the other tests look for it.
    watched.env["ISARA_CACHE"] = str(locate("smollm2-135m").folder.parent.parent)
    settings = ("rounds=1", "target.accepted=2", "target.batch=8", "split.least=4", "questions.max_tokens=24")
    settings += (
        "answers.max_tokens=256",
        "train.epochs=1",
        "filter.topic=-1",
        "filter.confidence=9",
        "target.budget=16",
    )
    sets = [word for setting in settings for word in ("--set", setting)]
    walk(watched.folder / "run", watched, small.seeds, "--model", "smollm2-135m", *sets)


def test_the_umask_of_who_runs_it_holds_for_every_file(isara, small, tmp_path, unsynced):
    before = os.umask(0o077)
    try:
        assert isara("run", small.seeds, *small.flags, "--set", "rounds=1", "--out", tmp_path / "run").code == 0
    finally:
        os.umask(before)
    open_to_others = [p for p in (tmp_path / "run").rglob("*") if stat.S_IMODE(p.stat().st_mode) & 0o077]
    assert open_to_others == []


def test_a_link_in_place_of_a_scratch_file_is_not_written_through(tmp_path):
    from isara.rundir import write_text

    victim = tmp_path / "victim"
    victim.write_text("still here")
    (tmp_path / ".x.json.writing").symlink_to(victim)
    write_text(tmp_path / "x.json", "new")
    assert (victim.read_text(), (tmp_path / "x.json").read_text()) == ("still here", "new")
    assert not (tmp_path / "x.json").is_symlink()
    (tmp_path / "d").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError):
        write_text(tmp_path / "d" / "x.json", "new")


def test_the_libraries_of_hugging_face_are_told_to_tell_nothing(isara, monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    isara("--help")
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_every_dependency_is_pinned():
    """What is installed beside isara at the versions that the tests are run with."""
    import re
    import tomllib

    root = SOURCE.parent.parent
    pins = {
        re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")
        for line in (root / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("hf", "data", "demo", "dev")]
    wanted = [*project["dependencies"], *(word for words in extras for word in words)]
    names = {re.match(r"[\w.-]+", word)[0].lower().replace("_", "-") for word in wanted} - {"isara"}
    assert names - pins == set()
