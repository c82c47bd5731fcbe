"""A text classifier on transformers, such as a moderation model, as a judge of answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isara.backends.hf import choose_device
from isara.backends.quiet import quiet_loading
from isara.backends.trust import SAFE
from isara.errors import BackendError


class Classifier:
    """Puts one of a model's own labels on each request with its answer."""

    def __init__(self, name: str, *, device: str = "auto") -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            with quiet_loading():
                self._tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
                self._network = AutoModelForSequenceClassification.from_pretrained(name, **SAFE.loading)
        except (OSError, ValueError, KeyError) as error:
            raise BackendError(
                f"{name}: no text classifier that transformers can load here ({error}). Give a folder or a name on "
                "the Hugging Face hub, with weights as safetensors."
            ) from error
        self._network = self._network.to(choose_device(device)).eval()

    def labels(self, pairs: Sequence[tuple[str, str]], batch: int = 16) -> list[tuple[str, float]]:
        """Return the likeliest label of each request and answer, and its probability; long ones are cut at the end."""
        found: list[tuple[str, float]] = []
        for start in range(0, len(pairs), batch):
            some = pairs[start : start + batch]
            encoded = self._tokenizer(
                [request for request, _ in some],
                [answer for _, answer in some],
                truncation=True,
                padding=True,
                return_tensors="pt",
            ).to(self._network.device)
            with torch.inference_mode():
                probabilities = torch.softmax(self._network(**encoded).logits.float(), -1).cpu()
            tops = probabilities.max(-1)
            names = self._network.config.id2label
            found += [(str(names[int(i)]), float(p)) for p, i in zip(tops.values, tops.indices, strict=True)]
        return found
