"""Time of GPU work, without the time that Python takes to launch it."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def gpu_seconds(function: Callable[[], object], calls: int = 10, repeats: int = 7) -> float:
    """Return the median seconds of a call, from ``repeats`` replays of a CUDA graph of ``calls`` calls.

    The inputs of the calls should not fit into the cache together, or every call but the first finds them there.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    graph.replay()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(seconds)
