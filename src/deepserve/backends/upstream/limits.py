"""How long an upstream may take, and how much it may send."""

from __future__ import annotations

import msgspec


class UpstreamLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps one bad upstream from holding requests for ever.

    connect_s       until a connection stands
    first_event_s   from then on until the answer begins; keep-alives do not count. DeepSeek queues for ten minutes:
                    api-docs.deepseek.com/quick_start/rate_limit
    idle_s          between two events of an answer; keep-alives do not count
    total_s         for everything
    whole_tokens    an answer that its client gets whole and that may be at most so long is asked for whole: that
                    costs a fraction, and must come within first_event_s and idle_s together. Of longer ones is heard
                    as they come, so that silence shows
    linger_s        after an answer's end, for the usage that some send later, and then for the connection's
    error_s         for the body of a refusal
    learn_s         for the list of models, when the server starts,
    learn_again_s   and again after so long where the upstream could not be asked then
    num_retries     of what did not begin and cannot have cost anything,
    max_wait_s      with a pause of at most so long; where the upstream asks for a longer one, the client is told
    event_bytes     of one event
    answer_bytes    of one answer on the wire
    """

    connect_s: float = 10.0
    first_event_s: float = 610.0
    idle_s: float = 180.0
    total_s: float = 7200.0
    whole_tokens: int = 8192
    linger_s: float = 2.0
    error_s: float = 10.0
    learn_s: float = 3.0
    learn_again_s: float = 30.0
    num_retries: int = 2
    max_wait_s: float = 8.0
    event_bytes: int = 4 * 1024 * 1024
    answer_bytes: int = 256 * 1024 * 1024
