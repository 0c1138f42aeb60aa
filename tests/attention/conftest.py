import pytest
import torch


@pytest.fixture(autouse=True)
def few_configurations(monkeypatch):
    """Spare a GPU the choice among configurations, each of which is compiled for every head size, type and length."""
    if not torch.cuda.is_available():
        return
    from meanflow.attention.triton_backward import grad_kv_kernel, grad_q_kernel
    from meanflow.attention.triton_forward import attention_forward_kernel

    for kernel in (attention_forward_kernel, grad_q_kernel, grad_kv_kernel):
        # One for half precision and that for float32.
        monkeypatch.setattr(kernel, "configs", kernel.configs[-2:])
