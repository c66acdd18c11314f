"""A queue of frames that wait to leave."""

from __future__ import annotations

from arpipam.protocol.outbox import Outbox


def test_no_more_is_shown_than_was_asked_for_and_the_same_until_it_has_left() -> None:
    outbox, left = Outbox(), list[tuple[bytes, float]]()
    for frame in (b"1", b"2", b"3"):
        outbox.put(frame, lambda now, frame=frame: left.append((frame, now)))  # type: ignore[misc]
    assert outbox.peek(2) == outbox.peek(2) == [b"1", b"2"]
    outbox.sent(1, 7.0)
    assert outbox.peek(9) == [b"2", b"3"]
    assert left == [(b"1", 7.0)]
