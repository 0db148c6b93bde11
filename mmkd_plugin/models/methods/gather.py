"""A batch's rows from all ranks, with gradient."""

import torch
from mmengine import dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (N, D) of every rank, (R*N, D), in rank order; every rank must have the same N.

    The backward pass sums the gradients that all ranks send to a row. When each rank computes the same loss of all rows, DDP's mean over
    ranks then gives exactly the gradient of one process with the whole batch.
    """
    if dist.get_world_size() == 1:
        return rows
    return torch.cat(list(all_gather(rows.contiguous())))
