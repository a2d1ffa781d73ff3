"""Several results drawn at the same time, told as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from deepserve.backends.cluster.course import Course
from deepserve.core.errors import DeepserveError
from deepserve.engine.interface import Drawn

News = Sequence[Drawn] | DeepserveError | None
"""Tokens; or the last word about a result: the error that ended it, or nothing more to say."""


async def side_by_side(courses: Sequence[Course]) -> AsyncGenerator[tuple[int, News]]:
    """The courses' news, with the number of each. Closing it closes them.

    The others begin when the first has a token: the prompt they share is computed once. What a slow reader has not read
    waits in memory, which the output limit bounds.
    """
    if len(courses) == 1:
        async with aclosing(_news(courses[0])) as alone:
            async for news in alone:
                yield 0, news
        return
    unread: asyncio.Queue[tuple[int, News, bool]] = asyncio.Queue()
    has_begun = asyncio.Event()

    async def follow(number: int) -> None:
        try:
            if number:
                await has_begun.wait()
            async with aclosing(_news(courses[number])) as told:
                async for news in told:
                    has_begun.set()
                    unread.put_nowait((number, news, False))
        finally:
            has_begun.set()
            unread.put_nowait((number, None, True))

    tasks = [asyncio.create_task(follow(number)) for number in range(len(courses))]
    try:
        num_left = len(courses)
        while num_left:
            number, news, is_over = await unread.get()
            if is_over:
                await tasks[number]  # what nobody expected is raised here
                num_left -= 1
            else:
                yield number, news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _news(course: Course) -> AsyncGenerator[News]:
    """A course's tokens and its last word; nothing more once it is cancelled."""
    try:
        async with aclosing(course.tokens()) as batches:
            async for batch in batches:
                yield batch
                if course.is_cancelled:
                    return
    except DeepserveError as error:
        yield error
        return
    yield None
