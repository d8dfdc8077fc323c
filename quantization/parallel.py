"""Data parallelism: a batch is shared among the processes of a run, and a process's part among its threads.

Both mean the same: every share gets its own gradients and batch-norm statistics, the gradients are averaged, one update
is made. The statistics are never joined; the training loop measures those of the averaged weights anew.

Threads, because torch's own wait for each other by spinning, which makes a step five times longer when another job
holds one of the cores; replicas that meet once a step lose nothing of it, and are as fast when the machine is idle.
Processes, for several GPUs or machines, are started by torchrun: ``torchrun --nproc-per-node 2 -m edge_hands train``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: Losses of a model on a share of the batch: "loss" carries the gradient, the other values are for the log.
Losses = Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]


class Processes:
    """The processes of a run, of which this is ``rank`` of ``count``, and ``device``, where this one computes.

    They meet over NCCL with a GPU each, over gloo without. Without torchrun there is one, and meeting costs nothing.
    """

    def __init__(self, cuda: bool | None = None) -> None:
        cuda = torch.cuda.is_available() if cuda is None else cuda
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            import edge_hands.kernels.torch_cuda  # noqa: F401  the scans on a GPU

            torch.cuda.set_device(self.device)
        self._own = self.count > 1 and not dist.is_initialized()
        if self._own:
            dist.init_process_group("nccl" if cuda else "gloo")

    @property
    def first(self) -> bool:
        """Whether this is the one that writes, reports and decides."""
        return self.rank == 0

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces float32 tensors, of the same shapes everywhere, by their means over the processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def highest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over the processes."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def gather(self, values: Sequence[int]) -> list[list[int]]:
        """The values of every process, as many in each, by rank."""
        if self.count == 1:
            return [list(values)]
        own = torch.tensor(values, dtype=torch.int64, device=self.device)
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own)
        return [tensor.tolist() for tensor in found]

    def close(self) -> None:
        if self._own:
            dist.destroy_process_group()


class Replicas:
    """Copies of a model that share its parameters, each with its own gradients and batch-norm statistics."""

    def __init__(self, model: nn.Module, count: int, losses: Losses, processes: Processes | None = None) -> None:
        self._losses, self._processes = losses, processes
        self._models = [model, *(copy.deepcopy(model) for _ in range(count - 1))]
        for replica in self._models[1:]:
            for own, shared in zip(replica.parameters(), model.parameters(), strict=True):
                own.data = shared.data
        self._pool = ThreadPoolExecutor(count, "edge-hands-replica", initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of the mean loss over all processes into the model; returns the mean losses.

        The gradients of the model must be cleared before. ``batch`` is this process's part.
        """
        shares = zip(*(tensor.chunk(len(self._models)) for tensor in batch.values()), strict=True)
        jobs = [
            self._pool.submit(self._backward, model, dict(zip(batch, share, strict=True)))
            for model, share in zip(self._models, shares)
        ]
        results = [job.result() for job in jobs]
        if len(results) > 1:
            self._gather(self._models[: len(results)])
        losses = {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}
        if self._processes is not None:
            gradients = [p.grad for p in self._models[0].parameters() if p.grad is not None]
            self._processes.average([*gradients, *losses.values()])
        return losses

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
