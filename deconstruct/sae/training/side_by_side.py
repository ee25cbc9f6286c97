"""Several SAEs in training at once: each steps on its own, and each batch is read once for all.

There are as many workers as threads, or members if these are fewer. A worker that is free takes
the member that is furthest behind and makes one step of it, so no member waits for another unless
it is `WINDOW` batches ahead: so many are held at most, however unequal the members are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from threading import Condition, Thread
from typing import NamedTuple

import torch
from torch import Tensor

from deconstruct.common.cores import compute_on
from deconstruct.sae.training.checkpoint import LogRow
from deconstruct.sae.training.trainer import Trainer

WINDOW = 4
"""Batches that are held at once, at most."""


class Batch(NamedTuple):
    """In scaled coordinates: what is read, and what of a transcoder is reconstructed."""

    z: Tensor
    target: Tensor | None


class SideBySide:
    """Trains members to their ends.

    read: gives the batch of a step; each is asked for once, steps ascending, by one worker at a
    time. told: called after each step, by one worker at a time, with its row of the log, if any.
    at_once: workers, at most; the caller is the first. They share its threads of torch and of the
    kernels, dealt anew at each step, so that none is idle once fewer members are left than threads.
    """

    def __init__(
        self,
        members: Sequence[Trainer],
        read: Callable[[int], Batch],
        told: Callable[[LogRow | None], None],
        at_once: int,
    ) -> None:
        self._read, self._told = read, told
        self._unfinished = [member for member in members if not member.finished]
        self._free, self._free_threads = list(self._unfinished), torch.get_num_threads()
        self._workers = min(at_once, self._free_threads, len(self._unfinished))
        self._held: dict[int, Batch] = {}
        self._next, self._reading = 0, False
        self._error: BaseException | None = None
        self._changed = Condition()
        self._let_go()

    def run(self) -> None:
        """Raises what a step, ``read`` or ``told`` raises; others end the step they are in."""
        threads = torch.get_num_threads()
        # In copies of this context: what is told may go to the task that runs here.
        others = [
            Thread(target=copy_context().run, args=(self._work,), name=f"member-{n}")
            for n in range(1, self._workers)
        ]
        for thread in others:
            thread.start()
        self._work()
        for thread in others:
            thread.join()
        compute_on(threads)  # which new threads take over, too
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (turn := self._take()) is not None:
                self._step(*turn)
        except BaseException as error:  # an interrupt too, which reaches the first worker alone
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()

    def _take(self) -> tuple[Trainer, int] | None:
        """Which member to step next, on how many threads; waits for one. None: all are trained."""
        with self._changed:
            while self._unfinished and self._error is None:
                ready = [member for member in self._free if self._can_have(member.step)]
                if ready and self._free_threads:
                    member = min(ready, key=lambda one: one.step)
                    stepping = len(self._unfinished) - len(self._free)
                    places = min(len(ready), self._workers - stepping)
                    threads = max(1, self._free_threads // places)
                    self._free.remove(member)
                    self._free_threads -= threads
                    self._reading = self._reading or member.step not in self._held
                    return member, threads
                self._changed.wait()
            return None

    def _can_have(self, step: int) -> bool:
        """Whether the batch of a step is here, or is the one that may be read now."""
        next_one = step == self._next and not self._reading and len(self._held) < WINDOW
        return step in self._held or next_one

    def _step(self, member: Trainer, threads: int) -> None:
        compute_on(threads)
        if member.step not in self._held:
            batch = self._read(member.step)
            with self._changed:
                self._held[member.step] = batch
                self._next, self._reading = member.step + 1, False
                self._changed.notify_all()
        row = member.train(*self._held[member.step])
        with self._changed:
            self._free_threads += threads
            (self._unfinished.remove if member.finished else self._free.append)(member)
            self._let_go()
            self._told(row)
            self._changed.notify_all()

    def _let_go(self) -> None:
        """Drop the batches that no member needs any more."""
        last = min((member.step for member in self._unfinished), default=self._next)
        for step in [step for step in self._held if step < last]:
            del self._held[step]
        self._next = max(self._next, last)
