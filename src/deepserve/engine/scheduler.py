"""Continuous batching: decides in each step which tokens of which results the engine computes.

The synchronous core, one thread, no clock of its own; `step_loop` runs it in a thread and speaks asyncio.

A step holds one decode row for every result that has its prompt behind it, and chunks of prompts up to the pace's
allowance. Rows end at absolute multiples of CHUNK_TOKENS, at the prompt's own boundaries, and in between where a step
would last too long: an engine's results do not depend on how tokens are cut into rows, so what is computed together
depends on load but what comes out does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import inf

import msgspec

from deepserve.core.errors import DeepserveError, EngineFailure
from deepserve.core.tenant import TenantId
from deepserve.engine.disk_prefixes import DiskPrefixes
from deepserve.engine.generation import Admitted, Generation, GenerationId, Progress, ResultEnded, TokenDrawn
from deepserve.engine.interface import CHUNK_TOKENS, Drawn, Engine, EngineInfo, Row, RowFault, Snapshot
from deepserve.engine.prefix_index import dense_tokens, snapshot_interval
from deepserve.engine.prefix_store import PrefixStore
from deepserve.engine.result_state import ResultState
from deepserve.engine.scheduler_stats import SchedulerStats, SchedulerTotals
from deepserve.engine.state_memory import StateMemory
from deepserve.engine.step_pace import StepPace
from deepserve.engine.waiting_line import WaitingLine

_logger = logging.getLogger(__name__)

_STATS_S = 0.01
"""Nobody looks at statistics more often, and counting takes a tenth of a small network's step."""


class _Group(msgspec.Struct, eq=False):
    """The results of one generation.

    trunk      the prompt's state but for its last token, until every result has it
    is_sought  the disk was asked for its prompt
    """

    results: list[ResultState]
    trunk: Snapshot | None = None
    unstarted: set[int] = msgspec.field(default_factory=set)
    is_sought: bool = False
    is_admitted: bool = False
    is_paused: bool = False


_Outcome = Drawn | RowFault | None


def longest_history_tokens(info: EngineInfo) -> int:
    """The longest history of an engine that has the memory to itself, beside one snapshot."""
    rounding = 2 * CHUNK_TOKENS
    return max(0, min(info.max_context, info.capacity_tokens - rounding))


class Scheduler:
    """Owns the engine's sequences and the prefix index.

    max_sequences  results computed side by side
    clock          seconds, monotonic; measures steps, and bounds what `close` saves
    store          prefixes on disk; it is closed with the scheduler
    save_s         how long closing may take to write what the store lacks
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_sequences: int,
        clock: Callable[[], float],
        pace: StepPace | None = None,
        store: PrefixStore | None = None,
        save_s: float = 0.0,
    ) -> None:
        self.pace = pace or StepPace()
        self.on_news: Callable[[], None] = lambda: None
        """Called from other threads when another step would bring something, though nobody gave a command."""
        self._engine = engine
        self._max_sequences = max_sequences
        self._clock = clock
        self.snapshot_interval = snapshot_interval(engine.info)
        self._dense_tokens = dense_tokens(engine.info)
        self._memory = StateMemory(engine)
        self._index = self._memory.index
        self._disk: DiskPrefixes | None = None
        if store is not None:
            make_room = self._memory.has_space
            self._disk = DiskPrefixes(
                engine, self._index, store, make_room=make_room, clock=clock, wake=lambda: self.on_news()
            )
        self._save_s = save_s
        self._groups: dict[GenerationId, _Group] = {}
        self._fetching: dict[GenerationId, ResultState] = {}  # first results whose prefix is read from the disk
        self._running: list[ResultState] = []  # in order of admission
        self._decoding: list[ResultState] = []  # those of them that are not paused and have their prompt behind them
        self._has_changed = True  # what runs may not be what ran in the last step: look who decodes
        self._waiting = WaitingLine()
        self._updates: list[tuple[GenerationId, Progress]] = []
        self._totals = SchedulerTotals()
        self._stats, self._counted = self._count(), -inf
        self.made_progress = False

    @property
    def capacity_tokens(self) -> int:
        """The longest history that fits into the memory when it has the machine to itself, beside one snapshot."""
        return longest_history_tokens(self._engine.info)

    def stats(self) -> SchedulerStats:
        """As of at most _STATS_S ago, or of the last step; may be called from any thread."""
        return self._stats

    def _count(self) -> SchedulerStats:
        disk = self._disk
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting) + len(self._fetching),
            cache_bytes=self._index.size_bytes,
            cache_snapshots=self._index.num_snapshots,
            cache_evictions=self._index.num_evicted,
            disk_cache_hits=disk.num_hits if disk is not None else 0,
            disk_cache_misses=disk.num_misses if disk is not None else 0,
            disk_cache_hit_tokens=disk.hit_tokens if disk is not None else 0,
            memory_free_ratio=self._memory.free_ratio(),
            **msgspec.structs.asdict(self._totals),
        )

    def add(self, generation_id: GenerationId, generation: Generation) -> None:
        """Queue a generation; its history must fit `capacity_tokens`. Raises ValueError for an empty prompt."""
        if not generation.prompt:
            raise ValueError("a prompt has at least one token")
        if generation.guides and len(generation.guides) != len(generation.draws):
            raise ValueError("a generation has a guide for each result, or none")
        first = ResultState(generation_id, generation, 0)
        self._groups[generation_id] = _Group(results=[first])
        self._waiting.add(first)

    def cancel(self, generation_id: GenerationId) -> None:
        """Forget a generation and free what it holds; nothing more is reported about it. Unknown ids are fine."""
        group = self._groups.pop(generation_id, None)
        if group is not None:
            for state in group.results:
                self._remove(state)
            self._release_trunk(group)

    def cancel_result(self, generation_id: GenerationId, result: int) -> None:
        """The same for one result that has begun; the others go on."""
        group = self._groups.get(generation_id)
        if group is not None and result < len(group.results) and not group.results[result].is_ended:
            self._retire(group.results[result], group)

    def pause(self, generation_id: GenerationId) -> None:
        """Compute nothing for it until `resume`: its reader is slow."""
        if generation_id in self._groups:
            self._groups[generation_id].is_paused = True
            self._has_changed = True

    def resume(self, generation_id: GenerationId) -> None:
        if generation_id in self._groups:
            self._groups[generation_id].is_paused = False
            self._has_changed = True

    def abandon(self, error: DeepserveError) -> list[tuple[GenerationId, Progress]]:
        """End every generation with this error."""
        for group in list(self._groups.values()):
            self._fail_group(group, error)
        return self._take_updates()

    def close(self) -> None:
        """Free everything, cached prefixes too, once they are saved."""
        for generation_id in list(self._groups):
            self.cancel(generation_id)
        if self._disk is not None:
            self._disk.save_all(self._save_s)
        self._index.clear()

    def step(self) -> list[tuple[GenerationId, Progress]]:
        """Compute one step and tell what it brought.

        If `made_progress` is false afterwards, the next step will change nothing either, until a command comes.
        """
        if self._disk is not None:
            self._land(self._disk)
        if self._waiting:
            self._admit()
        if self._has_changed:
            self._begin_answers()
        plan = self._make_room(self._plan())
        if plan:
            # While nothing changes all of them decode.
            num_decoded = sum([state.is_decoding for state in plan]) if self._has_changed else len(plan)
            started = self._clock()
            num_tokens = self._compute(plan)
            ended = self._clock()
            seconds = ended - started
            # Tokens that were forced cost what a prompt's do, but for one that an ordinary step would have as well.
            self.pace.observe(num_decoded=num_decoded, prompt_tokens=num_tokens - num_decoded, seconds=seconds)
            totals = self._totals
            totals.steps += 1
            totals.step_seconds += seconds
            if seconds > totals.longest_step_s:
                totals.longest_step_s = seconds
            if ended - self._counted >= _STATS_S or len(self._running) != self._stats.running:
                self._stats, self._counted = self._count(), ended
        has_saved = self._disk is not None and (not plan or self._disk.is_pressing) and self._disk.save_one()
        self.made_progress = bool(plan or self._updates or has_saved)
        if not plan:
            self._stats = self._count()
        return self._take_updates()

    # Admission

    def _admit(self) -> None:
        while len(self._running) + len(self._fetching) < self._max_sequences:
            state = self._waiting.first()
            if state is None or not self._has_room_for(state):
                return
            self._waiting.take_first()
            if self._is_on_disk(state):
                self._fetching[state.id] = state
            else:
                self._start(state)

    def _is_on_disk(self, state: ResultState) -> bool:
        """Whether to wait for a better state than memory has of a prompt. Each is looked up once."""
        group, key = self._groups[state.id], state.generation.cache_key
        if self._disk is None or group.is_sought:
            return False
        group.is_sought = True
        packed, limit = state.packed(state.num_prompt), state.num_prompt - 1
        known_tokens = self._index.match(key, packed, limit=limit).position
        return self._disk.seek(state.id, key, packed, limit=limit, known_tokens=known_tokens)

    def _land(self, disk: DiskPrefixes) -> None:
        """Put those back in line whose prefix has come from the disk, or could not."""
        for generation_id in disk.land():
            self._waiting.add_siblings([self._fetching.pop(generation_id)])

    def _has_room_for(self, state: ResultState) -> bool:
        """Whether the whole history fits beside what is running, cached prefixes evicted if need be.

        With nothing running the answer is yes: it fits `capacity_tokens`.
        """
        key, num_tokens = state.generation.cache_key, len(state.history)
        promised = sum(other.num_pending for other in self._running)
        # Looking it up marks the prefix as used, so that it is evicted last.
        restored = self._index.match(key, state.packed(num_tokens), limit=num_tokens - 1).position
        rounding = (len(self._running) + 1) * CHUNK_TOKENS
        tokens = promised + num_tokens - restored + rounding
        while not self._memory.is_free(tokens=tokens, states=1):
            if not self._reclaim(key.tenant):
                return not self._running
        return True

    def _start(self, state: ResultState) -> None:
        """Give a result its engine sequence, from the best state known of its tokens."""
        group, num_tokens = self._groups[state.id], len(state.history)
        match = self._index.match(state.generation.cache_key, state.packed(num_tokens), limit=num_tokens - 1)
        self._running.append(state)
        self._has_changed = True
        try:
            if group.trunk is not None and state.result in group.unstarted:
                state.sequence, state.computed = self._engine.restore(group.trunk), state.num_prompt - 1
            elif match.snapshot is not None:
                state.sequence, state.computed = self._engine.restore(match.snapshot), match.position
            else:
                state.sequence = self._engine.create()
        except Exception:
            _logger.exception("the engine could not start a sequence")
            self._fail(state, _engine_failure())
            return
        group.unstarted.discard(state.result)
        if not group.unstarted:
            self._release_trunk(group)
        # Prompts that share a beginning make it a unit of its own: the next one to share it will hit.
        shared = match.common_tokens // CHUNK_TOKENS * CHUNK_TOKENS
        if shared > state.computed:
            state.snapshot_positions.add(shared)
        if not group.is_admitted:
            group.is_admitted = True
            self._totals.prompt_tokens_restored += state.computed
            self._report(state, Admitted(hit_tokens=state.computed, common_tokens=match.common_tokens))
        self._branch(state)

    # One step

    def _begin_answers(self) -> None:
        """Ask the guides of results whose prompt ends in this step what their answers must begin with."""
        for state in self._running.copy():
            if state.is_about_to_begin and not self._is_paused(state):
                self._take(state, None)

    def _plan(self) -> list[ResultState]:
        """Who computes in this step."""
        if not self._has_changed:
            return self._decoding
        decoding: list[ResultState] = []
        prefilling: list[ResultState] = []
        for state in self._running:
            if not self._is_paused(state):
                (decoding if state.is_decoding else prefilling).append(state)
        self._decoding = decoding
        if not prefilling:
            self._has_changed = False
            return decoding
        plan = decoding.copy()
        self._plan_prompts(plan, prefilling)
        return plan

    def _plan_prompts(self, plan: list[ResultState], prefilling: list[ResultState]) -> None:
        """Add as many chunks of prompts as a step with this plan has time for, those longest without one first."""
        prefilling.sort(key=lambda state: state.last_chunk_step)
        left = self.pace.prompt_allowance(num_decoded=len(plan)) - sum(state.next_tokens - 1 for state in plan)
        row_tokens = self.pace.row_tokens(num_decoded=len(plan))
        for place, state in enumerate(prefilling):
            state.row_tokens = row_tokens
            left -= state.next_tokens
            if left < 0 and place > 0:  # the first always gets its chunk
                break
            state.last_chunk_step = self._totals.steps + 1
            plan.append(state)

    def _make_room(self, plan: list[ResultState]) -> list[ResultState]:
        """Evict what is cached, then preempt the youngest, until the step fits. The oldest always stays."""
        if not [state for state in plan if len(state.history) > state.owned_tokens]:
            return plan
        while plan and not self._memory.is_free(tokens=sum(map(_growth_tokens, plan))):
            if self._reclaim(plan[0].generation.cache_key.tenant):
                continue
            if len(self._running) == 1:
                break
            victim = self._running[-1]
            self._preempt(victim)
            plan = [state for state in plan if state is not victim]
        return plan

    def _compute(self, plan: Sequence[ResultState]) -> int:
        """Returns how many tokens the engine was given."""
        states: list[ResultState] = []
        rows: list[Row] = []
        for state in plan:
            try:
                row = state.next_row()
            except BaseException:  # a library's panic is no Exception, and this loop serves everybody
                _logger.exception("a token guide failed")
                self._fail(state, _guide_failure())
                continue
            states.append(state)
            rows.append(row)
        if not rows:
            return 0
        for state, row, outcome in zip(states, rows, self._run(states, rows), strict=True):
            if state.sequence is None:
                continue  # ended or preempted together with a row before it
            if isinstance(outcome, RowFault):
                self._fail(state, _engine_failure(outcome.message))
            else:
                self._advance(state, row, outcome)
        return sum([len(row.tokens) for row in rows])

    def _run(self, states: Sequence[ResultState], rows: Sequence[Row]) -> Sequence[_Outcome]:
        """Compute the rows; a step that raises is repeated row by row, so that the fault stays with its row."""
        try:
            return self._engine.step(rows)
        except Exception:
            _logger.exception("a step of %d rows failed", len(rows))
        if len(rows) == 1:
            return [RowFault("the step failed")]
        return [self._run_alone(state, row) for state, row in zip(states, rows, strict=True)]

    def _run_alone(self, state: ResultState, row: Row) -> _Outcome:
        try:
            if self._engine.length(row.sequence) != state.computed:
                # The engine could not take the failed step back: once, compute this result anew from its tokens.
                if state.was_recomputed:
                    return RowFault("the sequence was lost twice")
                state.was_recomputed = True
                self._preempt(state)
                return None
            (outcome,) = self._engine.step([row])
        except Exception:
            _logger.exception("a row failed by itself")
            return RowFault("the row failed")
        return outcome

    def _advance(self, state: ResultState, row: Row, drawn: Drawn | None) -> None:
        """Book what the engine computed."""
        before = state.computed
        state.computed = computed = before + len(row.tokens)
        if computed > state.owned_tokens:
            state.owned_tokens = -(-computed // CHUNK_TOKENS) * CHUNK_TOKENS
        is_unit = computed in state.snapshot_positions
        interval = CHUNK_TOKENS if computed <= self._dense_tokens else self.snapshot_interval
        if is_unit or computed % interval == 0:
            self._remember(state, is_unit=is_unit)
        if before < state.num_prompt:
            self._totals.prompt_tokens_computed += min(computed, state.num_prompt) - before
            if computed == state.num_prompt - 1:
                self._branch(state)
        if row.draw is None:
            return
        assert drawn is not None, "the engine drew nothing for a row that asked"
        self._totals.tokens_drawn += 1
        self._take(state, drawn)

    def _take(self, state: ResultState, drawn: Drawn | None) -> None:
        """Report the token just drawn, if any, and those that must follow it; end the result that they complete."""
        try:
            certain = state.follow() if drawn is None else state.accept(drawn)
        except BaseException:  # as above
            _logger.exception("a token guide failed")
            self._fail(state, _guide_failure())
            return
        for token in certain:
            self._updates.append((state.id, TokenDrawn(result=state.result, drawn=token)))
        num_forced = len(certain) - (drawn is not None)
        if num_forced:
            self._totals.tokens_forced += num_forced
            self._has_changed = self._has_changed or not state.is_decoding
        if state.ending is not None:
            self._finish(state, ResultEnded(result=state.result, reason=state.ending))

    def _branch(self, state: ResultState) -> None:
        """Queue the other results once the first has all they share: the prompt but for its last token."""
        group, generation = self._groups[state.id], state.generation
        num_results = len(generation.draws)
        if len(group.results) == num_results or state.computed < state.num_prompt - 1:
            return
        assert state.computed == state.num_prompt - 1, "rows end there"
        if state.computed:
            group.trunk = self._snapshot(state)
        others = [ResultState(state.id, generation, result) for result in range(1, num_results)]
        group.results.extend(others)
        if group.trunk is not None:  # else they compute the prompt each for itself
            group.unstarted = set(range(1, num_results))
        self._waiting.add_siblings(others)

    # Remembering

    def _remember(self, state: ResultState, *, is_unit: bool) -> None:
        """Put a snapshot of the sequence as it is into the index. A failure costs a later hit, not this answer."""
        key, packed = state.generation.cache_key, state.packed(state.computed)
        if not self._index.has(key, packed):
            snapshot = self._snapshot(state)
            if snapshot is not None:
                self._index.insert(key, packed, snapshot)
        if is_unit and self._disk is not None:
            self._disk.note(key, packed)

    def _snapshot(self, state: ResultState) -> Snapshot | None:
        state.owned_tokens = 0  # the last block is shared from now on, and copied when it is written to
        return self._memory.snapshot(state.sequence, state.generation.cache_key.tenant)

    def _reclaim(self, tenant: TenantId) -> bool:
        """Give up something that only saves time: a cached prefix, or a prompt that other results wait for."""
        if self._index.evict(tenant):
            return True
        for group in self._groups.values():
            if group.trunk is not None:
                group.unstarted.clear()
                self._release_trunk(group)
                return True
        return False

    # Ending

    def _finish(self, state: ResultState, ended: ResultEnded) -> None:
        """The state holds all but the last tokens, which nobody had to compute; the next turn continues from there."""
        if state.computed:
            self._remember(state, is_unit=True)
        self._end(state, ended)

    def _fail(self, state: ResultState, error: DeepserveError) -> None:
        group = self._groups[state.id]
        self._totals.faults += 1
        if len(group.results) < len(state.generation.draws):
            self._fail_group(group, error)  # the others were waiting for this one's prompt
        else:
            self._end(state, ResultEnded(result=state.result, reason="failed", error=error))

    def _fail_group(self, group: _Group, error: DeepserveError) -> None:
        """End every result that has not ended, also those not queued yet."""
        first = group.results[0]
        num_queued = len(group.results)
        for state in list(group.results):
            self._end(state, ResultEnded(result=state.result, reason="failed", error=error))
        for result in range(num_queued, len(first.generation.draws)):
            self._report(first, ResultEnded(result=result, reason="failed", error=error))
        self._release_trunk(group)
        self._groups.pop(first.id, None)

    def _end(self, state: ResultState, ended: ResultEnded) -> None:
        group = self._groups.get(state.id)
        if group is not None and not state.is_ended:
            self._report(state, ended)
            self._retire(state, group)

    def _retire(self, state: ResultState, group: _Group) -> None:
        self._remove(state)
        state.is_ended = True
        if all(other.is_ended for other in group.results) and len(group.results) == len(state.generation.draws):
            self._release_trunk(group)
            del self._groups[state.id]

    def _preempt(self, state: ResultState) -> None:
        """Take a result's memory away; it will be computed again from its tokens, and come out the same."""
        self._remove(state)
        self._waiting.add_preempted(state)
        self._totals.preemptions += 1

    def _remove(self, state: ResultState) -> None:
        """Take a result out of wherever it is and free its sequence."""
        if state.sequence is not None:
            try:
                self._engine.free(state.sequence)
            except Exception:
                _logger.exception("the engine could not free a sequence")
            state.sequence = None
            state.computed = state.owned_tokens = 0
        if state in self._running:
            self._running.remove(state)
            self._has_changed = True
        self._waiting.discard(state)
        if self._disk is not None and self._fetching.pop(state.id, None) is not None:
            self._disk.forget(state.id)

    def _release_trunk(self, group: _Group) -> None:
        if group.trunk is not None:
            self._memory.release(group.trunk)
            group.trunk = None

    # Small things

    def _is_paused(self, state: ResultState) -> bool:
        return self._groups[state.id].is_paused

    def _report(self, state: ResultState, progress: Progress) -> None:
        self._updates.append((state.id, progress))

    def _take_updates(self) -> list[tuple[GenerationId, Progress]]:
        updates, self._updates = self._updates, []
        return updates


def _growth_tokens(state: ResultState) -> int:
    """Size of the blocks that the next row takes; one begun earlier may be shared and be copied first."""
    if state.next_end <= state.owned_tokens:
        return 0
    return (-(-state.next_end // CHUNK_TOKENS) - state.computed // CHUNK_TOKENS) * CHUNK_TOKENS


def _engine_failure(detail: str = "") -> EngineFailure:
    because = f" ({detail})" if detail else ""
    return EngineFailure(f"The engine failed while computing this answer{because}. Please retry.")


def _guide_failure() -> EngineFailure:
    return EngineFailure("The answer's constraint could not be computed.")
