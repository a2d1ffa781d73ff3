"""The DeepSeek V4 network, dense form: whole sequences in, logits at every position out, gradients if wanted.

Parameter names are the published checkpoints', except that the routed experts of a layer are stacked; `named_tensors`
and `load_tensors` speak the published names. Serving from stored state is `engine.py`'s, with the same weights.

Dimension legend: B sequences, T tokens, N = B * T, S streams, d hidden width, V vocabulary.
Source: DeepSeek-V4 report, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from deepserve.engine.network_config import NetworkConfig

from .attention import Attention, DenseView, Indexer, dense_view
from .experts import Gate, MixtureOfExperts
from .hyper_connection import HyperWeights, Lines, collapse, expand, hyper_head, hyper_mix, hyper_weights, lines
from .norm import RMSNorm


class Layer(nn.Module):
    """Attention and experts, each reading from and writing to the streams through its own hyper-connection."""

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.ratio = config.compress_ratios[layer]
        streams, d = config.hc_mult, config.hidden_size
        num_mixes = (2 + streams) * streams
        self.attn = Attention(config, layer)
        self.ffn = MixtureOfExperts(config, layer)
        self.attn_norm = RMSNorm(d, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(d, config.rms_norm_eps)
        self.hc_attn_fn = nn.Parameter(torch.empty(num_mixes, streams * d))
        self.hc_attn_base = nn.Parameter(torch.empty(num_mixes))
        self.hc_attn_scale = nn.Parameter(torch.empty(3))
        self.hc_ffn_fn = nn.Parameter(torch.empty(num_mixes, streams * d))
        self.hc_ffn_base = nn.Parameter(torch.empty(num_mixes))
        self.hc_ffn_scale = nn.Parameter(torch.empty(3))

    def attn_hyper(self) -> HyperWeights:
        return hyper_weights(self.hc_attn_fn, self.hc_attn_base, self.hc_attn_scale, self.config.hc_mult)

    def ffn_hyper(self) -> HyperWeights:
        return hyper_weights(self.hc_ffn_fn, self.hc_ffn_base, self.hc_ffn_scale, self.config.hc_mult)

    @override
    def forward(
        self, streams: Tensor, tokens: Tensor, view: DenseView, along: Lines, *, with_index_loss: bool
    ) -> tuple[Tensor, Tensor | None]:
        """streams [N, S, d], tokens [B, T] -> streams after the layer, and the indexer's loss if there is one"""
        config = self.config
        mix = hyper_mix(streams, self.attn_hyper(), along, config)
        x = self.attn_norm(collapse(streams, mix.read)).unflatten(0, tokens.shape)
        out, loss = self.attn(x, view, with_index_loss=with_index_loss)
        streams = expand(streams, out.flatten(0, 1), mix)

        mix = hyper_mix(streams, self.ffn_hyper(), along, config)
        x = self.ffn_norm(collapse(streams, mix.read))
        return expand(streams, self.ffn(x, tokens.flatten()), mix), loss


class Network(nn.Module):
    """The whole network. A new one holds uninitialised memory: `initialise` it or load tensors into it."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.hc_head_fn = nn.Parameter(torch.empty(config.hc_mult, config.hc_mult * config.hidden_size))
        self.hc_head_base = nn.Parameter(torch.empty(config.hc_mult))
        self.hc_head_scale = nn.Parameter(torch.empty(1))

    @overload
    def forward(self, tokens: Tensor, *, with_index_loss: Literal[False] = False) -> Tensor: ...
    @overload
    def forward(self, tokens: Tensor, *, with_index_loss: Literal[True]) -> tuple[Tensor, Tensor]: ...
    @override
    def forward(self, tokens: Tensor, *, with_index_loss: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of every position, float32: tokens [B, T] -> [B, T, V].

        with_index_loss: also the mean distillation loss of the CSA layers' indexers, a scalar whose gradient
        reaches their parameters only. The language loss never reaches them, so training needs both.
        """
        config = self.config
        views = {
            ratio: dense_view(config, ratio, tokens.shape[1], tokens.device) for ratio in set(config.compress_ratios)
        }
        streams = self.embed(tokens.flatten()).unsqueeze(1).repeat(1, config.hc_mult, 1)
        along = lines(config.hc_mult, tokens.device)
        losses = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            streams, loss = layer(streams, tokens, views[layer.ratio], along, with_index_loss=with_index_loss)
            if loss is not None:
                losses.append(loss)
        x = hyper_head(streams, self.hc_head_fn, self.hc_head_base, self.hc_head_scale, config)
        logits = F.linear(self.norm(x).float(), self.head.weight.float()).view(*tokens.shape, -1)
        if not with_index_loss:
            return logits
        return logits, torch.stack(losses).mean() if losses else logits.new_zeros(())

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Fill in values to start training from.

        Matrices are normal with variance 1 / inputs, those that write to the streams damped by depth. Streams start
        apart, and mostly keep to themselves; identical streams would get identical gradients. Hash tables get
        distinct experts per token, evenly used. Sinks, position biases and router biases start at zero.
        """
        damping = (2 * self.config.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            kind = name.split(".")[-1].removeprefix("hc_attn_").removeprefix("hc_ffn_").removeprefix("hc_head_")
            if "norm" in name:
                parameter.fill_(1.0)
            elif kind in ("attn_sink", "ape"):
                parameter.zero_()
            elif kind == "scale":
                parameter.fill_(0.1)
            elif kind == "base":
                parameter.normal_(0.0, 0.5, generator=generator)
                streams = self.config.hc_mult
                if len(parameter) > streams:
                    parameter[2 * streams :] += 2 * torch.eye(streams).flatten()
            elif "embed" in name or "head.weight" in name:
                parameter.normal_(0.0, self.config.hidden_size**-0.5, generator=generator)
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)
                if "wo_b" in name or "w2" in name:
                    parameter.mul_(damping)
        for gate in self._gates():
            if gate.is_hash_routed:
                gate.tid2eid.copy_(_even_hash_table(self.config, generator))
            else:
                gate.bias.zero_()

    def language_parameters(self) -> list[nn.Parameter]:
        """What the language loss trains."""
        indexers = {id(parameter) for parameter in self.index_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in indexers]

    def index_parameters(self) -> list[nn.Parameter]:
        """What the index loss trains."""
        return [
            parameter for module in self.modules() if isinstance(module, Indexer) for parameter in module.parameters()
        ]

    def take_expert_load(self) -> Tensor:
        """Tokens per layer and expert since the last call, int64 [layers, X]; the counts restart at zero."""
        gates = list(self._gates())
        loads = torch.stack([gate.load for gate in gates])
        for gate in gates:
            gate.load.zero_()
        return loads

    @torch.no_grad()
    def balance_experts(self, rate: float) -> Tensor:
        """Nudge the router biases towards an even load and return the loads it judged by.

        Auxiliary-loss-free balancing (Wang et al. 2024): a fixed step up for experts below the mean, down above it.
        """
        loads = self.take_expert_load()
        for gate, load in zip(self._gates(), loads, strict=True):
            if not gate.is_hash_routed:
                gate.bias += rate * torch.sign(load.float().mean() - load)
        return loads

    def _gates(self) -> Iterator[Gate]:
        return (module for module in self.modules() if isinstance(module, Gate))

    def named_tensors(self) -> dict[str, Tensor]:
        """Every tensor by its official name; views, so writing to them writes to the network."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in self.state_dict().items():
            if match := re.fullmatch(r"(.*\.experts)\.(w13|w2)", name):
                prefix, stacked = match.groups()
                for expert, matrix in enumerate(tensor):
                    parts = zip(("w1", "w3"), matrix.chunk(2), strict=True) if stacked == "w13" else [("w2", matrix)]
                    tensors |= {f"{prefix}.{expert}.{part}.weight": weight for part, weight in parts}
            else:
                tensors[name] = tensor
        return tensors

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor] | Callable[[str], Tensor]) -> None:
        """Copy in every tensor, looked up by its official name. Shapes must already agree."""
        get = tensors.__getitem__ if isinstance(tensors, Mapping) else tensors
        for name, tensor in self.named_tensors().items():
            tensor.copy_(get(name))


def _even_hash_table(config: NetworkConfig, generator: torch.Generator) -> Tensor:
    """Distinct experts for every token id, each expert about equally often: int64 [V, K]."""
    num, per_token = config.n_routed_experts, config.num_experts_per_tok
    rounds = -(-config.vocab_size * per_token // num)
    # Each round deals every expert once; a row that straddles two rounds could repeat one, so those are redrawn.
    dealt = torch.cat([torch.randperm(num, generator=generator) for _ in range(rounds)])
    table = dealt[: config.vocab_size * per_token].view(config.vocab_size, per_token).clone()
    ordered = table.sort(-1).values
    for row in (ordered[:, 1:] == ordered[:, :-1]).any(-1).nonzero().flatten().tolist():
        table[row] = torch.randperm(num, generator=generator)[:per_token]
    return table
