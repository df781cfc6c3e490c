"""asyncio: a task is kept out of another task's transaction, and out of its context, as a thread is."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

import statevar as sv
from tests.helpers import PATIENCE, assert_same
from tests.internals import holds


def test_tasks_take_turns(backend: str) -> None:
    v, w = sv.Variable(0, backend=backend), sv.Variable(0, backend=backend)

    async def add() -> None:
        for _ in range(5):
            async with sv.transaction(v, w):
                before = int(v)
                await asyncio.sleep(0)
                v.assign(before + 1)
                await asyncio.sleep(0)
                w.assign(before + 1)

    async def look() -> None:
        for _ in range(20):
            cut = sv.snapshot(v, w)
            assert int(cut[v]) == int(cut[w]), "half a transaction"
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(add(), add(), look(), add())

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert (int(v), int(w)) == (15, 15)


def test_a_task_made_inside_is_outside(backend: str) -> None:
    v = sv.Variable([1.0], name="w", backend=backend)

    async def child() -> list[float]:
        seen: list[float] = v.numpy().tolist()
        with pytest.raises(
            sv.errors.ConflictError, match="the variable is held by the transaction that started this thread or task"
        ):
            v.assign([50.0])
        return seen

    async def main() -> None:
        async with sv.transaction(v):
            v.assign([2.0])
            assert await asyncio.create_task(child()) == [1.0]

    asyncio.run(main())
    assert_same(v, [2.0])


def test_a_worker_thread_started_inside_is_outside() -> None:
    v = sv.Variable([1.0], name="w")

    async def main() -> None:
        async with sv.transaction(v):
            v.assign([2.0])
            assert (await asyncio.to_thread(v.numpy)).tolist() == [1.0]
            with pytest.raises(sv.errors.ConflictError, match="since it may be waiting for this code"):
                await asyncio.to_thread(v.assign, [3.0])

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert_same(v, [2.0])


def test_a_plain_write_to_what_another_task_holds_is_an_error() -> None:
    v = sv.Variable([1.0], name="w")

    async def holder(began: asyncio.Event, end: asyncio.Event) -> None:
        async with sv.transaction(v):
            v.assign([2.0])
            began.set()
            await end.wait()

    async def main() -> None:
        began, end = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(holder(began, end))
        await began.wait()
        for write in (lambda: v.assign([3.0]), lambda: v.update(lambda a: a), sv.transaction(v).__enter__):
            with pytest.raises(
                sv.errors.ConflictError,
                match="another asyncio task of this thread holds the variable for a transaction, at 'w'. "
                "Hint: use `async with",
            ):
                write()
        assert_same(v, [1.0])
        end.set()
        await task
        v.assign_add([1.0])

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert_same(v, [3.0])


def test_waiting_for_a_thread_does_not_block_the_loop() -> None:
    import threading

    v = sv.Variable(0)
    began, end = threading.Event(), threading.Event()

    def holder() -> None:
        with sv.transaction(v):
            began.set()
            assert end.wait(PATIENCE), "the event loop was blocked"
            v.assign(5)

    async def ticker() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        end.set()

    async def waiter() -> None:
        async with sv.transaction(v):
            v.assign_add(1)

    async def main() -> None:
        await asyncio.gather(waiter(), ticker())

    thread = threading.Thread(target=holder)
    thread.start()
    assert began.wait(PATIENCE)
    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    thread.join()
    assert int(v) == 6


def test_a_cancelled_task_lets_go() -> None:
    v = sv.Variable(0)

    async def holder() -> None:
        async with sv.transaction(v):
            v.assign(1)
            await asyncio.Event().wait()

    async def waiter() -> None:
        async with sv.transaction(v):
            v.assign(2)

    async def main() -> None:
        held = asyncio.create_task(holder())
        await asyncio.sleep(0)
        waiting = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        assert int(v) == 0, "what was cancelled was dropped"
        async with sv.transaction(v):
            v.assign(3)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert int(v) == 3


def test_waiting_inside_a_transaction_is_an_error() -> None:
    a, b = sv.Variable(0), sv.Variable(0)

    async def holder(end: asyncio.Event) -> None:
        async with sv.transaction(b):
            await end.wait()

    async def main() -> None:
        end = asyncio.Event()
        task = asyncio.create_task(holder(end))
        await asyncio.sleep(0)
        async with sv.transaction(a):
            with pytest.raises(sv.errors.ConflictError, match="Hint: list it in the outer transaction"):
                async with sv.transaction(b):
                    pass
            a.assign(1)
        end.set()
        await task

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert int(a) == 1


def test_an_exception_drops_the_transaction_of_a_task(backend: str) -> None:
    v = sv.Variable(0, backend=backend)

    async def main() -> None:
        async with sv.transaction(v):
            v.assign(1)
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(main())
    assert int(v) == 0


def test_scopes_of_two_tasks_do_not_mix() -> None:
    async def named(name: str) -> str:
        with sv.name_scope(name):
            await asyncio.sleep(0)
            return sv.Variable(0, name="v").path

    async def main() -> list[str]:
        return [*await asyncio.gather(named("a"), named("b"))]

    assert asyncio.run(main()) == ["a/v", "b/v"]


def test_a_hold_ends_once() -> None:
    """A second `end` would take the lock from a thread that stands between two instructions of `wait`."""
    hold = holds.Hold("a test")
    hold.end()
    assert hold._ended.acquire(blocking=False), "a thread that waits goes on"
    hold.end()
    assert hold._ended.locked(), "the second end has released the lock of the waiting thread"


def test_every_callback_of_an_end_is_called_whatever_the_others_raise(caplog: pytest.LogCaptureFixture) -> None:
    hold = holds.Hold("a test")
    called: list[str] = []

    def fails() -> None:
        called.append("fails")
        raise RuntimeError("Event loop is closed")

    forgotten = partial(called.append, "forgotten")
    for call in (fails, partial(called.append, "first"), forgotten, partial(called.append, "second")):
        hold.when_over(call)
    hold.forget(forgotten)
    hold.forget(forgotten)  # may be repeated
    hold.end()
    assert called == ["fails", "first", "second"]
    assert "a test: a callback of its end raised an exception" in caplog.text


def test_a_waiter_whose_loop_was_closed_disturbs_nobody(backend: str) -> None:
    """One task gives up and its loop closes; the commit is whole, is told to subscribers, and wakes living loops."""
    v = sv.Variable([0.0], backend=backend)
    told: list[int] = []
    v.subscribe(lambda variable, version: told.append(version))
    held, go_on, waits = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def owner() -> None:
        try:
            with sv.transaction(v):
                v.assign_add(1.0)
                held.set()
                assert go_on.wait(PATIENCE)
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            errors.append(error)

    async def times_out() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async with sv.transaction(v):
                    pass

    async def waiting() -> None:
        waits.set()
        async with sv.transaction(v):
            v.assign_add(1.0)

    thread = threading.Thread(target=owner)
    thread.start()
    assert held.wait(PATIENCE)
    for _ in range(3):
        asyncio.run(times_out())
    hold = v._holder
    assert hold is not None
    assert not hold._calls, "the waiters that gave up have left their callbacks"
    hold.when_over(fail_as_a_closed_loop)
    living = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(waiting(), PATIENCE)))
    living.start()
    assert waits.wait(PATIENCE)
    go_on.set()
    thread.join(PATIENCE)
    living.join(PATIENCE)
    assert not errors
    assert_same(v, [2.0])
    assert told == [1, 2]


def fail_as_a_closed_loop() -> None:
    raise RuntimeError("Event loop is closed")
