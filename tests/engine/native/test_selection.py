"""The indexer's choice by itself, in every instruction set this machine runs."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numpy.typing import NDArray

from deepserve.engine.native.abi import Fault, Status
from deepserve.engine.native.shared_library import find_library, instruction_sets, load_library

pytestmark = pytest.mark.skipif(find_library() is None, reason="this installation has no native core")


def choose(isa: str, scores: NDArray[np.float32], number: int) -> list[int]:
    chosen = (ctypes.c_int32 * number)()
    values = scores.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    fault = Fault()
    status = load_library().ds_test_select(isa.encode(), values, len(scores), number, chosen, fault)
    assert status == Status.OK, fault.text
    return list(chosen)


def best(scores: NDArray[np.float32], number: int) -> list[int]:
    return sorted(np.argsort(-scores, kind="stable")[:number].tolist())


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100, 1000, 40_000])
def test_the_best_scores_are_chosen_and_ties_go_to_the_lower_index(count: int) -> None:
    generator = np.random.default_rng(count)
    plain = generator.standard_normal(count).astype(np.float32)
    many_ties = generator.integers(-2, 3, count).astype(np.float32)
    ascending = np.arange(count, dtype=np.float32)
    for isa in instruction_sets(load_library()):
        for scores in (plain, many_ties, ascending, -ascending, np.zeros(count, np.float32)):
            for number in {1, min(2, count), min(33, count), min(512, count), count}:
                assert choose(isa, scores, number) == best(scores, number)


def test_more_than_there_are_cannot_be_chosen() -> None:
    library, fault = load_library(), Fault()
    scores, chosen = (ctypes.c_float * 3)(), (ctypes.c_int32 * 4)()
    assert library.ds_test_select(None, scores, 3, 4, chosen, fault) == Status.INVALID
    assert fault.text == "cannot choose 4 of 3"
