"""What the workers of a run have done so far, found out from what they write."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from gpt4image.describe.runner import Tally
from gpt4image.describe.store.records import DescriptionRecord
from gpt4image.engine.run_folder import RunFolder


class Tail:
    """Reads the records that are added to a part, each once.

    Args:
        part: a part that grows by lines; it need not be there yet, or any more.
    """

    def __init__(self, part: Path) -> None:
        self._part, self._place = part, 0

    def new(self) -> Iterator[DescriptionRecord]:
        """Records that were added since the last time."""
        if not self._part.exists():
            return
        with self._part.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):  # in the making
                    return
                self._place += len(line)
                try:
                    record = DescriptionRecord(**json.loads(line))
                except (ValueError, TypeError):  # damaged: the store leaves it out too
                    continue
                yield record


class Watch:
    """Adds up what the workers of a run write.

    Args:
        run: the run's folder.
        workers: how many there are.
        total: tasks of all of them.

    Attributes:
        tally: what they have done.
        failure: why the first of them that cannot go on cannot; empty while all can.
    """

    def __init__(self, run: RunFolder, workers: int, total: int) -> None:
        self.tally, self.failure = Tally(total), ""
        self._run, self._workers = run, workers
        self._tails: dict[str, Tail] = {}
        self._start = time.monotonic()

    def look(self) -> None:
        """Read what is new."""
        states = [self._run.read(rank) for rank in range(self._workers)]
        for part in (part for state in states for part in state.parts):
            for record in self._tails.setdefault(part, Tail(Path(part))).new():
                self.tally.add(record)
        self.tally.seconds = time.monotonic() - self._start
        self.tally.tried_again = sum(state.tried_again for state in states)
        self.tally.uncounted = sum(state.uncounted for state in states)
        self.tally.stopped = next((state.stopped for state in states if state.stopped), "")
        self.failure = next((state.message for state in states if state.state == "failed"), "")

    def unfinished(self) -> list[int]:
        """Workers that have not said that they have ended."""
        return [rank for rank in range(self._workers) if not self._run.read(rank).ended]

    def note(self) -> str:
        """What stands beside the progress line."""
        rate = self.tally.done / max(self.tally.seconds, 1e-9)
        at_work = sum(bool(self._run.read(rank).pid) for rank in self.unfinished())
        return self.tally.note(rate, priced=self.tally.cost > 0) + (f", {at_work} at work" if at_work else "")
