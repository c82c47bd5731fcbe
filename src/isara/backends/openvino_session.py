"""A checkpoint on OpenVINO, compiled, with room for keys and values; and with less of it where memory ran out."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from weakref import WeakSet

from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import no_room
from isara.backends.memory import Budget, attempt
from isara.backends.openvino_export import FILE, export, exported
from isara.backends.openvino_graph import Batch, Factors, Runner, Tensors, add_adapter, compress, read_graph
from isara.backends.openvino_pages import Lease, Pages

_MOST_TOKENS = 2048
"""Tokens computed at once; more would fill memory with what is between the layers, and win nothing."""
_MOST_LOGITS = 1 << 26
"""Logits made at once (256 MiB)."""


class Room:
    """Pages of keys and values, which all sessions of a checkpoint use in turn; half of them where memory ran out."""

    def __init__(self, tokens: int) -> None:
        self.budget = Budget(tokens, "writing or scoring")
        self.pages = Pages(0, 1)
        self._tensors: Tensors = []
        self._users: WeakSet[Runner] = WeakSet()

    def begin(self, runner: Runner, longest: int) -> None:
        """
        Begin a call: with enough pages for its longest sequence, and none of them known.

        What is shared is shared within a call. Were it kept, a run that goes on after a kill would begin with other
        pages than one that was never stopped, and might round in another way.
        """
        self.pages.forget()
        wanted = -(-max(self.budget.tokens, longest) // runner.page_size)
        if wanted > self.pages.count:
            self.clear()
            self._tensors = runner.new_pages(wanted)
            self.pages = Pages(wanted, runner.page_size)
        self._users.add(runner)
        runner.use(self._tensors)

    def clear(self) -> None:
        """Give back all pages, and what sessions keep for what is between the layers."""
        for runner in self._users:
            runner.release()
        self._users.clear()
        self.pages, self._tensors = Pages(0, 1), []


class Session:
    """A compiled graph, and whose adapter it wears."""

    def __init__(self, compiled: Callable[[], Runner], room: Room) -> None:
        """Take what compiles the graph, and the room that it shares with others."""
        self.compiled = compiled
        self.runner = compiled()
        self.room = room
        self.worn: object = None
        self.factors: Mapping[str, Factors] = {}

    @property
    def pages(self) -> Pages:
        """The pages of the call under way."""
        return self.room.pages

    @property
    def most_tokens(self) -> int:
        """How many tokens to compute at once."""
        return max(1, int(_MOST_TOKENS * self.room.budget.left))

    def fits(self, batch: Batch) -> bool:
        """Whether a batch can take in another sequence."""
        logits = len(batch.places) * self.runner.vocabulary
        return len(batch.tokens) < self.most_tokens and logits < _MOST_LOGITS * self.room.budget.left

    def work(self, sizes: Mapping[int, int], do: Callable[[deque[int], dict[int, Lease]], None]) -> None:
        """
        Call `do` with texts that wait, and a place for the pages of those under way, until none waits.

        `sizes` has the most tokens that each text can come to. Where memory runs out, there is half of everything from
        then on, and what was under way waits again.
        """
        waiting = deque(sizes)
        while waiting:
            leases: dict[int, Lease] = {}
            longest = max(sizes[i] for i in waiting)

            def go_on() -> None:
                self.room.begin(self.runner, longest)  # noqa: B023  (called at once)
                do(waiting, leases)  # noqa: B023

            try:
                said = attempt(go_on)
            finally:
                self.abandon(leases.values())
            if said is not None:
                self.lessen([sizes[i] for i in leases], longest, said)
                waiting.extendleft(reversed(leases))

    def lessen(self, under_way: list[int], longest: int, said: str) -> None:
        """Go on with half of the pages, and half as much at once; BackendError: that was a single text."""
        budget = self.room.budget
        alone = len(under_way) < 2 and budget.tokens <= longest
        halves = [budget.tokens // 2, budget.tokens - budget.tokens // 2]
        budget.shrink(under_way or [longest] if alone else halves, said)
        self.room.clear()
        # What OpenVINO was about to make when it had no room stays broken in its caches, so nothing of it is kept.
        del self.runner
        self.runner = self.compiled()
        self.runner.wear(self.factors)

    def abandon(self, leases: Iterable[Lease]) -> None:
        """Give back what is still in use after an error; nothing that it may have left half computed stays known."""
        for lease in list(leases):
            self.pages.give_back(lease)
            self.pages.forget()

    def wear(self, owner: object, factors: Mapping[str, Factors]) -> None:
        """Put an adapter on where another one is worn."""
        if self.worn is not owner:
            self.runner.wear(factors)
            self.worn, self.factors = owner, factors


class Opened:
    """A converted checkpoint, compiled when it is first used: bare, and once more with a place for adapters."""

    def __init__(self, checkpoint: Checkpoint, number_format: str, batch_tokens: int, *, int8: bool = False) -> None:
        self.file = exported(checkpoint)
        self.number_format = number_format
        self.int8 = int8
        self.room = Room(batch_tokens)
        self._sessions: dict[frozenset[tuple[str, tuple[int, int]]], Session] = {}

    def session(self, layers: Mapping[str, tuple[int, int]]) -> Session:
        """Return the session with places for an adapter on those layers."""
        key = frozenset(layers.items())
        if key not in self._sessions:
            self._sessions[key] = Session(lambda: self.compiled(self.file, layers), self.room)
        return self._sessions[key]

    def tuned(self, folder: Path) -> Session:
        """Return a session with the fully tuned weights in a folder: converted for this once, and not kept."""

        def compiled() -> Runner:
            with tempfile.TemporaryDirectory(prefix="isara-openvino-") as scratch:
                export(folder, Path(scratch))
                # Read as a whole: some systems do not let go of a file that is mapped.
                return self.compiled(Path(scratch) / FILE, {}, mapped=False)

        return Session(compiled, self.room)

    def compiled(self, file: Path, layers: Mapping[str, tuple[int, int]], *, mapped: bool = True) -> Runner:
        """Return the graph in a file made ready to run; BackendError: there is not enough memory for it."""
        try:
            graph = read_graph(file, mapped=mapped)
            if self.int8:
                compress(graph)
            if layers:
                add_adapter(graph, layers)
            return Runner(graph, self.number_format)
        except (RuntimeError, MemoryError) as error:
            raise no_room(file, error) from error
