"""Batches that several processes share: what each has of one, put together with its gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def of_all_ranks(tensors: tuple[Any, ...]) -> Any:
    """The tensors of all ranks, (B, ...) each, one rank after the other: (ranks * B, ...).

    A gradient is the sum of what all ranks have for it. Every rank must hold as many rows.
    """
    if not _shared():
        return tensors
    gathered = [_gathered(tensor) for tensor in tensors]
    return type(tensors)(*gathered) if hasattr(tensors, "_fields") else tuple(gathered)


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the rows of all ranks, as one process would do it with the whole batch.

    PyTorch's own (SyncBatchNorm) runs on GPUs only.
    """

    def forward(self, rows: Tensor) -> Tensor:
        """(N, D) -> (N, D); N may differ from rank to rank."""
        if not (self.training and _shared()):
            return super().forward(rows)
        counts = _gathered(torch.tensor([len(rows)], device=rows.device)).tolist()
        padded = nn.functional.pad(rows, (0, 0, 0, max(counts) - len(rows)))
        parts = zip(_gathered(padded).split(max(counts)), counts, strict=True)
        whole = torch.cat([part[:count] for part, count in parts])
        return super().forward(whole).split(counts)[dist.get_rank()]


def share_batch_norms(module: nn.Module) -> None:
    """Let every BatchNorm1d within a module see the rows of all ranks; names and values of parameters stay."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm1d:
            shared = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared)
        else:
            share_batch_norms(child)


def _shared() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gathered(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bool:  # which not every backend sends
        return _gathered(tensor.byte()).bool()
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    """As torch.distributed.nn.functional.all_gather, whose gradients over gloo are wrong where they are strided."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
