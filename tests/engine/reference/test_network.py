"""The dense network against transformers, its gradients, and what training needs of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deepserve.engine.network_config import decode_config
from deepserve.engine.reference.attention import index_loss, select_entries
from deepserve.engine.reference.hyper_connection import Lines, lines, sinkhorn, stream_scores
from deepserve.engine.reference.network import Network
from deepserve.engine.reference.rotary import rotary_frequencies
from tests.engine.reference.oracle import TINY, oracle, oracle_tensor, ours

LENGTHS = (1, 5, 8, 9, 64, 127, 128, 129, 300)
SHAPES = [
    {},
    {"sliding_window": 128, "compress_ratios": [0, 4, 16, 4]},
    {"sliding_window": 7, "compress_ratios": [16, 4, 0, 4], "num_hash_layers": 0, "index_topk": 9},
]


def random_tokens(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(512, (batch, length), generator=torch.Generator().manual_seed(seed))


def fresh_network(seed: int = 0, **changes: object) -> Network:
    network = Network(decode_config({**TINY, **changes}))
    network.initialise(torch.Generator().manual_seed(seed))
    return network


@pytest.mark.parametrize("changes", SHAPES)
@torch.inference_mode()
def test_logits_equal_transformers_at_every_length(changes: dict[str, Any]) -> None:
    model = oracle(**changes)
    network = ours(model, **changes)
    for length in LENGTHS:
        tokens = random_tokens(2, length)
        expected = model(input_ids=tokens, use_cache=False).logits
        assert expected.abs().max() > 0.5
        assert (network(tokens) - expected).abs().max() < 2e-5, length


def test_gradients_equal_transformers() -> None:
    model = oracle()
    network = ours(model)
    tokens = random_tokens(2, 140)
    for logits in (model(input_ids=tokens, use_cache=False).logits, network(tokens)):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    grads = {id(parameter.data): parameter.grad for parameter in model.parameters()}
    assert grads
    for parameter in model.parameters():
        parameter.data = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    compared = 0
    for name, parameter in network.named_parameters():
        if ".experts." in name or parameter.grad is None:
            continue
        expected = oracle_tensor(model, name)
        assert (parameter.grad - expected).abs().max() < 1e-5 + 1e-3 * expected.abs().max(), name
        compared += int(expected.abs().max() > 0)
    assert compared > 60
    for layer in range(4):
        experts = network.get_submodule(f"layers.{layer}.ffn.experts")
        expected = model.state_dict()[f"model.layers.{layer}.mlp.experts.gate_up_proj"]
        assert isinstance(experts.w13, Tensor)
        assert experts.w13.grad is not None
        assert (experts.w13.grad - expected).abs().max() < 1e-5 + 1e-3 * expected.abs().max()


def test_analytic_gradients_equal_numeric_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.rand(3, 16, generator=generator, dtype=torch.float64) + 0.1
    matrices.requires_grad_()
    along = Lines(*(matrix.double() for matrix in lines(4, torch.device("cpu"))))
    assert torch.autograd.gradcheck(lambda m: sinkhorn(m, along, iterations=4, eps=1e-6), (matrices,))
    streams = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    fn = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    streams32, fn32 = streams.float().requires_grad_(), fn.float().requires_grad_()
    stream_scores(streams32, fn32, 1e-3).square().sum().backward()
    streams.requires_grad_()
    fn.requires_grad_()
    flat = streams.flatten(1)
    ((flat * (flat.square().mean(-1, keepdim=True) + 1e-3).rsqrt()) @ fn.T).square().sum().backward()
    for single, double in ((streams32, streams), (fn32, fn)):
        assert single.grad is not None
        assert double.grad is not None
        assert torch.allclose(single.grad, double.grad.float(), atol=1e-4)


def test_sinkhorn_makes_rows_and_columns_sum_to_one() -> None:
    matrices = torch.rand(50, 16, generator=torch.Generator().manual_seed(0)) + 0.01
    balanced = sinkhorn(matrices, lines(4, torch.device("cpu")), iterations=20, eps=1e-6)
    for axis in (1, 2):
        assert torch.allclose(balanced.sum(axis), torch.ones(50, 4), atol=1e-2)


def test_yarn_frequencies_equal_the_published_models() -> None:
    published = decode_config(
        {
            **TINY,
            "head_dim": 512,
            "qk_rope_head_dim": 64,
            "index_head_dim": 128,
            "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536},
        }
    )
    frequencies = rotary_frequencies(published, compressed=True)
    for pair, expected in {0: 1.0, 15: 3.63554e-3, 20: 2.96978e-4, 25: 5.37231e-6, 31: 5.68053e-7}.items():
        assert float(frequencies[pair]) == pytest.approx(expected, rel=1e-5)
    plain = rotary_frequencies(published, compressed=False)
    assert float(plain[1]) == pytest.approx(10000 ** (-1 / 32), rel=1e-6)


def test_selection_prefers_higher_scores_then_lower_entries() -> None:
    scores = torch.tensor([[0.0, 3.0, 0.0, -1.0, 0.0, 2.0]])
    assert select_entries(scores, 3).tolist() == [[True, True, False, False, False, True]]
    assert select_entries(scores, 4).tolist() == [[True, True, True, False, False, True]]


def test_the_index_loss_trains_the_indexers_and_nothing_else() -> None:
    network = fresh_network()
    tokens = random_tokens(2, 64)
    _, loss = network(tokens, with_index_loss=True)
    loss.backward()
    trained = {id(parameter) for parameter in network.parameters() if parameter.grad is not None}
    assert trained == {id(parameter) for parameter in network.index_parameters()}
    network.zero_grad()
    network(tokens).square().mean().backward()
    trained = {id(parameter) for parameter in network.parameters() if parameter.grad is not None}
    assert trained == {id(parameter) for parameter in network.language_parameters()}


def test_the_index_loss_is_zero_only_where_scores_rank_as_attention_does() -> None:
    generator = torch.Generator().manual_seed(0)
    mass = torch.rand(2, 3, 5, generator=generator)
    bias = torch.zeros(3, 5)
    bias[0, 2:] = float("-inf")
    mass[:, 0, 2:] = 0
    assert float(index_loss(mass.log(), mass, bias)) == pytest.approx(0, abs=1e-6)
    assert float(index_loss(torch.zeros_like(mass), mass, bias)) > 0.01


def test_training_on_the_index_loss_lowers_it() -> None:
    network = fresh_network()
    tokens = random_tokens(4, 96)
    optimizer = torch.optim.AdamW(network.index_parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        _, loss = network(tokens, with_index_loss=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_training_learns_a_repeated_text() -> None:
    network = fresh_network(index_topk=8)
    tokens = random_tokens(1, 16).repeat(2, 6)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        logits, index = network(tokens, with_index_loss=True)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        (loss + index).backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_hash_tables_deal_distinct_experts_evenly() -> None:
    network = fresh_network(n_routed_experts=6, num_experts_per_tok=4)
    table = network.get_submodule("layers.0.ffn.gate").tid2eid
    assert isinstance(table, Tensor)
    assert all(len(set(row)) == 4 for row in table.tolist())
    counts = torch.bincount(table.flatten(), minlength=6)
    assert counts.max() < 1.1 * counts.min()


def test_router_biases_move_towards_an_even_load() -> None:
    network = fresh_network(num_hash_layers=1)
    network(random_tokens(2, 50))
    loads = network.balance_experts(0.25)
    assert loads.sum(-1).tolist() == [2 * 50 * 2] * 4
    bias = network.get_submodule("layers.3.ffn.gate").bias
    assert isinstance(bias, Tensor)
    assert torch.equal(bias, 0.25 * torch.sign(loads[3].float().mean() - loads[3]))
    assert network.take_expert_load().sum() == 0
