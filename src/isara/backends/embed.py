"""An embedder on sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isara.backends.checkpoints import embedded_minilm, hash_of
from isara.backends.hf import choose_device
from isara.backends.quiet import quiet_loading
from isara.errors import BackendError
from isara.protocols import Vectors


class SentenceEmbedder:
    """Vectors from a sentence-transformers model. Satisfies the `Embedder` protocol."""

    def __init__(self, name: str, *, device: str = "auto") -> None:
        from sentence_transformers import SentenceTransformer

        self._name = name
        source = str(embedded_minilm()) if name == "minilm" else name
        try:
            with quiet_loading():
                self._model = SentenceTransformer(source, device=str(choose_device(device)))
        except (OSError, ValueError) as error:
            raise BackendError(
                f"model.embedder: cannot load {name!r} ({type(error).__name__}). Give a sentence-transformers folder "
                "or name, or 'minilm'."
            ) from error
        self.sha256 = hash_of(Path(source)) if Path(source).is_dir() else None

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
