"""The fully sharded strategy in a process of its own; ``tests/test_two_processes.py`` has two."""

import os
from unittest import mock

import pytest
import torch.distributed

from meanflow.modules import FullyShardedStrategy
from tests import tiny


def test_weights_stay_float32(store, tmp_path):
    # Lightning leaves LOCAL_RANK and more behind, with which a program started later would wait for other ranks.
    with (
        mock.patch.dict(os.environ),
        pytest.raises(ValueError, match="32-true, bf16-mixed under FSDP, got bf16-true"),
    ):
        tiny.fit(
            tiny.flow_module(),
            tiny.datamodule(store),
            tmp_path,
            strategy=FullyShardedStrategy(),
            devices=1,
            precision="bf16-true",
        )
    assert not torch.distributed.is_initialized()
