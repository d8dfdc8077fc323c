"""What updates a model's weights: Muon for the matrices of its inner layers, AdamW for everything else.

On hands Muon needs half the samples of AdamW alone for the same loss (docs/training.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Layers whose learning rate is scaled by ``offset_lr``: where the deformable scan samples, and how strongly.
SAMPLING_LAYERS = ("offset", "weight_proj")
#: A matrix has at least so many rows and columns; depthwise kernels and the like have fewer.
_LEAST = (8, 16)


class Muon(torch.optim.Optimizer):
    """Turns each momentum matrix into nearly the nearest orthogonal one by five Newton-Schulz steps (K. Jordan 2024,
    kellerjordan.github.io/posts/muon), scaled as in Moonlight (arXiv 2502.16982) so that AdamW's learning rates hold.

    The same update as torch.optim.Muon, which computes it in bfloat16 everywhere: on a CPU without such instructions
    that takes four times as long as the network itself. Here a CPU computes it in float32.
    """

    MOMENTUM, STEPS, COEFFICIENTS, EPS = 0.95, 5, (3.4445, -4.7750, 2.0315), 1e-7

    def __init__(self, params: list[dict], weight_decay: float) -> None:
        super().__init__(params, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                momentum = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix.grad))
                momentum.lerp_(matrix.grad, 1 - self.MOMENTUM)
                update = self.orthogonal(matrix.grad.lerp(momentum, self.MOMENTUM))  # Nesterov's
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)

    @classmethod
    def orthogonal(cls, matrix: Tensor) -> Tensor:
        """(R, C) with its singular values brought near to 1 (0.5 to 1.5), in its own dtype or a GPU's bfloat16."""
        a, b, c = cls.COEFFICIENTS
        tall = matrix.shape[0] > matrix.shape[1]
        x = matrix if matrix.device.type == "cpu" else matrix.bfloat16()
        x = x.T if tall else x
        x = x / x.norm().clamp(min=cls.EPS)
        for _ in range(cls.STEPS):
            square = x @ x.T
            x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
        return (x.T if tall else x).to(matrix.dtype)


class Optimisers:
    """Muon and AdamW over one model, as one optimiser whose state is named after the parameters.

    Weights decay; biases, norms and scan parameters do not; sampling layers learn slowly, by ``offset_lr`` times.
    ``muon`` False leaves all to AdamW: for comparisons (benchmarks/optimisers.py).
    """

    def __init__(self, model: nn.Module, offset_lr: float, weight_decay: float, muon: bool = True) -> None:
        matrices = {id(p) for p in _matrices(model)} if muon else set()
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        self._named: dict[str, nn.Parameter] = dict(model.named_parameters())
        # Muon takes two dimensions: it gets views of the kernels, which share their memory.
        self._views: dict[str, nn.Parameter] = {}
        for name, parameter in self._named.items():
            slow = any(layer in name.split(".") for layer in SAMPLING_LAYERS)
            if id(parameter) in matrices and not slow:
                self._views[name] = nn.Parameter(_flat(parameter.detach()))
            else:
                decays = name.endswith(".weight") and parameter.dim() > 1
                groups.setdefault((slow, decays), []).append(parameter)
        self._adamw = torch.optim.AdamW(
            [
                dict(params=ps, factor=offset_lr if slow else 1.0, weight_decay=weight_decay if decays else 0.0)
                for (slow, decays), ps in groups.items()
            ],
            fused=True,
        )
        self._all = [self._adamw]
        if self._views:
            self._muon = Muon([dict(params=list(self._views.values()), factor=1.0)], weight_decay)
            self._all.append(self._muon)

    def zero_grad(self) -> None:
        for parameter in self._named.values():
            parameter.grad = None

    def step(self, lr: float) -> None:
        """One update from the parameters' gradients."""
        for name, view in self._views.items():
            grad = self._named[name].grad
            view.grad = None if grad is None else _flat(grad.contiguous(memory_format=_format(self._named[name])))
        for optimiser in self._all:
            for group in optimiser.param_groups:
                group["lr"] = lr * group["factor"]
            optimiser.step()

    def state(self) -> dict[str, Tensor]:
        """Tensors by "KEY.PARAMETER"."""
        return {
            f"{key}.{name}": tensor
            for name, parameter in self._parameters()
            for key, tensor in self._of(name).state[parameter].items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes what ``state`` gave."""
        for entry, tensor in state.items():
            key, name = entry.split(".", 1)
            parameter = self._views.get(name, self._named[name])
            if tensor.shape == parameter.shape:  # in the parameter's own memory format, as fused AdamW wants it
                tensor = torch.empty_like(parameter).detach().copy_(tensor)
            self._of(name).state[parameter][key] = tensor.to(parameter.device)

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, self._views.get(name, parameter)) for name, parameter in self._named.items()]

    def _of(self, name: str) -> torch.optim.Optimizer:
        return self._muon if name in self._views else self._adamw


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of dense convolutions and linears but for those that the quantizer leaves float, which are outputs."""
    found = []
    for module in model.modules():
        if type(module) in (nn.Conv2d, nn.Linear) and getattr(module, "groups", 1) == 1:
            rows, columns = module.weight.flatten(1).shape
            if rows >= _LEAST[0] and columns >= _LEAST[1]:
                found.append(module.weight)
    return found


def _format(parameter: Tensor) -> torch.memory_format:
    return torch.contiguous_format if parameter.is_contiguous() else torch.channels_last


def _flat(tensor: Tensor) -> Tensor:
    """(out, in, ...) -> (out, rest), a view; the order of columns, which Muon does not see, is the memory's."""
    if not tensor.is_contiguous():
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.view(tensor.shape[0], -1)
