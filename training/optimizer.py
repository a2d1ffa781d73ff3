"""Muon for the matrices, AdamW for everything else, as DeepSeek trains V4.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks"; DeepSeek-V4 report, section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepserve.engine.reference.network import Network

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan's quintic: brings all singular values into about 0.7 to 1.2 within five rounds."""


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Replace the singular values of each matrix [..., m, n] by about one."""
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        if x.ndim == 3:
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        else:
            x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if is_tall else x
    return result


class _Matrix(NamedTuple):
    """A parameter that Muon moves."""

    name: str
    parameter: nn.Parameter
    groups: int
    """Into how many matrices each of its stacked matrices falls."""


class Optimizer:
    """Both rules behind one step; its state can be saved and restored.

    dtype: in which the orthogonalisation computes; bfloat16 is enough for it where the processor multiplies in it.
    """

    def __init__(self, network: Network, *, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.matrices: list[_Matrix] = []
        others: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            if (
                parameter.ndim < 2
                or "embed" in name
                or "head" in name
                or "hc_" in name
                or "gate.weight" in name
                or "ape" in name
            ):
                others.append(parameter)
            else:
                groups = network.config.o_groups if name.endswith("wo_a.weight") else 2 if name.endswith("w13") else 1
                self.matrices.append(_Matrix(name, parameter, groups))
        self.adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.momentum = {one.name: torch.zeros_like(one.parameter) for one in self.matrices}

    @torch.no_grad()
    def step(self, *, matrix_rate: float, other_rate: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        """Apply the gradients and clear them."""
        for group in self.adam.param_groups:
            group["lr"] = other_rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        # Matrices of one shape are orthogonalised together, wide ones and tall ones too: few products, large ones.
        alike: dict[tuple[int, int], list[tuple[_Matrix, Tensor]]] = {}
        for one in self.matrices:
            gradient = one.parameter.grad
            if gradient is None:
                continue
            buffer = self.momentum[one.name].lerp_(gradient, 1 - momentum)
            update = torch.lerp(gradient, buffer, momentum).to(self.dtype)
            update = update.view(-1, update.shape[-2] // one.groups, update.shape[-1])
            is_tall = update.shape[1] > update.shape[2]
            wide = update.mT if is_tall else update
            alike.setdefault((wide.shape[1], wide.shape[2]), []).append((one, wide))
            one.parameter.grad = None
        for members in alike.values():
            turned = orthogonalise(torch.cat([wide for _, wide in members]))
            for (one, _), wide in zip(members, turned.split([len(wide) for _, wide in members]), strict=True):
                rows, columns = one.parameter.shape[-2] // one.groups, one.parameter.shape[-1]
                update = (wide.mT if rows > columns else wide) * max(1.0, rows / columns) ** 0.5
                one.parameter.mul_(1 - matrix_rate * decay).add_(
                    update.reshape(one.parameter.shape), alpha=-matrix_rate
                )

    def state(self) -> dict[str, object]:
        """Everything needed to go on."""
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def restore(self, state: dict[str, object]) -> None:
        """Go on from a saved state."""
        adam, momentum = state["adam"], state["momentum"]
        assert isinstance(adam, dict)
        assert isinstance(momentum, dict)
        self.adam.load_state_dict(adam)
        for name, buffer in momentum.items():
            self.momentum[name].copy_(buffer)
