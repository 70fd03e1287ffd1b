"""How long, how fast, on which views."""

from typing import Any

import pytest

from anyclass.backbone import Part
from anyclass.features.domains import domain
from anyclass.methods.get import Get
from anyclass.methods.kmeans import KMeans
from anyclass.methods.latteclip import LatteClip
from anyclass.methods.reclip import Reclip
from anyclass.methods.zero_shot import ZeroShot
from anyclass.training.optim import AdamW, LearningRate
from anyclass.training.tuning import Tuning
from anyclass.training.two_views import TwoViewTuning

PAPER_STEPS = {  # images for training -> steps, paper section 4
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


def test_steps__of_the_ten_sets() -> None:
    how = Tuning()
    for images, steps in PAPER_STEPS.items():
        assert how.steps_of(images) == steps
        assert how.schedule(images) == AdamW(
            LearningRate(1e-7, -(-images // 512)), 0.2, (0.9, 0.98), 1e-6, "matrices"
        )


@pytest.mark.parametrize(
    ("name", "lr", "decay"),
    [("food101", 1e-6, 0.2), ("SUN", 1e-6, 0.2), ("caltech101", 1e-7, 1e-7), ("dtd", 1e-7, 0.2)],
)
def test_schedule__of_a_data_set_gives_way_to_fields(name: str, lr: float, decay: float) -> None:
    about = domain(name)
    usual = Tuning().schedule(600, about.lr, about.weight_decay)
    assert (usual.rate.peak_lr, usual.weight_decay) == (lr, decay)
    given = Tuning(lr=3e-6, weight_decay=0.1).schedule(600, about.lr, about.weight_decay)
    assert (given.rate.peak_lr, given.weight_decay) == (3e-6, 0.1)
    head = Tuning("head").schedule(600, about.lr, about.weight_decay)
    assert head == Tuning("head").schedule(600), "nothing is published on a part of the model"


@pytest.mark.parametrize(("tune", "path"), [("head", 5e-4), ("tail", 3e-4)])
@pytest.mark.parametrize(("images", "steps"), [(263, 50), (3409, 350), (10000, 1000)])
def test_schedule__of_head_and_tail_moves_weights_as_far_in_any_folder(
    tune: Part, path: float, images: int, steps: int
) -> None:
    assert Tuning(tune=tune).schedule(images).rate.peak_lr * steps == pytest.approx(path)
    assert Tuning(tune=tune, steps=0).schedule(images).rate.peak_lr == pytest.approx(path)
    assert Tuning(tune=tune, lr=0.25).schedule(images).rate.peak_lr == 0.25


@pytest.mark.parametrize(
    ("method", "part", "views"),
    [
        (ZeroShot(), None, 0),
        (LatteClip(), "all", 0),
        (LatteClip(tuning=Tuning("tail", views=3)), "tail", 3),
        (Reclip(tune="tail"), "tail", 0),
        (Get(), "tail", 8),
        (Get(tuning=TwoViewTuning("head", views=2)), "head", 2),
        (KMeans(), None, 0),
    ],
)
def test_workload__says_what_is_trained_and_how_many_views_are_kept(
    method: Any, part: Part | None, views: int
) -> None:
    workload = method.workload(9, 3)
    assert (workload.trains, workload.views) == (part, views)
