"""One result of an answer that a token server draws: held to its form here, whatever the server enforces itself.

    ask -> tokens as they come -> each judged by the guide -> accepted ones told
             ^                           |
             `-- from the last good one -'   where the server left the form, or another phase begins

A guide says what may come next, as it does for our own engine, but it speaks after the fact: a token that may not
stand is not told to anybody, the server's stream is closed, and it is asked for one token that may, then for the rest.
Thinking, text and forms are asked for one after the other where a form follows, each ending at the token that leads to
the next, because servers can be told a form from its beginning only. Their cached prefixes make that cheap.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Literal, TypeVar

import msgspec

from deepserve.backends.cluster.asking import Ask, FormLevel, Part, Refused, ServerForm
from deepserve.backends.cluster.form_levels import FormLevels
from deepserve.backends.cluster.token_masks import allows, few_tokens, only_token
from deepserve.backends.tokens.composer import Work
from deepserve.core.errors import BackendFailure, DeepserveError, UnfitAnswer, UnsupportedFeature
from deepserve.engine.interface import Draw, Drawn
from deepserve.grammar.compiler import CompiledForm, Entry

MAX_CORRECTIONS: Final = 256
"""Of one result; a server that leaves the form more often is not writing it at all."""
_MAX_TRIES: Final = 4
"""Of one correction: each rules out what was drawn in vain before."""
_MAX_LISTED: Final = 512
"""So many tokens that may stand are named to the server; of more, those that may not and that it likes best."""
_MAX_IDLE: Final = 3
_TOP: Final = 20
_BIAS: Final = 100.0
"""What no logit makes up for, and the most that servers take."""
_SEED_STEP: Final = 0x9E3779B97F4A7C15
_REFUSALS: Final = (400, 422)

_Result = TypeVar("_Result")

Source = Callable[[Ask], AsyncGenerator[Part]]
"""Asks a server, whichever it is. Raises Refused, Lost or DeepserveError."""


class Lost(Exception):
    """The server went away, or is not able to go on; another one may. error: what it comes to if none is."""

    def __init__(self, error: DeepserveError) -> None:
        super().__init__(error.message)
        self.error = error


class CourseRules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every result of a request.

    model, salt, links  as `Ask` has them
    end_think    ends thinking
    mark         begins tool markup
    end          ends an answer
    lists_tokens as `Wire` has it
    num_losses   so many servers may go away, one after the other, before the answer is given up
    """

    model: str
    salt: str
    links: Mapping[str, str]
    end_think: int
    mark: int
    end: int
    lists_tokens: bool
    num_losses: int


class Totals(msgspec.Struct):
    """Counts since the start. asks: all; corrections: tokens that were asked for again; losses: asks cut short."""

    asks: int = 0
    corrections: int = 0
    losses: int = 0


class Course:
    """Asks, judges and tells, until `ending` says why the result is complete. For one reader.

    is_cancelled  set by the reader who needs no more
    hit_tokens  of the prompt, as the first server said; None until it does
    """

    def __init__(
        self, work: Work, result: int, rules: CourseRules, source: Source, levels: FormLevels, totals: Totals
    ) -> None:
        self._work = work
        self._rules = rules
        self._source = source
        self._levels = levels
        self._totals = totals
        self._guide = work.guides[result] if work.guides else None
        self._draw = work.draws[result]
        self._output: list[int] = []
        self._expected: list[int] = []  # told already, and to come from the server as well
        self._stops: frozenset[int] = frozenset()  # of the ask that is being answered
        self._has_stopped = False  # one of them has come
        self._has_answered = False
        self._num_idle = 0  # asks in a row that brought nothing
        self._mask: bytes | None = None
        self._is_mask_known = False
        self._entry: Entry | None = _entry(work.rules.start.stage, self._phase, work.compiled)
        self._level: FormLevel | None = None  # lowered for this result alone
        self._wrong: Drawn | None = None
        self._num_corrections = 0
        self._num_losses = 0
        self.hit_tokens: int | None = None
        self.ending: Literal["stop", "length"] | None = None
        self.is_cancelled = False

    @property
    def _phase(self) -> Literal["thinking", "text", "form", "ended"]:
        return self._guide.phase if self._guide is not None else "text"

    async def tokens(self) -> AsyncGenerator[Sequence[Drawn]]:
        """What stands in the answer, as it becomes certain. Raises DeepserveError."""
        held: list[Drawn] = []  # until a server has answered: before that, the answer has not begun
        while self.ending is None:
            certain = await self._off_loop(self._certain)
            if certain and not self._has_answered:
                held += certain
            elif certain:
                yield certain
            elif self._wrong is not None:
                yield [*held, await self._corrected(self._wrong)]
                held.clear()
            else:
                async with aclosing(self._drawn()) as accepted:
                    async for batch in accepted:
                        yield [*held, *batch]
                        held.clear()
        if held:
            yield held

    async def _drawn(self) -> AsyncGenerator[Sequence[Drawn]]:
        """Ask for all the rest, or the rest of this phase, and tell as much of it as may stand."""
        ask = self._ask(self._form(), max_tokens=self._left)
        self._stops, self._has_stopped = ask.stop_tokens, False
        self._expected.clear()
        self._num_idle += 1
        if self._num_idle > _MAX_IDLE:
            raise BackendFailure("The cluster ends its answers without a word. Please retry.")
        try:
            async with aclosing(self._asked(ask)) as parts:
                async for part in parts:
                    drawn = part.drawn
                    if part.end == "stop" and not self._has_stopped and not self._stops & {one.token for one in drawn}:
                        drawn = (*drawn, Drawn(self._rules.end))  # not every server tells it
                    accepted, is_followed = await self._off_loop(partial(self._judge, drawn))
                    if accepted or self._wrong is not None:
                        self._num_idle = 0
                    if accepted:
                        yield accepted
                    if part.end == "length" and is_followed and self.ending is None and not self._expected:
                        self.ending = "length"
                    # Behind the end there may still come how much of the prompt was cached.
                    if not is_followed or (self._has_stopped and part.end is None and part.drawn):
                        return
        except Refused as refusal:
            self._lower(ask, refusal)

    async def _asked(self, ask: Ask) -> AsyncGenerator[Part]:
        """The parts of one continuation; whoever was lost on the way is not the last to be asked."""
        self._totals.asks += 1
        is_first = not self._output
        try:
            async with aclosing(self._source(ask)) as parts:
                async for part in parts:
                    if part.drawn:
                        self._has_answered = True
                        self._num_losses = 0
                        self._levels.note_taken(ask)
                    if is_first and part.hit_tokens is not None:
                        self.hit_tokens = part.hit_tokens
                    yield part
        except Lost as loss:
            self._totals.losses += 1
            self._num_losses += 1
            if self._num_losses >= self._rules.num_losses:
                raise loss.error from loss

    # What is asked

    @property
    def _left(self) -> int:
        return self._work.max_tokens - len(self._output)

    def _ask(
        self, form: ServerForm | None, *, max_tokens: int, draw: Draw | None = None, only: tuple[int, ...] = ()
    ) -> Ask:
        return Ask(
            model=self._rules.model,
            prompt=[*self._work.prompt, *self._output],
            max_tokens=max_tokens,
            stop_tokens=self._stop_tokens(),
            draw=draw if draw is not None else self._continued_draw(),
            form=form,
            level=self._level or self._levels.current,
            only=only,
            salt=self._rules.salt,
            links=self._rules.links,
        )

    def _continued_draw(self) -> Draw:
        """The draw for what follows the output: chance goes on elsewhere, and what the output cost its tokens, which
        are part of the prompt now, is charged as a bias."""
        draw, output = self._draw, self._output
        if not output:
            return draw
        bias = dict(draw.logit_bias)
        if self._levels.takes_bias and (draw.frequency_penalty or draw.presence_penalty):
            for token, count in Counter(output).items():
                penalty = draw.frequency_penalty * count + draw.presence_penalty
                bias[token] = bias.get(token, 0.0) - penalty
        seed = (draw.seed + _SEED_STEP * len(output)) % (1 << 64)
        return msgspec.structs.replace(draw, seed=seed, logit_bias=bias)

    def _stop_tokens(self) -> frozenset[int]:
        """Also the tokens behind which the server has to be told something else."""
        compiled, phase = self._work.compiled, self._phase
        stops = set(self._work.stop_tokens)
        if compiled is not None and phase in ("thinking", "text"):
            if phase == "thinking" and not compiled.form.has_free_text:
                stops.add(self._rules.end_think)
            if compiled.form.calls != "none":
                stops.add(self._rules.mark)
        return frozenset(stops)

    def _form(self) -> ServerForm | None:
        """The form of what follows, if it is at its beginning."""
        compiled, entry = self._work.compiled, self._entry
        if compiled is None or entry is None or self._phase != "form":
            return None
        content = compiled.form.content
        if content is None or compiled.form.calls != "none" or entry != "start":
            return ServerForm(grammar=compiled.grammar(entry))
        return ServerForm(
            grammar=compiled.grammar(entry),
            kind=content.kind,
            schema=content.schema,
            pattern=content.pattern,
            choices=content.choices,
        )

    def _lower(self, ask: Ask, refusal: Refused) -> None:
        """Tell the server less; what it refuses all the same is over."""
        for knob in ("logit_bias", "min_p"):
            if knob in refusal.message and getattr(self._draw, knob):
                raise UnsupportedFeature(
                    f"The cluster does not take `{knob}`: {refusal.message[:300]}", field=knob
                ) from refusal
        if "logit_bias" in refusal.message and ask.draw.logit_bias and self._levels.takes_bias:
            self._levels.takes_bias = False
            self._num_idle = 0
            return
        if ask.form is None or ask.level == "none" or refusal.status not in _REFUSALS:
            raise _refused(refusal) from refusal
        self._level = self._levels.note_refused(ask)
        self._num_idle = 0

    # What is judged; in a thread where that may take long

    async def _off_loop(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.to_thread(work) if self._phase == "form" else work()

    def _certain(self) -> list[Drawn]:
        """Tokens that must follow and that nobody needs to be asked for."""
        found: list[Drawn] = []
        while self.ending is None:
            if self._wrong is None and self._is_told_form():
                break
            forced = self._guide.forced() if self._guide is not None else ()
            for token in forced:
                found.append(self._sure(token))
                self._append(token)
            if self.ending is not None or self._phase == "ended":
                break
            only = only_token(self._known_mask())
            if only is None:
                if not forced:
                    break
                continue
            found.append(self._sure(self._accept(only)))
        if found:
            self._wrong = None
        return found

    def _is_told_form(self) -> bool:
        """The server is about to be told the whole form: it must begin where the form does."""
        return self._form() is not None and (self._level or self._levels.current) != "none"

    def _judge(self, drawn: Sequence[Drawn]) -> tuple[list[Drawn], bool]:
        """What of these tokens stands in the answer, and whether the server's stream can be followed further."""
        accepted: list[Drawn] = []
        for one in drawn:
            if self._expected:
                if one.token != self._expected.pop(0):
                    return accepted, False
                continue
            if self._has_stopped:
                return accepted, False
            self._has_stopped = one.token in self._stops
            if self.ending is not None or not allows(self._known_mask(), one.token):
                self._wrong = one if self.ending is None else None
                return accepted, False
            token = self._accept(one.token)
            accepted.append(one if token == one.token else self._sure(token))
            if token != one.token:
                return accepted, False
            if self._guide is not None and self.ending is None:
                for forced in self._guide.forced():
                    accepted.append(self._sure(forced))
                    self._append(forced)
                    self._expected.append(forced)
        return accepted, True

    def _known_mask(self) -> bytes | None:
        if not self._is_mask_known:
            mask = self._guide.mask() if self._guide is not None else self._draw.allowed
            self._mask = mask() if callable(mask) else mask
            self._is_mask_known = True
        return self._mask

    def _accept(self, token: int) -> int:
        """Put a token that may stand into the answer, or the one that the guide wants in its place."""
        phase = self._phase
        if self._guide is not None:
            token = self._guide.accept(token)
        self._append(token)
        if phase != "form" and self._phase == "form":
            self._entry = "mark" if token == self._rules.mark else "start"
        return token

    def _append(self, token: int) -> None:
        self._output.append(token)
        self._entry = None
        self._is_mask_known = False
        if token in self._work.stop_tokens:
            self.ending = "stop"
        elif not self._left:
            self.ending = "length"

    def _sure(self, token: int) -> Drawn:
        """A token without an alternative: probability 1."""
        num_top = self._draw.num_top_logprobs
        if num_top is None:
            return Drawn(token)
        return Drawn(token, 0.0, ((token, 0.0),) if num_top else ())

    # What is asked again

    async def _corrected(self, wrong: Drawn) -> Drawn:
        """One token that may stand, in the place of one that may not."""
        self._wrong = None
        self._num_corrections += 1
        self._totals.corrections += 1
        if self._num_corrections > MAX_CORRECTIONS:
            raise UnfitAnswer("The model left the form of this answer again and again. Please retry.")
        mask = await self._off_loop(self._known_mask)
        assert mask is not None
        if self._rules.lists_tokens:
            allowed = tuple(few_tokens(mask, most=8 * len(mask)))
            found = await self._first(self._ask(None, max_tokens=1, only=allowed))
            if found is not None and allows(mask, found.token):
                return await self._put(found)
            raise UnfitAnswer("The model could not be held to the form of this answer. Please retry.")
        listed = few_tokens(mask, most=_MAX_LISTED)
        unwanted = {wrong.token, *(token for token, _ in wrong.top if not allows(mask, token))}
        for _ in range(_MAX_TRIES):
            draw = self._continued_draw()
            bias = dict(draw.logit_bias)
            for token in listed or unwanted:
                bias[token] = (_BIAS if listed else -_BIAS) + (bias.get(token, 0.0) if listed else 0.0)
            num_top = max(_TOP, draw.num_top_logprobs or 0)
            ask = self._ask(
                None, max_tokens=1, draw=msgspec.structs.replace(draw, logit_bias=bias, num_top_logprobs=num_top)
            )
            found = await self._first(ask)
            if found is None:
                continue
            if allows(mask, found.token):
                return await self._put(found)
            unwanted |= {found.token, *(token for token, _ in found.top if not allows(mask, token))}
        raise UnfitAnswer("The model could not be held to the form of this answer. Please retry.")

    async def _put(self, found: Drawn) -> Drawn:
        accepted = await self._off_loop(partial(self._accept, found.token))
        if accepted != found.token:
            return self._sure(accepted)
        wanted = self._draw.num_top_logprobs
        return Drawn(found.token) if wanted is None else Drawn(found.token, found.logprob, found.top[:wanted])

    async def _first(self, ask: Ask) -> Drawn | None:
        try:
            async with aclosing(self._asked(ask)) as parts:
                async for part in parts:
                    if part.drawn:
                        return part.drawn[0]
                    if part.end == "stop":
                        return Drawn(self._rules.end)
        except Refused as refusal:
            raise BackendFailure(
                f"The cluster refused the request ({refusal.status}): {refusal.message[:300]}"
            ) from refusal
        return None


def _refused(refusal: Refused) -> BackendFailure:
    return BackendFailure(f"The cluster refused the request ({refusal.status}): {refusal.message[:300]}")


def _entry(stage: str, phase: str, compiled: CompiledForm | None) -> Entry | None:
    """Where in the form an answer begins that begins with it."""
    if compiled is None or phase != "form" or stage == "text_continued":
        return None
    return "block" if stage == "tool_calls" else "start"
