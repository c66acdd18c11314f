"""The library for asyncio on real links: several at once, and cancelled at any moment."""

from __future__ import annotations

import asyncio

import pytest

from arpipam import (
    AsyncAllocator,
    InputError,
    Verdict,
)
from arpipam.leases.lease import LeaseState
from tests.support.lans import (
    FREE,
    FREE_TOO,
    GIVEN,
    PRINTER,
    Lan,
    Opener,
    announcements,
    owners,
    probed,
    run_inside,
)
from tests.support.until import until, until_async


def test_the_asynchronous_one_does_the_same(lan: Lan, opened: Opener) -> None:
    async def all_of_them() -> None:
        few = ["172.16.42.1-172.16.42.20"]
        async with AsyncAllocator("docker0", state_dir=opened.state, ranges=few, witnesses=[PRINTER]) as allocator:
            found, verdicts, stations = await asyncio.gather(
                allocator.find(), allocator.probe([PRINTER, "172.16.42.9"]), allocator.scan()
            )
            assert str(found.address) == FREE
            assert [one.verdict for one in verdicts] == [Verdict.IN_USE, Verdict.FREE]
            assert [(str(one.address), one.mac) for one in stations] == [(PRINTER, lan.printer.mac)]
            async with await allocator.claim("web") as claim:
                until(lambda: owners(lan, FREE) == {claim.mac})
                assert [str(lease.address) for lease in allocator.leases.leases()] == [FREE]
            with pytest.raises(InputError, match="outside of"):
                await allocator.probe(["10.0.0.1"])

    run_inside(lan.host, all_of_them)


def test_claims_at_once_get_an_address_each(lan: Lan, opened: Opener) -> None:
    async def claim_several() -> None:
        async with AsyncAllocator("docker0", state_dir=opened.state, witnesses=[PRINTER]) as allocator:
            claims = await asyncio.gather(*(allocator.claim(f"web-{n}") for n in range(4)))
            seen = lan.wire.who_have(str(claim.address) for claim in claims)
            assert seen == {str(claim.address): {claim.mac} for claim in claims}
            assert len(seen) == 4

    run_inside(lan.host, claim_several)


def test_claims_at_once_share_the_station_that_answers(own_lan: Lan, opened: Opener) -> None:
    async def claim_two() -> None:
        # At this pace both have started before the first of them asks for the only station.
        few = ["172.16.42.2-172.16.42.9"]
        async with AsyncAllocator("docker0", state_dir=opened.state, ranges=few, rate=200) as allocator:
            claims = await asyncio.gather(*(allocator.claim(f"web-{n}") for n in range(2)))
            assert {str(claim.address) for claim in claims} == {FREE, FREE_TOO}

    run_inside(own_lan.host, claim_two)


def test_a_cancelled_claim_leaves_no_lease(lan: Lan, opened: Opener) -> None:
    async def cancel() -> None:
        async with AsyncAllocator("docker0", state_dir=opened.state, timing="rfc5227") as allocator:
            for address in (None, GIVEN):
                task = asyncio.create_task(allocator.claim("web", address))
                await until_async(probed(capture, address or FREE))
                assert opened.leases() == {address or FREE: LeaseState.CLAIMED}
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until_async(lambda: opened.leases() == {})

    with lan.wire.capture() as capture:
        run_inside(lan.host, cancel)
    assert announcements(capture.packets, FREE) == announcements(capture.packets, GIVEN) == []


@pytest.mark.parametrize("given", [GIVEN, None])
def test_a_claim_that_is_cancelled_too_late_is_released(lan: Lan, opened: Opener, given: str | None) -> None:
    address = given or FREE

    async def cancel() -> None:
        async with AsyncAllocator("docker0", state_dir=opened.state) as allocator:
            task = asyncio.create_task(allocator.claim("web", given))
            await until_async(probed(capture, address))
            # From here on this thread does not yield, so that the task hears nothing of its result.
            until(lambda: capture.read() and announcements(capture.packets, address))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_async(lambda: opened.leases() == {address: LeaseState.QUARANTINED})
            assert owners(lan, address) == set()

    with lan.wire.capture() as capture:
        run_inside(lan.host, cancel)
