"""Runs protocols over a link, on a thread of its own.

Searches come and go; claims stay and are defended until they are let go. Everything that touches them happens on this
thread, so that between "free" and "claimed" there is no moment in which a frame is not looked at.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import Counter, deque
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from arpipam.errors import ArpipamError, LinkError
from arpipam.link.jobs import Job
from arpipam.link.socket import MOST_AT_ONCE
from arpipam.protocol import arp
from arpipam.protocol.interest import Interest, Routes, union

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.link.jobs import Holding, Task
    from arpipam.link.socket import Link
    from arpipam.protocol.arp import ArpPacket
    from arpipam.protocol.outbox import Outbox
    from arpipam.protocol.survey import Survey

T = TypeVar("T")

_BATCH = 4096
"""Frames that are read at one go."""
_BEHIND = 0.25
"""When the socket has not run empty for so long (seconds), what it holds is too old to judge by."""
_RETRY = 0.001
"""Seconds to wait when the kernel had no room for a frame."""
_COALESCE = 0.001
"""Seconds between two turns, where there is that much to read."""
_BURST = 0.01
"""Frames of so many seconds may leave at once."""
_TURN = 1024
"""Frames of one outbox that leave before we read again: answers that lie would look late."""
_WATCH = 0.05
"""Seconds to sleep at most while claims have to be answered for, so that it is noticed when ..."""
_ABSENCE = 0.1
"""... this thread has had no processor for so long: as long as the shortest listening (timing.py, ADAPTIVE)."""
_PIPE = 65536
"""Bytes that a pipe holds (pipe(7))."""


class Driver:
    """One link, one thread, any number of tasks and claims. `rate` bounds the frames of all tasks, per second."""

    def __init__(self, link: Link, rate: float) -> None:
        self.link = link
        self.refused: Counter[arp.Refusal] = Counter()
        """Frames that were no ARP packet for us, by reason; the kernel may have dropped others unseen."""
        self.late = False
        """What is being read may have waited for longer than anybody listens for our answer."""
        self.dropped = 0
        """Frames that the kernel dropped before we could read them."""
        self._rate = rate
        self._tokens = 1.0
        self._filled = link.now()
        self._jobs: list[Job[Any]] = []
        self._holdings: dict[int, Holding] = {}
        self._stirred: dict[int, Holding] = {}
        """Those that may have something to do; of thousands that are only watched over, few have at any moment."""
        self._watchers: list[Callable[[ArpPacket, float], None]] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._interest: Interest | None = None
        self._wanted: list[tuple[Interest | None, Job[Any]]] | None = None
        self._routes: Routes[Job[Any]] = Routes()
        self._holding_changed = False
        self._behind_since: float | None = None
        self.ended: Future[object] = Future()
        """Done when it has ended, with the reason: the link is gone, say."""
        self.ended.set_running_or_notify_cancel()  # whoever waits no longer cancels nothing
        self._error: Exception | None = None
        self._closing = False
        self._closed = False
        self._caught_up: list[Future[None]] = []
        self._calling = threading.Lock()
        self._turned = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._main, name=f"arpipam {link.interface}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what is still running is abandoned, what is held is no longer defended."""
        self._closing = True
        self._wake()
        self._thread.join()
        with self._calling:
            self._closed = True
        self._run_calls()  # those that came too late for the thread
        os.close(self._wake_read)
        os.close(self._wake_write)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function on the driver's thread; LinkError once the driver is closed."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - the caller's, whatever it is
                future.set_exception(error)

        self._submit(run)
        return future

    def run(
        self,
        task: Task,
        finish: Callable[[], T],
        abandon: Callable[[], None] = lambda: None,
        discard: Callable[[T], None] = lambda _: None,
    ) -> Job[T]:
        """Run a task to its end; `finish` gives the result, on this thread and before any other frame is looked at.

        Without a result, `abandon` is called; `discard(result)` when it was cancelled too late for that.
        """
        job = Job(task, finish, abandon, discard)

        def start() -> None:
            if self._error is not None:
                self._end(job, self._error)
            else:
                self._jobs.append(job)

        self._submit(start)
        return job

    def cancel(self, job: Job[Any]) -> None:
        """Nobody waits for that result any more, even where it has come already."""
        job.unwanted = True

        def drop() -> None:
            if job.future.done() and job.future.exception() is None:
                job.discard(job.future.result())

        with suppress(LinkError):  # closed: all jobs have ended
            self.call(drop)

    def catch_up(self) -> Future[None]:
        """Done when all that has arrived by now has been seen by whom it concerns."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()

        def note() -> None:
            if self._error is None:
                self._caught_up.append(future)
            else:
                future.set_exception(self._error)

        self._submit(note)
        return future

    def watch(self, watcher: Callable[[ArpPacket, float], None]) -> None:
        """Call `watcher(packet, now)` for every ARP packet on the link from now on, on the driver's thread."""

        def add() -> None:
            self._watchers.append(watcher)
            self._wanted = None
            self._focus()

        self.call(add).result()

    def hold(self, address: int, holding: Holding) -> None:
        """Keep a claim from now on. On the driver's thread only."""
        self._holdings[address] = self._stirred[address] = holding
        self._holding_changed = True

    def let_go(self, address: int) -> None:
        """Stop keeping it. On the driver's thread only."""
        self._holdings.pop(address, None)
        self._stirred.pop(address, None)
        self._holding_changed = True

    def stir(self, address: int) -> None:
        """What is kept for the address has been changed from outside. On the driver's thread only."""
        if (holding := self._holdings.get(address)) is not None:
            self._stirred[address] = holding

    def holding(self, address: int) -> Holding | None:
        """What is kept for an address: the link does not hear its own answers. On the driver's thread only."""
        return self._holdings.get(address)

    def _submit(self, function: Callable[[], None]) -> None:
        with self._calling:
            if self._closed:
                raise LinkError(f"{self.link.interface}: closed")
            self._calls.append(function)
            self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # as awake as it gets
            os.write(self._wake_write, b"!")

    def _main(self) -> None:
        reason: ArpipamError = LinkError(f"{self.link.interface}: closed")
        try:
            while not self._closing:
                self._turn()
        except ArpipamError as error:
            reason = error
        except Exception as error:  # noqa: BLE001 - whoever waits for a result has to hear of it
            reason = LinkError(f"{self.link.interface}: internal error, please report it: {error!r}")
        self._error = reason
        for holding in list(self._holdings.values()):
            holding.fail(reason)
        for job in self._jobs:
            self._end(job, reason)
        self._jobs.clear()
        for future in self._caught_up:
            future.set_exception(reason)
        self._caught_up.clear()
        self._run_calls()
        self.ended.set_result(reason)
        while not self._closing:  # claims can still be released
            select.select([self._wake_read], [], [])
            self._run_calls()

    def _turn(self) -> None:
        """Read, think, write, sleep."""
        self._run_calls()
        if self._closing:  # the byte that says so may just have been read with the others
            return
        now = self.link.now()
        self.late = now - self._turned > _ABSENCE and bool(self._holdings)
        emptied = self._read(now)
        for holding in list(self._stirred.values()):
            holding.advance(now)
        if emptied:
            self._advance(now)
        self._focus()
        jammed = not self._write(now)
        sleep = self._sleep(jammed) if emptied else 0.0
        if emptied and (sleep is None or sleep > _COALESCE) and now - self._turned < _COALESCE:
            self.link.rest(_COALESCE)  # frames come thick and fast: many at one go cost less than each by itself
        self._turned = now
        self.link.wait(sleep, self._wake_read)

    def _advance(self, now: float) -> None:
        """All that arrived before `now` has been seen: tell whoever waits for that, and let the tasks go on."""
        for future in self._caught_up:
            future.set_result(None)
        self._caught_up.clear()
        for job in list(self._jobs):
            if job.unwanted or job.task.done:
                self._finish(job)
                continue
            if (deadline := job.task.deadline) is not None and deadline <= now:
                job.task.advance(now)
            if job.task.done:
                self._finish(job)

    def _read(self, now: float) -> bool:
        """Take in what has arrived; whether the socket ran empty, so that everything before `now` has been seen."""
        frames = self.link.receive(_BATCH)
        at = self.link.now()
        for frame in frames:
            packet = arp.dissect(frame)
            if isinstance(packet, arp.Refusal):
                self.refused[packet] += 1
                continue
            self._dispatch(packet, at)
        emptied = len(frames) < _BATCH
        if emptied:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        if dropped := self.link.drops():
            self._overflow(dropped, now)
        elif self._behind_since is not None and now - self._behind_since > _BEHIND:
            self._behind_since = now
            self._overflow(0, now)
            return True
        return emptied

    def _dispatch(self, packet: ArpPacket, at: float) -> None:
        """Show a packet to everybody whom it may concern."""
        for watcher in self._watchers:
            watcher(packet, at)
        if self._holdings:
            # both: who asks for one claimed address may be using another one
            if (holding := self._holdings.get(packet.target_ip)) is not None:
                self._stirred[packet.target_ip] = holding
                holding.receive(packet, at)
            if (user := self._holdings.get(packet.sender_ip)) is not None and user is not holding:
                self._stirred[packet.sender_ip] = user
                user.receive(packet, at)
        for job in self._routes.receivers(packet):
            job.task.receive(packet, at)

    def _focus(self) -> None:
        """Tell the kernel what is of interest, and note to whom, before any frame leaves whose answer is."""
        wanted = [(job.task.interest, job) for job in self._jobs]
        if wanted == self._wanted and not self._holding_changed:  # as at most turns
            return
        self._wanted, self._holding_changed = wanted, False
        self._routes = Routes(wanted)
        interest = None if self._watchers else union(interest for interest, _ in wanted)
        if interest is not None and self._holdings:
            held = Interest(frozenset(self._holdings), frozenset((self.link.mac,)))
            interest = union((interest, held))
        if interest != self._interest:
            self._interest = interest
            self.link.focus(interest)

    def _overflow(self, dropped: int, now: float) -> None:
        self.dropped += dropped
        for job in self._jobs:
            job.task.overflow(dropped, now)

    def _write(self, now: float) -> bool:
        """Send what may leave now; False when the kernel had no room."""
        self._tokens = min(self._tokens + (now - self._filled) * self._rate, max(1.0, self._rate * _BURST))
        self._filled = now
        for address, holding in list(self._stirred.items()):  # no answer is held back by the pace of a search
            self._flush(holding.outbox, sys.maxsize)
            if holding.outbox:
                return False
            holding.advance(now)  # what has just left may be a step forward
            if holding.deadline is None and not holding.outbox:
                self._stirred.pop(address, None)
        if self._behind_since is not None:  # more questions would only let their answers lie for longer
            return True
        for job in self._jobs:
            for outbox in job.task.outboxes():
                allowed = min(int(self._tokens), _TURN)
                if not allowed:
                    return True
                count = self._flush(outbox, allowed)
                self._tokens -= count
                if count < allowed and len(outbox):
                    return False
        return True

    def _flush(self, outbox: Outbox | Survey, most: int) -> int:
        """Send frames of an outbox, `most` at most; how many left: fewer if it is empty or the kernel has no room."""
        count = 0
        while count < most and (frames := outbox.peek(min(most - count, MOST_AT_ONCE))):
            taken = self.link.send(frames)
            outbox.sent(taken, self.link.now())
            count += taken
            if taken < len(frames):
                break
        return count

    def _sleep(self, jammed: bool) -> float | None:  # noqa: FBT001 - a fact about the turn, not a switch
        """Seconds until something is due; None: for ever."""
        if jammed:
            return _RETRY
        now = self.link.now()
        due = [holding.deadline for holding in self._stirred.values()]
        due += [job.task.deadline for job in self._jobs]
        if any(len(outbox) for job in self._jobs for outbox in job.task.outboxes()):
            due.append(now + max(0.0, 1 - self._tokens) / self._rate)
        if self._holdings:
            due.append(now + _WATCH)
        times = [at for at in due if at is not None]
        return max(0.0, min(times) - now) if times else None

    def _finish(self, job: Job[Any]) -> None:
        self._jobs.remove(job)
        if job.unwanted:
            self._end(job, LinkError("cancelled"))
            return
        try:
            result = job.finish()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
            self._end(job, error)
        else:
            job.future.set_result(result)

    def _end(self, job: Job[Any], error: BaseException) -> None:
        try:
            job.abandon()
        finally:
            job.future.set_exception(error)

    def _run_calls(self) -> None:
        while self._calls:
            with self._calling:  # calls and the bytes that announce them, together: a byte left behind wakes for ever
                calls = list(self._calls)
                self._calls.clear()
                with suppress(BlockingIOError):
                    os.read(self._wake_read, _PIPE)
            for call in calls:
                call()
