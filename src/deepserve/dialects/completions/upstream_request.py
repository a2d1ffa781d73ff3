"""Plain completions and holes as other services want to be asked: `core.Request` to a body.

Nothing is lost in silence: what a service has no field for is named (`left_out`), or refused by name. `echo` is not
sent, for whoever encodes the answer repeats the prompt.
"""

from __future__ import annotations

import msgspec

from deepserve.core.errors import UnsupportedFeature
from deepserve.core.messages import Json
from deepserve.core.request import Infill, Request
from deepserve.core.sampling import KNOBS
from deepserve.dialects.upstream_request import SEVERAL_RESULTS, UpstreamRequest


class CompletionsFlavour(msgspec.Struct, frozen=True, kw_only=True):
    """What one service takes.

    path        after its base address
    has_suffix  it fills holes
    needs_limit where none is named it ends after a few tokens, so that the dialect's usual one is sent
    knobs       of sampling, by the names of `core.sampling`; besides `seed`, `logit_bias`, `logprobs`
    has_several_results  it knows `n`
    user_field  says whose request it is
    """

    path: str
    has_suffix: bool
    needs_limit: bool
    knobs: frozenset[str]
    has_several_results: bool
    user_field: str


def encode_upstream_request(
    request: Request,
    infill: Infill,
    flavour: CompletionsFlavour,
    *,
    model: str,
    user: str | None = None,
    is_stream: bool = True,
) -> UpstreamRequest:
    """infill: the request's. model: the service's name for it. user: in a form the service may know.

    Raises UnsupportedFeature, in the words of `core`.
    """
    if infill.suffix is not None and not flavour.has_suffix:
        raise UnsupportedFeature("The upstream continues texts, but fills no holes.", field="suffix")
    if request.num_results > 1 and not flavour.has_several_results:
        raise UnsupportedFeature(SEVERAL_RESULTS, field="n")
    sampling, left_out = _sampling(request, flavour)
    limit = request.max_output_tokens
    if limit is None and flavour.needs_limit:
        limit = request.default_output_tokens
    fields: dict[str, Json] = {
        "model": model,
        "prompt": infill.prompt,
        "suffix": infill.suffix,
        "max_tokens": limit,
        "stop": list(request.stop) or None,
        "stream": is_stream or None,
        "stream_options": {"include_usage": True} if is_stream else None,
        "n": request.num_results if request.num_results > 1 else None,
        flavour.user_field: user,
        **sampling,
    }
    return UpstreamRequest(
        path=flavour.path,
        body=msgspec.json.encode({name: value for name, value in fields.items() if value is not None}),
        left_out=left_out,
    )


def _sampling(request: Request, flavour: CompletionsFlavour) -> tuple[dict[str, Json], tuple[str, ...]]:
    """The fields, and the names of what they do not carry."""
    sampling = request.sampling
    # A neutral value still says that the service's own default is not meant, where it can be said.
    given: dict[str, Json] = {name: value for name in KNOBS if (value := getattr(sampling, name)) is not None}
    others: dict[str, Json] = {
        "seed": sampling.seed,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias.items()} or None,
        "logprobs": sampling.num_top_logprobs,
    }
    given |= {name: value for name, value in others.items() if value is not None}
    fields = {name: value for name, value in given.items() if name in flavour.knobs}
    left_out = [
        name
        for name, value in given.items()
        if name not in flavour.knobs and (name in others or value != KNOBS[name].neutral)
    ]
    return fields, tuple(left_out)
