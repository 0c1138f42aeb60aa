import math

import pytest
import torch

from meanflow.objectives.weighting import AdaptiveWeight, AllPairsLogVariance, PerSampleLogVariance, Unweighted

ERROR = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
LOGVAR = torch.tensor([-1.0, 0.3, 0.0], dtype=torch.float64)


def closed_form(error: float, logvar: float, eps: float) -> float:
    return math.log(error / math.exp(logvar) + eps) + logvar


def test_unweighted_is_the_error():
    assert torch.equal(Unweighted()(ERROR, LOGVAR), ERROR)


@pytest.mark.parametrize("eps", [0.01, 0.5])
def test_per_sample(eps):
    expected = [closed_form(e, lv, eps) for e, lv in zip(ERROR.tolist(), LOGVAR.tolist(), strict=True)]
    torch.testing.assert_close(
        PerSampleLogVariance(eps)(ERROR, LOGVAR), torch.tensor(expected).double(), rtol=1e-6, atol=0
    )
    actual = PerSampleLogVariance(eps)(ERROR, LOGVAR)
    assert actual.tolist() == pytest.approx(expected, rel=1e-14)


def test_all_pairs_has_the_logvar_of_the_row_and_the_error_of_the_column():
    table = AllPairsLogVariance()(ERROR, LOGVAR)
    assert table.shape == (3, 3)
    for i, logvar in enumerate(LOGVAR.tolist()):
        for j, error in enumerate(ERROR.tolist()):
            assert table[i, j].item() == pytest.approx(closed_form(error, logvar, 0.01), rel=1e-14)
    torch.testing.assert_close(table.diagonal(), PerSampleLogVariance()(ERROR, LOGVAR), rtol=0, atol=1e-15)


def test_gradients():
    error, logvar = ERROR.clone().requires_grad_(), LOGVAR.clone().requires_grad_()
    PerSampleLogVariance()(error, logvar).sum().backward()
    # d/de log(e exp(-lv) + eps) + lv = 1 / (e + eps exp(lv)), and d/dlv = eps exp(lv) / (e + eps exp(lv)).
    denominator = ERROR + 0.01 * LOGVAR.exp()
    torch.testing.assert_close(error.grad, 1 / denominator)
    torch.testing.assert_close(logvar.grad, 0.01 * LOGVAR.exp() / denominator)

    error, logvar = ERROR.clone().requires_grad_(), LOGVAR.clone().requires_grad_()
    AllPairsLogVariance()(error, logvar).mean().backward()
    denominator = ERROR[None] + 0.01 * LOGVAR.exp()[:, None]
    torch.testing.assert_close(error.grad, (1 / denominator).sum(0) / 9)
    torch.testing.assert_close(logvar.grad, (0.01 * LOGVAR.exp()[:, None] / denominator).sum(1) / 9)


@pytest.mark.parametrize("weighting", [PerSampleLogVariance(), AllPairsLogVariance()])
def test_gradcheck(weighting):
    error = torch.tensor([0.5, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighting, (error, LOGVAR.clone().requires_grad_()))


@pytest.mark.parametrize(("p", "eps"), [(0.0, 0.01), (0.5, 0.01), (1.0, 0.01), (2.0, 0.5)])
def test_adaptive_weight_and_its_gradient(p, eps):
    """The weight counts as a constant, so it is the gradient."""
    error = ERROR.clone().requires_grad_()
    loss = AdaptiveWeight(p, eps)(error, LOGVAR)
    weights = [1 / (e + eps) ** p for e in ERROR.tolist()]
    assert loss.tolist() == pytest.approx([w * e for w, e in zip(weights, ERROR.tolist(), strict=True)], rel=1e-14)
    loss.sum().backward()
    assert error.grad.tolist() == pytest.approx(weights, rel=1e-14)


@pytest.mark.parametrize(("p", "eps"), [(-0.5, 0.01), (1.0, 0.0)])
def test_adaptive_weight_refuses(p, eps):
    with pytest.raises(ValueError, match=f"p must be at least 0 and eps above 0, got p={p}, eps={eps}"):
        AdaptiveWeight(p, eps)


def test_weightings_state_whether_they_need_a_learned_logvar():
    assert PerSampleLogVariance.needs_logvar
    assert AllPairsLogVariance.needs_logvar
    assert not Unweighted.needs_logvar
    assert not AdaptiveWeight.needs_logvar
