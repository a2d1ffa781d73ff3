"""Muon for the matrices, AdamW for everything else, as DeepSeek trains V4.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks"; DeepSeek-V4 report, section 4.
"""

from __future__ import annotations

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
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if is_tall else x
    return result


class Optimizer:
    """Both rules behind one step; its state can be saved and restored."""

    def __init__(self, network: Network) -> None:
        self.matrices: list[tuple[str, nn.Parameter, int]] = []
        """Name, parameter, and into how many stacked matrices it falls."""
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
                self.matrices.append((name, parameter, groups))
        self.adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.momentum = {name: torch.zeros_like(parameter) for name, parameter, _ in self.matrices}

    @torch.no_grad()
    def step(self, *, matrix_rate: float, other_rate: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        """Apply the gradients and clear them."""
        for group in self.adam.param_groups:
            group["lr"] = other_rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for name, parameter, groups in self.matrices:
            if parameter.grad is None:
                continue
            buffer = self.momentum[name].lerp_(parameter.grad, 1 - momentum)
            update = torch.lerp(parameter.grad, buffer, momentum)
            if groups > 1:
                update = update.reshape(*update.shape[:-2], groups, -1, update.shape[-1])
            rows, columns = update.shape[-2:]
            update = orthogonalise(update) * max(1.0, rows / columns) ** 0.5
            parameter.mul_(1 - matrix_rate * decay).add_(update.reshape(parameter.shape), alpha=-matrix_rate)
            parameter.grad = None

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
