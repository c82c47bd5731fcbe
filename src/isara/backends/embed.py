"""An embedder on sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isara.backends.checkpoints import downloaded, embedded_minilm, hash_of
from isara.backends.hf import choose_device
from isara.backends.quiet import quiet_loading
from isara.backends.trust import SAFE, Trust, refuse_untrusted
from isara.errors import BackendError
from isara.protocols import Vectors
from isara.rawfiles import is_folder


def located(name: str, trust: Trust) -> Path:
    """Return the folder of an embedder, fetched from the Hugging Face hub where it is not a folder here."""
    if name == "minilm":
        return embedded_minilm()
    if is_folder(Path(name)):
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BackendError(
            f"model.embedder: cannot load {name!r} (no such folder). Give a sentence-transformers folder or name, or "
            "'minilm'."
        )
    # The library's own models go by their bare names.
    return downloaded(name if "/" in name else f"sentence-transformers/{name}", None, trust, "model.embedder")


class SentenceEmbedder:
    """Vectors from a sentence-transformers model. Satisfies the `Embedder` protocol."""

    def __init__(self, name: str, *, device: str = "auto", trust: Trust = SAFE) -> None:
        from sentence_transformers import SentenceTransformer

        self._name = name
        folder = located(name, trust)
        refuse_untrusted(folder, name, trust)
        weights = trust.loading
        code = weights.pop("trust_remote_code")
        try:
            with quiet_loading():
                self._model = SentenceTransformer(
                    str(folder),
                    device=str(choose_device(device)),
                    trust_remote_code=code,
                    local_files_only=True,
                    model_kwargs=weights,
                )
        except (OSError, ValueError) as error:
            raise BackendError(
                f"model.embedder: cannot load {name!r} ({type(error).__name__}). Give a sentence-transformers folder "
                "or name, or 'minilm'."
            ) from error
        self.sha256 = hash_of(folder, trust)

    @property
    def name(self) -> str:
        """What a person calls this embedder."""
        return self._name

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of length 1, shape (texts, dimensions)."""
        # No texts still make an array of the right width, and only an encoded one says what that is.
        wanted = list(texts) or ["a"]
        vectors = self._model.encode(wanted, normalize_embeddings=True, show_progress_bar=False, batch_size=64)
        return np.asarray(vectors, dtype=np.float32)[: len(texts)]
