"""The training loop's own forward pass against the plain network's, and the rows it learns from."""

from __future__ import annotations

import msgspec
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training.batches import PROMPT_SHARE, PROMPT_WEIGHT, BatchMaker, Plan
from training.train import TOKENIZER
from training.vocabulary import Encoder

from deepserve.engine.network_config import NetworkConfig
from deepserve.engine.reference.network import Network
from deepserve.prompt.special_tokens import BOS
from tests.training.test_training import TINY
from training import forward, kernels

needs_kernels = pytest.mark.skipif(not kernels.are_available(), reason="needs a C compiler")


def gradients(network: Network, loss: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    torch.autograd.backward(loss)
    return {name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None}


def new_network(config: NetworkConfig = TINY) -> Network:
    network = Network(config)
    network.initialise(torch.Generator().manual_seed(1))
    return network


def random_batch(rows: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets and weights, half of which are zero."""
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(TINY.vocab_size, (rows, length + 1), generator=generator)
    weights = torch.rand(rows, length, generator=generator)
    return tokens[:, :-1], tokens[:, 1:], weights * (torch.rand(weights.shape, generator=generator) < 0.5)


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # A ReLU at its kink may fall to either side; it moves the indexer's gradients by a percent or two.
        allowed = 5e-2 if "indexer" in name else 1e-3
        assert (found[name] - gradient).norm() <= allowed * gradient.norm() + 1e-8, name


@needs_kernels
@pytest.mark.parametrize("length", [130, 512 + 160])
def test_the_fast_losses_and_their_gradients_are_the_plain_networks(length: int) -> None:
    network = new_network()
    tokens, targets, weights = random_batch(2, length)
    logits, plain_index_loss = network(tokens, with_index_loss=True)
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    plain_loss = (each * weights.flatten()).sum() / weights.sum()
    expected = gradients(network, plain_loss + plain_index_loss)
    everywhere = torch.arange(length).expand(2, -1)
    loss, index_loss = forward.losses(network, tokens, targets, weights, index_positions=everywhere)
    torch.testing.assert_close((loss, index_loss), (plain_loss, plain_index_loss), rtol=1e-5, atol=1e-6)
    assert_alike(gradients(network, loss + index_loss), expected)


@needs_kernels
def test_a_document_learns_the_same_alone_and_behind_another() -> None:
    # Without layers of ratio 128, whose entries stand at other places in a document that begins elsewhere.
    network = new_network(msgspec.structs.replace(TINY, compress_ratios=(0, 4, 4)))
    tokens, targets, weights = random_batch(1, 400)
    begin = 136
    starts = torch.where(torch.arange(400) < begin, 0, begin).expand(1, -1)
    later = (torch.arange(400) >= begin).expand(1, -1)
    behind, _ = forward.losses(network, tokens, targets, weights * later, starts=starts)
    expected = gradients(network, behind)
    alone, _ = forward.losses(network, tokens[:, begin:], targets[:, begin:], weights[:, begin:])
    torch.testing.assert_close(alone, behind, rtol=1e-5, atol=1e-6)
    assert_alike(gradients(network, alone), expected)


@needs_kernels
def test_reading_densely_reads_what_the_indexer_would_not_choose() -> None:
    network = new_network()
    tokens, targets, weights = random_batch(1, 4 * TINY.index_topk + 160)
    chosen, _ = forward.losses(network, tokens, targets, weights, selects=True)
    dense, _ = forward.losses(network, tokens, targets, weights, selects=False)
    assert not torch.isclose(chosen, dense, rtol=1e-6, atol=0)


def test_documents_of_a_row_begin_where_an_entry_begins() -> None:
    encoder = Encoder.load(TOKENIZER)
    batch = BatchMaker(encoder, 1).batch(3, Plan(rows=4, length=512, copy_share=0.0))
    begin_of_sentence = encoder.tokenizer.special_id(BOS)
    for row, starts in zip(batch.tokens.tolist(), batch.starts.tolist(), strict=True):
        begins = [place for place, token in enumerate(row[:-1]) if token == begin_of_sentence]
        assert sorted(set(starts)) == begins
        assert all(begin % 4 == 0 for begin in begins)
        assert starts == sorted(starts)


def test_thinned_prompts_weigh_as_much_as_whole_ones() -> None:
    batch = BatchMaker(Encoder.load(TOKENIZER), 1).batch(3, Plan(rows=16, length=512, copy_share=0.0))
    prompts = batch.weights[batch.weights != 1]
    assert prompts.mean().item() == pytest.approx(PROMPT_WEIGHT, rel=0.1)
    assert (prompts > 0).float().mean().item() == pytest.approx(PROMPT_SHARE, rel=0.1)
