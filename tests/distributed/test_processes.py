"""Several processes: gradients of a batch that is divided, and what the first one does for all."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anyclass.distributed.gradients import average_gradients, divided, gather, own_part
from anyclass.distributed.processes import (
    agreed,
    alone,
    first_process_first,
    from_first,
    rank,
    world,
)
from anyclass.distributed.torchrun import check_shared
from anyclass.errors import RequestError
from anyclass.rng import seeded_rng
from anyclass.training.losses import contrastive, supervised_contrast
from tests.processes import together

B, D, H, K = 7, 5, 4, 3
"""Odd, so that two parts differ in size."""


class Toy(nn.Module):
    """A tower, a head that sees all rows, a scale, and a weight that both use."""

    def __init__(self) -> None:
        super().__init__()
        drawn = seeded_rng(3)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=drawn, dtype=torch.float64))

        self.tower = parameter(D, H)
        self.both = parameter(H, H)
        self.head = parameter(H, K)
        self.logit_scale = parameter()
        self.unused = parameter(2)
        self.own_only = parameter(H)
        """Used in the first process alone: the others have no gradient for it."""

    def encode(self, x: Tensor) -> Tensor:
        encoded = torch.tanh(x @ self.tower) @ self.both
        return encoded + 0 * self.own_only.sum() if rank() == 0 else encoded


def gradients(views: int) -> dict[str, Tensor | None]:
    """Gradients of a loss that mixes all rows of a batch of B images with some views each."""
    toy = Toy()
    x = torch.randn(views, B, D, generator=seeded_rng(4), dtype=torch.float64)
    f = gather(toy.encode(x[:, own_part(B)].flatten(0, 1)), B, views)
    rows = torch.randn(views * B, D, generator=seeded_rng(5), dtype=torch.float64)
    t = divided(lambda some: some.tanh() @ toy.tower, rows)
    labels = torch.arange(views * B) % K
    loss = contrastive(f, t @ toy.both, toy.logit_scale.exp())
    loss = loss + supervised_contrast(f @ toy.head, labels, 0.5)
    loss.backward()
    average_gradients(toy.parameters())
    return {name: parameter.grad for name, parameter in toy.named_parameters()}


def as_numpy(found: dict[str, Tensor | None]) -> dict[str, Any]:
    return {name: None if t is None else t.numpy() for name, t in found.items()}


def all_checks(folder: Path) -> dict[str, Any]:
    """What one of several processes finds."""
    found: dict[str, Any] = {f"views{v}": as_numpy(gradients(v)) for v in (1, 2)}
    order = folder / "order"
    with first_process_first(), order.open("a") as file:
        file.write(f"{rank()} ")
        found["inside"] = world()
    found["told"] = from_first(lambda: [rank(), None, "ä", world()])
    found["parts"] = [(own_part(n).start, own_part(n).stop) for n in (7, 2, 1)]
    found["few"] = divided(torch.neg, torch.arange(1)).tolist()
    found["empty"] = from_first(list)
    found["agreed"] = [agreed({"b": 1, "a": [2]}), agreed(rank())]
    check_shared(folder)
    elsewhere = folder / str(rank())
    elsewhere.mkdir()
    try:
        check_shared(elsewhere)
    except RequestError as error:
        found["refused"] = str(error)
    with alone():
        found["alone"] = [world(), own_part(7), gather(torch.ones(2), 2).tolist()]
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_processes__have_the_gradients_of_one_and_hear_from_the_first(
    count: int, tmp_path: Path
) -> None:
    one = {views: gradients(views) for views in (1, 2)}
    found = together(count, tmp_path, partial(all_checks, tmp_path))
    assert (tmp_path / "order").read_text().split()[0] == "0"
    for number, some in enumerate(found):
        for views, expected in one.items():
            assert expected["unused"] is None
            for name, gradient in expected.items():
                mine = some[f"views{views}"][name]
                if gradient is None:
                    assert mine is None
                else:
                    assert abs(mine - gradient.numpy()).max() < 1e-14, (views, name)
                    assert (mine == found[0][f"views{views}"][name]).all()
        assert some["inside"] == 1
        assert some["told"] == [0, None, "ä", 1]
        assert some["empty"] == []
        ends = [7 * r // count for r in range(count + 1)]
        assert some["parts"][0] == (ends[number], ends[number + 1])
        assert some["parts"][2] == (0, 1)
        assert some["few"] == [0]
        assert some["agreed"] == [True, False]
        assert some["alone"] == [1, slice(0, 7), [1.0, 1.0]]
        assert "process 1 does not see" in some["refused"]
        assert "ANYCLASS_CACHE" in some["refused"]
    assert not list(tmp_path.rglob(".anyclass-*"))
