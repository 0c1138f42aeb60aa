import math

import pytest

from meanflow.modules.schedules import Constant, Cosine, OfficialCosine, RampAboveZero, RampFromZero


def test_constant():
    schedule = Constant()
    assert [schedule.factor(step, -1, 10) for step in (0, 5, 10**6)] == [1.0, 1.0, 1.0]


def test_warmup_in_steps_reaches_one_at_its_last_step():
    schedule = Constant(warmup_steps=4)
    assert [schedule.factor(step, -1, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_warmup_in_epochs_counts_the_steps_of_an_epoch():
    for warmup_epochs, steps_per_epoch, steps in ((2, 3, 6), (0.5, 10, 5), (0.25, 10, 2)):
        in_epochs, in_steps = Constant(warmup_epochs=warmup_epochs), Constant(warmup_steps=steps)
        factors = [in_epochs.factor(step, -1, steps_per_epoch) for step in range(10)]
        assert factors == [in_steps.factor(step, -1, steps_per_epoch) for step in range(10)]


def test_cosine():
    schedule = Cosine(final_factor=0.1)
    assert schedule.factor(0, 100, 10) == 1
    assert schedule.factor(50, 100, 10) == pytest.approx(0.55, abs=1e-15)
    assert schedule.factor(25, 100, 10) == pytest.approx(0.1 + 0.45 * (1 + math.sqrt(0.5)), abs=1e-15)
    assert schedule.factor(100, 100, 10) == pytest.approx(0.1, abs=1e-15)
    assert schedule.factor(150, 100, 10) == pytest.approx(0.1, abs=1e-15)  # no way up again


@pytest.mark.parametrize("warmup", [{"warmup_steps": 20}, {"warmup_epochs": 2}])
def test_cosine_after_warmup_ends_at_the_end_of_the_run(warmup):
    schedule = Cosine(**warmup)
    assert schedule.factor(9, 120, 10) == 0.5
    assert schedule.factor(20, 120, 10) == 1
    assert schedule.factor(70, 120, 10) == pytest.approx(0.5, abs=1e-15)
    assert schedule.factor(120, 120, 10) == pytest.approx(0, abs=1e-15)


def test_ramps():
    assert [RampAboveZero().factor(step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [RampFromZero().factor(step, 4) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("cls", [Constant, Cosine, OfficialCosine])
def test_a_warmup_from_zero_reaches_one_after_its_last_step(cls):
    schedule = cls(warmup_epochs=2, ramp=RampFromZero())
    assert [schedule.factor(step, 100, 2) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_official_cosine_ends_a_warmup_early_and_stays():
    schedule = OfficialCosine(final_factor=0.2, warmup_steps=20)
    assert schedule.factor(20, 120, 10) == 1
    assert schedule.factor(60, 120, 10) == pytest.approx(0.6, abs=1e-15)
    for step in (100, 110, 120):
        assert schedule.factor(step, 120, 10) == pytest.approx(0.2, abs=1e-15)
    plain = OfficialCosine(), Cosine()
    assert plain[0].factor(30, 120, 10) == plain[1].factor(30, 120, 10)  # without warm-up there is no difference
    with pytest.raises(ValueError, match=r"set trainer\.max_steps"):
        schedule.factor(30, -1, 10)
    assert schedule.factor(30, 10, 10) == 0.2  # a run shorter than its warm-up


def test_cosine_decreases():
    factors = [Cosine().factor(step, 50, 10) for step in range(51)]
    assert factors == sorted(factors, reverse=True)


def test_a_run_of_nothing_but_warmup_is_no_division_by_zero():
    assert Cosine(warmup_steps=10).factor(9, 10, 10) == 1
    assert Cosine(warmup_steps=10).factor(10, 10, 10) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"warmup_steps": -1}, {"warmup_epochs": -0.5}, {"warmup_steps": 3, "warmup_epochs": 1}],
)
@pytest.mark.parametrize("cls", [Constant, Cosine])
def test_impossible_warmups_are_refused(cls, arguments):
    with pytest.raises(ValueError, match="give warmup_steps or warmup_epochs, at least 0, not both; got warmup_steps="):
        cls(**arguments)


@pytest.mark.parametrize("final_factor", [-0.1, 1.5])
def test_final_factor_is_a_share(final_factor):
    with pytest.raises(ValueError, match=f"final_factor must be from 0 to 1, got {final_factor}"):
        Cosine(final_factor=final_factor)


def test_cosine_needs_an_end():
    with pytest.raises(ValueError, match=r"set trainer\.max_steps or trainer\.max_epochs"):
        Cosine().factor(0, -1, 10)
