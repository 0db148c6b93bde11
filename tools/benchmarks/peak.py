"""The most memory that a call holds beside what was there before it."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object], device: torch.device | str = 'cpu') -> int:
    """Return the largest sum of bytes that were allocated in a call and not yet freed.

    On the CPU each allocation is followed, also those inside an operation, so the number does not
    depend on the allocator or on the machine's load. Earlier allocations do not count,
    even if the call frees them.

    Args:
        call: The call to measure. Tensors that it makes and others keep count.
        device: The device of its tensors.

    Returns:
        Bytes; 0 if nothing is allocated.

    Example:
        >>> x = torch.zeros(1000)
        >>> peak_bytes(lambda: x.exp().sum())  # 1000 numbers, and their sum
        4004
    """
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        found.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text())['traceEvents']
    memory = [one for one in events if one['name'] == '[memory]']
    memory.sort(key=lambda one: float(one['ts']))
    totals = [0]
    for one in memory:
        totals.append(totals[-1] + int(one['args']['Bytes']))
    return max(totals)
