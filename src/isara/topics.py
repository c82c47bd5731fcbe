"""Groups of questions about the same thing, found from their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.protocols import Vectors
from isara.samples import Sample

Labels = NDArray[np.intp]

_FEWEST = 8
_MOST_TOPICS = 10
_STARTS = 4
_TURNS = 25
# Vectors without any groups reach about 0; sentence embeddings of one product's topics 0.05 to 0.1.
_VISIBLE = 0.05
_NEARLY = 0.9
# Cosine distances up to this are rounding in float32.
_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Topic:
    """Samples whose questions are about the same thing."""

    name: str
    """The most central of their questions, on one line."""
    ids: tuple[str, ...]
    """The samples, the most central first."""
    silhouette: float
    """How well they are set off from the other topics, -1 to 1; 0 where this is the only one."""

    @property
    def size(self) -> int:
        """How many samples there are."""
        return len(self.ids)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return {"name": self.name, "size": self.size, "silhouette": self.silhouette, "ids": list(self.ids)}


def topics(samples: Sequence[Sample], vectors: Vectors) -> tuple[Topic, ...]:
    """
    Return the topics of samples, the largest first; one topic where no groups stand out, none for no samples.

    `vectors` are the embeddings of the questions, of length 1, shape (samples, dimensions). There are as many topics
    as possible with a mean silhouette nearly that of the best number; the same samples always give the same topics.
    """
    if not samples:
        return ()
    data = np.asarray(vectors, dtype=np.float64)
    most = min(_MOST_TOPICS, len(samples) // 4) if len(samples) >= _FEWEST else 1
    tried = [spherical_k_means(data, k) for k in range(2, most + 1)]
    scores = [float(silhouettes(data, labels).mean()) for labels in tried]
    chosen = np.zeros(len(samples), dtype=np.intp)
    for labels, score in zip(tried, scores, strict=True):
        if score >= max(_VISIBLE, _NEARLY * max(scores)):
            chosen = labels
    widths = silhouettes(data, chosen)
    groups = [_topic(samples, data, widths, np.flatnonzero(chosen == label)) for label in np.unique(chosen)]
    return tuple(sorted(groups, key=lambda topic: -topic.size))


def spherical_k_means(vectors: NDArray[np.float64], k: int, *, seed: int = 0) -> Labels:
    """
    Return a label below `k` for each vector of length 1, by the centre with which its cosine is largest.

    Dhillon and Modha 2001, "Concept Decompositions for Large Sparse Text Data Using Clustering"; the best of a few
    starts, whose centres are drawn far from each other (k-means++, Arthur and Vassilvitskii 2007).
    """
    rng = np.random.default_rng(seed)
    best, labels = -np.inf, np.zeros(len(vectors), dtype=np.intp)
    for _ in range(_STARTS):
        centres = _far_apart(vectors, k, rng)
        for _ in range(_TURNS):
            tried = np.argmax(vectors @ centres.T, axis=1)
            moved = np.stack([_direction(vectors[tried == j], centres[j]) for j in range(k)])
            if np.array_equal(moved, centres):
                break
            centres = moved
        similarities = vectors @ centres.T
        reached = float(similarities.max(axis=1).sum())
        if reached > best + 1e-9:
            best, labels = reached, np.argmax(similarities, axis=1)
    return labels


def silhouettes(vectors: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """
    Return the silhouette of each vector under cosine distance, -1 to 1; higher is better separated.

    Rousseeuw 1987, "Silhouettes: A Graphical Aid to the Interpretation and Validation of Cluster Analysis". The mean
    cosine distance to a group needs only the sum of its vectors, so this is exact without all pairs.
    """
    names = np.unique(labels)
    if len(names) < 2:
        return np.zeros(len(vectors))
    sizes = np.array([(labels == name).sum() for name in names])
    products = vectors @ np.stack([vectors[labels == name].sum(axis=0) for name in names]).T
    rows = np.arange(len(vectors))
    own = np.searchsorted(names, labels)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    within = 1 - (products[rows, own] - squares) / np.maximum(1, sizes[own] - 1)
    others = 1 - products / sizes
    others[rows, own] = np.inf
    nearest = others.min(axis=1)
    larger = np.maximum(nearest, within)
    told = (sizes[own] > 1) & (larger > _SAME)
    return np.where(told, (nearest - within) / np.maximum(larger, _SAME), 0.0)


def _far_apart(vectors: NDArray[np.float64], k: int, rng: np.random.Generator) -> NDArray[np.float64]:
    chosen = [int(rng.integers(len(vectors)))]
    while len(chosen) < k:
        distances = np.clip(1 - (vectors @ vectors[chosen].T).max(axis=1), 0, None)
        total = distances.sum()
        if total <= 1e-9:
            break
        chosen.append(int(rng.choice(len(vectors), p=distances / total)))
    # Fewer distinct vectors than centres: the rest repeat, and stay empty.
    return vectors[chosen + [chosen[0]] * (k - len(chosen))]


def _direction(members: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    total = members.sum(axis=0)
    length = float(np.linalg.norm(total))
    return total / length if length > 1e-12 else before


def _topic(
    samples: Sequence[Sample], vectors: NDArray[np.float64], widths: NDArray[np.float64], members: Labels
) -> Topic:
    centrality = vectors[members] @ vectors[members].sum(axis=0)
    ordered = members[np.argsort(-centrality, kind="stable")].tolist()
    name = " ".join(samples[ordered[0]].question.split())
    return Topic(name, tuple(samples[i].id for i in ordered), float(widths[members].mean()))
