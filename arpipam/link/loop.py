"""Runs protocols over a link, on a thread of its own.

Searches come and go; claims stay and are defended until they are let go. Everything that touches them happens on this
thread, so that between "free" and "claimed" there is no moment in which a frame is not looked at.

One fault, one casualty: a task that raises ends, a callback that does is logged; only the link's errors end the loop.
"""

from __future__ import annotations

import logging
import select
import sys
import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from arpipam.errors import ArpipamError, LinkError
from arpipam.link.audience import Audience
from arpipam.link.calls import Calls
from arpipam.link.pace import Pace
from arpipam.link.sending import flush, send
from arpipam.link.waking import WATCH, Waking
from arpipam.protocol import arp

if TYPE_CHECKING:
    from collections.abc import Callable

    from arpipam.link.hearing import Hearing
    from arpipam.link.task import Kept, LoopLink, Task
    from arpipam.protocol.arp import ArpPacket

T = TypeVar("T")

_log = logging.getLogger(__name__)

_BATCH = 4096
"""Frames that are read at one go."""
_BEHIND = 0.25
"""When the socket has not run empty for so long (seconds), what it holds is too old to judge by."""
_RETRY = 0.001
"""Seconds to wait when the kernel had no room for a frame."""
_COALESCE = 0.001
"""Seconds between two turns, where there is that much to read."""


class Loop:
    """One link, one thread, any number of tasks and claims. `rate` bounds the frames of all tasks, per second.

    Without a thread (`threaded=False`) its owner calls `turn`, for example over a link whose clock is virtual.
    """

    def __init__(self, link: LoopLink, rate: float, *, threaded: bool = True, calls: Calls | None = None) -> None:
        self.link = link
        self.refused: Counter[arp.Refusal] = Counter()
        """Frames that were no ARP packet for us, by reason; the kernel may have dropped others unseen."""
        self.dropped = 0
        """Frames that the kernel dropped before we could read them."""
        self.ended: Future[object] = Future()
        """Done when it has ended, with the reason, for example that the link is gone."""
        self.ended.set_running_or_notify_cancel()  # to stop waiting for it cancels nothing
        self._pace: Pace[Task[Any]] = Pace(rate, link.now())
        self._tasks: list[Task[Any]] = []
        self._kept: dict[int, Kept] = {}
        self._stirred: dict[int, Kept] = {}
        """Those that may have something to do; of thousands that are only watched over, few have at any moment."""
        self._watchers: list[Callable[[ArpPacket, float], None]] = []
        self._followers: list[Callable[[], object]] = []
        self._calls = calls or Calls()
        self._audience = Audience(link)
        self._behind_since: float | None = None
        self._error: Exception | None = None
        self._closing = False
        self._caught_up: list[Future[None]] = []
        self._waking = Waking(link)
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=self._main, name=f"arpipam {link.interface}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop; what is still running is abandoned, what is kept is no longer defended."""
        self._closing = True
        self._calls.wake()
        if self._thread is None:
            self._end(LinkError(f"{self.link.interface}: closed"))
        else:
            self._thread.join()
        self._calls.shut()

    # What is called from any thread.

    @property
    def hearing(self) -> Hearing:
        """Since when the link has been heard without a gap."""
        return self._waking.hearing

    @property
    def late(self) -> bool:
        """Whether what is being read may have waited for longer than anybody listens for our answer."""
        return self._waking.late

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function on the loop's thread, at once where this is that thread; LinkError once the loop is closed.

        The future carries what the function raises: read it, or use `post`.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                future.set_exception(error)

        if self.is_here():
            run()
        else:
            self._submit(run)
        return future

    def post(self, function: Callable[[], object]) -> None:
        """Run a function on the loop's thread, after what is under way; nobody waits for it, what it raises is logged.

        Raises LinkError once the loop is closed.
        """
        self._submit(partial(self._guarded, function))

    def is_here(self) -> bool:
        """Whether this is the loop's thread."""
        return self._thread is None or threading.current_thread() is self._thread

    def run(self, task: Task[T]) -> Task[T]:
        """Run a task to its end; its future has the result."""

        def start() -> None:
            if (why_not := self._error or task.outdated(self.link)) is not None:
                task.fail(why_not)
            else:
                self._tasks.append(task)

        self._submit(start)
        return task

    def cancel(self, task: Task[Any]) -> None:
        """Nobody waits for that result any more, even where it has come already."""
        task.unwanted = True

        def drop() -> None:
            if task.future.done() and task.future.exception() is None:
                task.discard(task.future.result())

        with suppress(LinkError):  # closed: all tasks have ended
            self.post(drop)

    def catch_up(self) -> Future[None]:
        """Done when all that has arrived by now has been seen by those whom it concerns."""
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
        """Call `watcher(packet, now)` for every ARP packet on the link from now on, on the loop's thread."""

        def add() -> None:
            self._watchers.append(watcher)
            self._audience.changed()
            self._focus()

        self.call(add).result()

    def follow(self, follower: Callable[[], object]) -> None:
        """Call `follower()` on the loop's thread whenever the interface has another MAC or other addresses."""
        self.post(lambda: self._followers.append(follower))

    # What is called on the loop's thread only.

    def keep(self, address: int, kept: Kept) -> None:
        """Keep a claim from now on."""
        self._kept[address] = self._stirred[address] = kept
        self._audience.changed()

    def let_go(self, address: int) -> None:
        """Stop keeping it."""
        self._kept.pop(address, None)
        self._stirred.pop(address, None)
        self._audience.changed()

    def stir(self, address: int) -> None:
        """What is kept for the address has been changed from outside."""
        if (kept := self._kept.get(address)) is not None:
            self._stirred[address] = kept

    def claimed(self) -> list[int]:
        """The addresses for which something is kept."""
        return list(self._kept)

    def kept(self, address: int) -> Kept | None:
        """What is kept for an address: the link does not hear its own answers."""
        return self._kept.get(address)

    def turn(self) -> None:
        """Read, think, write, sleep."""
        self._calls.run()
        if self._closing:  # the byte that says so may just have been read with the others
            return
        now = self.link.now()
        if self._waking.turn(now, claims=bool(self._kept)):
            self._follow()
        emptied = self._read(now)
        self._think(now, emptied=emptied)
        self._focus()
        jammed = not self._write(now)
        self._sleep(now, emptied=emptied, jammed=jammed)

    # The thread.

    def _main(self) -> None:
        reason: ArpipamError = LinkError(f"{self.link.interface}: closed")
        try:
            while not self._closing:
                self.turn()
        except ArpipamError as error:
            reason = error
        except Exception as error:  # noqa: BLE001 - logged, and nothing else fails with it
            _log.exception("%s: internal error", self.link.interface)
            reason = LinkError(f"{self.link.interface}: internal error, please report it: {error!r}")
        self._end(reason)
        poll = select.poll()  # not select(2), which fails from descriptor 1,024 on
        poll.register(self._calls.wake_fd, select.POLLIN)
        while not self._closing:  # claims can still be released
            poll.poll()
            self._calls.run()

    def _end(self, reason: Exception) -> None:
        self._error = reason
        for kept in list(self._kept.values()):
            self._guarded(partial(kept.fail, reason))
        for task in self._tasks:
            task.fail(reason)
        self._tasks.clear()
        for future in self._caught_up:
            future.set_exception(reason)
        self._caught_up.clear()
        self._calls.run()
        self.ended.set_result(reason)

    def _guarded(self, function: Callable[[], object]) -> None:
        """Call what is not ours: what it raises is its own affair."""
        try:
            function()
        except Exception:  # noqa: BLE001 - logged, and nothing else fails with it
            _log.exception("%s: a callback raised", self.link.interface)

    def _follow(self) -> None:
        """The interface has another MAC or address: nothing is sent from the former one any more."""
        self._audience.changed()
        for follower in self._followers:
            self._guarded(follower)
        for task in list(self._tasks):
            if (error := task.outdated(self.link)) is not None:
                self._drop(task)
                task.fail(error)

    # Read.

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
            self._guarded(partial(watcher, packet, at))
        if self._kept:
            # both: a station that asks for one claimed address may be using another one
            if (kept := self._kept.get(packet.target_ip)) is not None:
                self._stirred[packet.target_ip] = kept
                self._guarded(partial(kept.receive, packet, at))
            if (user := self._kept.get(packet.sender_ip)) is not None and user is not kept:
                self._stirred[packet.sender_ip] = user
                self._guarded(partial(user.receive, packet, at))
        for task in self._audience.tasks_for(packet):
            if not task.future.done():
                self._attempt(task, partial(task.machine.receive, packet, at))

    def _overflow(self, dropped: int, now: float) -> None:
        self.dropped += dropped
        if dropped:
            self.hearing.gap(f"the kernel dropped {dropped} frames that were not read in time", now)
        for task in list(self._tasks):
            self._attempt(task, partial(task.machine.overflow, dropped, now))

    # Think.

    def _think(self, now: float, *, emptied: bool) -> None:
        """Let claims go on; and tasks too, where all that arrived before `now` has been seen."""
        for kept in list(self._stirred.values()):
            self._guarded(partial(kept.advance, now))
        if not emptied:
            return
        for future in self._caught_up:
            future.set_result(None)
        self._caught_up.clear()
        for task in list(self._tasks):
            machine = task.machine
            if not (task.unwanted or machine.done) and (due := machine.deadline) is not None and due <= now:
                self._attempt(task, partial(machine.advance, now))
            if task.unwanted or machine.done:
                self._finish(task)

    def _attempt(self, task: Task[Any], step: Callable[[], T]) -> T | None:
        """Let a task's machine do something; what it raises ends this task, and no other."""
        try:
            return step()
        except LinkError:  # of the link itself
            raise
        except Exception as error:  # noqa: BLE001 - logged, and nothing else fails with it
            _log.exception("%s: internal error in a search", self.link.interface)
            self._drop(task)
            task.fail(error)
            return None

    def _finish(self, task: Task[Any]) -> None:
        if task in self._tasks and not task.unwanted and self._attempt(task, task.goes_on):
            return
        if task not in self._tasks:  # it has just failed
            return
        self._drop(task)
        if task.unwanted:
            task.fail(LinkError("cancelled"))
            return
        try:
            result = task.finish()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller that waits for the result
            task.fail(error)
        else:
            task.future.set_result(result)

    def _drop(self, task: Task[Any]) -> None:
        with suppress(ValueError):
            self._tasks.remove(task)

    def _focus(self) -> None:
        self._audience.focus(self._tasks, self._kept, everything=bool(self._watchers))

    # Write.

    def _write(self, now: float) -> bool:
        """Send what may leave now; False when the kernel had no room."""
        for address, kept in list(self._stirred.items()):  # no answer is held back by the pace of a search
            try:
                flush(self.link, kept.outbox, sys.maxsize)
            except LinkError:
                raise
            except Exception:  # noqa: BLE001 - logged, and nothing else fails with it
                _log.exception("%s: internal error in a claim", self.link.interface)
            if len(kept.outbox):
                return False
            self._guarded(partial(kept.advance, now))  # what has just left may be a step forward
            if kept.deadline is None and not len(kept.outbox):
                self._stirred.pop(address, None)
        self._pace.fill(now)
        if self._behind_since is not None:  # more questions would only let their answers lie for longer
            return True
        return self._pace.share(((task.priority, task) for task in self._tasks), self._send)

    def _send(self, task: Task[Any], most: int) -> int | None:
        """Send frames of a task, `most` at most; how many left; None: the kernel has no room."""
        if task not in self._tasks:
            return 0
        return self._attempt(task, partial(send, self.link, task.machine, most))

    # Sleep.

    def _sleep(self, now: float, *, emptied: bool, jammed: bool) -> None:
        """Wait until something is due or arrives."""
        sleep = self._pause(jammed=jammed) if emptied else 0.0
        if emptied and (sleep is None or sleep > _COALESCE) and self._waking.since_last(now) < _COALESCE:
            self.link.rest(_COALESCE)  # frames come thick and fast: many at one go cost less than each by itself
        self._waking.sleep(now, sleep)
        self.link.wait(sleep, self._calls.wake_fd)

    def _pause(self, *, jammed: bool) -> float | None:
        """Seconds until something is due; None: for ever."""
        if jammed:
            return _RETRY
        now = self.link.now()
        due = [kept.deadline for kept in self._stirred.values()]
        due += [task.machine.deadline for task in self._tasks]
        if any(len(outbox) for task in self._tasks for outbox in task.machine.outboxes()):
            due.append(self._pace.next_frame(now))
        if self._kept:
            due.append(now + WATCH)
        times = [at for at in due if at is not None]
        return max(0.0, min(times) - now) if times else None

    def _submit(self, function: Callable[[], None]) -> None:
        if not self._calls.put(function):
            raise LinkError(f"{self.link.interface}: closed")
