"""How long, how fast, on which views."""

import pytest

from anyclass.backbone import Part
from anyclass.methods.zero_shot import ZeroShot
from anyclass.train import Schedule
from anyclass.tuning import Tuning, tuning_of

PAPER_STEPS = {  # pictures for training -> steps, paper section 4
    5777: 600,
    3948: 400,
    18900: 1850,
    6667: 700,
    5726: 600,
    70700: 2000,
    3680: 400,
    8144: 800,
    19850: 1950,
    9537: 950,
}


@pytest.mark.parametrize(("pictures", "steps"), PAPER_STEPS.items())
def test_steps__of_the_ten_sets(pictures: int, steps: int) -> None:
    how = Tuning()
    assert how.steps_of(pictures) == steps
    assert how.schedule(pictures) == Schedule(1e-7, -(-pictures // 512), 0.2, (0.9, 0.98), 1e-6)


@pytest.mark.parametrize(("tune", "path"), [("head", 5e-4), ("tail", 3e-4)])
@pytest.mark.parametrize(("pictures", "steps"), [(263, 50), (3409, 350), (10000, 1000)])
def test_schedule__of_head_and_tail_moves_weights_as_far_in_any_folder(
    tune: Part, path: float, pictures: int, steps: int
) -> None:
    assert Tuning(tune=tune).schedule(pictures).lr * steps == pytest.approx(path)
    assert Tuning(tune=tune, steps=0).schedule(pictures).lr == pytest.approx(path)
    assert Tuning(tune=tune, lr=0.25).schedule(pictures).lr == 0.25


def test_tuning_of__a_method_that_trains_nothing() -> None:
    assert tuning_of(ZeroShot()) is None
