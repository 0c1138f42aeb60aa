from meanflow.layers import gated_residual, modulate
from tests.duals import assert_dual_is_jvp, assert_equal_to_rounding, normal

X, DX = normal(2, 3, 4), normal(2, 3, 4, seed=1)
SHIFT, SCALE, D_SHIFT, D_SCALE = (normal(2, 4, seed=seed) for seed in range(2, 6))
BRANCH, D_BRANCH = normal(2, 3, 4, seed=6), normal(2, 3, 4, seed=7)


def test_closed_forms():
    assert_equal_to_rounding(modulate(X, SHIFT, SCALE), X * (1 + SCALE[:, None]) + SHIFT[:, None], relative=1e-15)
    assert_equal_to_rounding(gated_residual(X, SHIFT, BRANCH), X + SHIFT[:, None] * BRANCH, relative=1e-15)


def test_duals_agree_with_jvp():
    assert_dual_is_jvp(modulate, (X, SHIFT, SCALE), (DX, D_SHIFT, D_SCALE))
    assert_dual_is_jvp(gated_residual, (X, SHIFT, BRANCH), (DX, D_SHIFT, D_BRANCH))


def test_a_modulation_without_derivative_is_a_constant():
    # The decoder of a Decoupled MeanFlow network: dual tokens, plain conditioning on r.
    assert_dual_is_jvp(lambda x: modulate(x, SHIFT, SCALE), [X], [DX])
    assert_dual_is_jvp(lambda x, branch: gated_residual(x, SHIFT, branch), (X, BRANCH), (DX, D_BRANCH))
