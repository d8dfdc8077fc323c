"""Data parallelism inside one process: a batch is shared among threads, each on one core.

torch's own threads wait for each other by spinning, which makes a step five times longer when another job holds one
of the cores; replicas that meet once a step lose nothing of it, and are as fast when the machine is idle.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

#: Losses of a model on a share of the batch: "loss" carries the gradient, the other values are for the log.
Losses = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]


class Replicas:
    """Copies of a model that share its parameters, each with its own gradients and batch-norm statistics.

    The statistics are never joined: the training loop measures those of the averaged weights anew.
    """

    def __init__(self, model: nn.Module, count: int, losses: Losses) -> None:
        self._losses = losses
        self._models = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
        for replica in self._models[1:]:
            for own, shared in zip(replica.parameters(), model.parameters(), strict=True):
                own.data = shared.data
        self._pool = ThreadPoolExecutor(count, "edge-hands-replica", initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of the mean loss into the model; returns the mean losses.

        The gradients of the model must be cleared before.
        """
        shares = zip(*(tensor.chunk(len(self._models)) for tensor in batch.values()), strict=True)
        jobs = [
            self._pool.submit(self._backward, model, dict(zip(batch, share, strict=True)))
            for model, share in zip(self._models, shares)
        ]
        results = [job.result() for job in jobs]
        if len(results) > 1:
            self._gather(self._models[: len(results)])
        return {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}

    def close(self) -> None:
        self._pool.shutdown()

    def _backward(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        model.train()
        model.zero_grad()
        losses = self._losses(model, batch)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def _gather(self, models: list[nn.Module]) -> None:
        share = 1 / len(models)
        used = [ps for ps in zip(*(m.parameters() for m in models), strict=True) if ps[0].grad is not None]
        total = [ps[0].grad for ps in used]
        for i in range(1, len(models)):
            torch._foreach_add_(total, [ps[i].grad for ps in used])
        torch._foreach_mul_(total, share)
