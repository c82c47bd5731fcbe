"""How many positions a network has learned, where it has learned them: beyond the last one it knows nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from isara.errors import BackendError

SHORTER = (
    "Show fewer demonstrations (questions.demonstrations, answers.demonstrations), allow shorter answers "
    "(answers.max_tokens), or leave out the longest samples."
)
"""What helps where a text that is written or scored is too long."""

_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|pos_embed\w*)$")


def positions_of(network: Any) -> int | None:
    """Return the number of learned positions; None where positions are computed, and so have no end of this kind."""
    config = network.config.get_text_config()
    tables = [part for name, part in network.named_modules() if isinstance(part, nn.Embedding) and _TABLE.search(name)]
    return int(config.max_position_embeddings) if tables else None


def refuse_beyond(most: int | None, sizes: Sequence[int], advice: str = SHORTER) -> None:
    """Raise BackendError where a text is longer, in tokens, than the positions that a model has learned."""
    longest = max(sizes, default=0)
    if most is not None and longest > most:
        raise BackendError(
            f"model.name: a text of {longest} tokens, and this model has learned {most} positions. {advice}"
        )
