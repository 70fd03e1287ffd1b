"""The loop: its schedule by hand, its steps against plain AdamW, its checkpoint to the bit."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import cos, log, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.amp import GradScaler

from anyclass.backbone.checkpointing import checkpointed
from anyclass.errors import TrainingError
from anyclass.files import write_tensors
from anyclass.rng import seeded_rng
from anyclass.training.batches import Batch, Batches
from anyclass.training.loop import Checkpoint, optimise
from anyclass.training.optim import AdamW, LearningRate, Schedule, Sgd

B, D, C = 6, 4, 3
Loss = Callable[[Batch], dict[str, Tensor]]


@dataclass
class Noise:
    """Batches of random numbers, a pure function of the step."""

    steps: int
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.steps

    def start(self, step: int) -> Iterator[Batch]:
        self.asked.append(step)
        for i in range(step, self.steps):
            hidden = torch.randn(B, D, generator=seeded_rng(9, i))
            files = tuple(f"{i}-{j}.png" for j in range(B))
            yield Batch(i, i == 0, torch.arange(B), hidden, files)


def parameters() -> dict[str, nn.Parameter]:
    """A matrix, a bias and the logit scale."""
    drawn = seeded_rng(1)
    return {
        "matrix": nn.Parameter(torch.randn(C, D, generator=drawn)),
        "bias": nn.Parameter(torch.randn(C, generator=drawn)),
        "logit_scale": nn.Parameter(torch.tensor(1.5)),
    }


def loss_of(given: dict[str, nn.Parameter], seen: Tensor | None = None) -> Loss:
    """Two terms; `seen` is changed in place like LatteCLIP's prototypes, and takes part."""

    def loss(batch: Batch) -> dict[str, Tensor]:
        out = batch.hidden @ given["matrix"].T + given["bias"]
        pull = out.pow(2).mean() * given["logit_scale"].exp()
        if seen is None:
            return {"pull": pull, "push": -out.sum() / 50}
        seen.mul_(0.9).add_(out.detach().mean(0), alpha=0.1)
        return {"pull": pull, "push": (out - seen).abs().mean()}

    return loss


SCHEDULE = AdamW(LearningRate(0.05, warm_up=3), 0.2, (0.9, 0.98), 1e-6, "matrices")


def quiet(**_: Any) -> None:
    """Listens to nothing."""


def test_optimise__is_adamw_step_by_step() -> None:
    found, wanted = parameters(), parameters()
    optimise(loss_of(found), found, Noise(7), SCHEDULE, quiet)

    plain = torch.optim.AdamW(
        [
            {"params": [wanted["matrix"]], "weight_decay": 0.2},
            {"params": [wanted["bias"], wanted["logit_scale"]], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    rates = [0.05 / 3, 0.1 / 3, 0.05, *(0.025 * (1 + cos(pi * k / 4)) for k in range(4))]
    for batch, rate in zip(Noise(7).start(0), rates, strict=True):
        for group in plain.param_groups:
            group["lr"] = rate
        plain.zero_grad()
        sum(loss_of(wanted)(batch).values()).backward()
        plain.step()
    for name, parameter in wanted.items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-6, atol=1e-7)


def test_optimise__decays_matrices_only() -> None:
    given = parameters() | {"norm": nn.Parameter(torch.full((5,), 2.0))}
    before = {name: parameter.detach().clone() for name, parameter in given.items()}
    still = {"nothing": lambda: sum((0 * p).sum() for p in given.values())}
    optimise(
        lambda _: {name: term() for name, term in still.items()},
        given,
        Noise(2),
        AdamW(LearningRate(0.1, warm_up=1), 0.25, decay="matrices"),
        quiet,
    )
    kept = before["matrix"] * (1 - 0.1 * 0.25) * (1 - 0.1 * 0.25)  # both steps at full rate
    torch.testing.assert_close(given["matrix"].detach(), kept)
    for name in ("bias", "logit_scale", "norm"):
        assert torch.equal(given[name].detach(), before[name])


def test_optimise__sgd_is_sgd_with_momentum_by_hand() -> None:
    found, wanted = parameters(), parameters()
    optimise(loss_of(found), found, Noise(4), Sgd(LearningRate(0.05, min_lr=None), 0.8, 0.1), quiet)

    speed = {name: torch.zeros_like(parameter) for name, parameter in wanted.items()}
    for batch in Noise(4).start(0):
        total = sum(loss_of(wanted)(batch).values())
        slopes = torch.autograd.grad(total, list(wanted.values()))
        with torch.no_grad():
            for (name, parameter), slope in zip(wanted.items(), slopes, strict=True):
                speed[name] = 0.8 * speed[name] + slope + 0.1 * parameter
                parameter -= 0.05 * speed[name]
            wanted["logit_scale"].clamp_(0, log(100))
    for name, parameter in wanted.items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-5, atol=1e-6)


def test_optimise__gives_a_gradient_to_what_is_trained_alone() -> None:
    given = parameters()
    trained = {name: p for name, p in given.items() if name != "bias"}
    optimise(loss_of(given), trained, Noise(2), SCHEDULE, quiet)
    assert given["bias"].grad is None
    assert given["matrix"].grad is not None


@pytest.mark.parametrize(("start", "push", "end"), [(4.5, -1, log(100)), (0.2, 1, 0.0)])
def test_optimise__keeps_the_logit_scale_between_0_and_ln_100(
    start: float, push: float, end: float
) -> None:
    given = {"logit_scale": nn.Parameter(torch.tensor(start)), "tau": nn.Parameter(torch.ones(2))}
    seen = []

    def loss(_: Batch) -> dict[str, Tensor]:
        seen.append(float(given["logit_scale"].detach()))
        return {"push": push * 9 * (given["logit_scale"] + given["tau"].sum())}

    optimise(loss, given, Noise(4), AdamW(LearningRate(0.5)), quiet)
    assert seen[1:] == pytest.approx([end] * 3)
    assert given["tau"].detach().abs().min() > 1.2 or given["tau"].detach().max() < 0.2


def test_optimise__logs_every_term_of_every_step() -> None:
    given, lines = parameters(), []
    optimise(loss_of(given), given, Noise(3), SCHEDULE, lambda **line: lines.append(line))
    twin, terms = parameters(), []
    inner = loss_of(twin)

    def loss(batch: Batch) -> dict[str, Tensor]:
        terms.append(inner(batch))
        return terms[-1]

    optimise(loss, twin, Noise(3), SCHEDULE, quiet)
    assert lines == [
        {"stage": "fit", "done": i + 1, "total": 3}
        | {name: float(term.detach()) for name, term in terms[i].items()}
        for i in range(3)
    ]


@pytest.mark.parametrize(("value", "text"), [("nan", "nan"), ("inf", "inf"), ("-inf", "-inf")])
def test_optimise__stops_before_a_step_that_is_not_finite(value: str, text: str) -> None:
    given, lines = parameters(), []
    inner, before = loss_of(given), {}

    def loss(batch: Batch) -> dict[str, Tensor]:
        terms = inner(batch)
        if batch.step == 2:
            before.update({name: p.detach().clone() for name, p in given.items()})
            terms["push"] = terms["push"] * float(value) * torch.sign(terms["push"].detach())
        return terms

    with pytest.raises(TrainingError) as caught:
        optimise(loss, given, Noise(5), SCHEDULE, lambda **line: lines.append(line))
    assert str(caught.value) == (
        f"push became {text} at step 3 with 6 images, the first being 2-0.png, 2-1.png, 2-2.png. "
        "Saved states are intact; try a smaller --lr, and --precision float32 where it is fp16"
    )
    assert all(torch.equal(given[name].detach(), before[name]) for name in given)
    assert [line["done"] for line in lines] == [1, 2]


class Steep(torch.autograd.Function):
    """Zero, with a gradient that is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return slopes[0] * torch.inf


@pytest.mark.parametrize("step", [2, 4])
def test_optimise__stops_before_a_gradient_that_is_not_finite(tmp_path: Path, step: int) -> None:
    """A finite loss with an infinite gradient changes no parameter and no checkpoint."""
    given, before = parameters(), {}
    inner = loss_of(given)

    def loss(batch: Batch) -> dict[str, Tensor]:
        terms = inner(batch)
        if batch.step == step:
            before.update({name: p.detach().clone() for name, p in given.items()})
            terms["push"] = Steep.apply(given["bias"].sum())
        return terms

    path = tmp_path / "training.safetensors"
    with pytest.raises(TrainingError) as caught:
        optimise(loss, given, Noise(5), SCHEDULE, quiet, Checkpoint(path, {}, seconds=0.0))
    assert str(caught.value) == (
        f"the gradient of bias is not finite at step {step + 1} with 6 images, the first being "
        f"{step}-0.png, {step}-1.png, {step}-2.png. Saved states are intact; try a smaller --lr, "
        "and --precision float32 where it is fp16"
    )
    assert all(torch.equal(given[name].detach(), before[name]) for name in given)
    with safe_open(path, "pt") as file:
        assert file.metadata()["step"] == str(step)
        assert torch.equal(file.get_tensor("parameter.bias"), before["bias"])


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_optimise__ends_with_numbers_or_an_error(tmp_path: Path, seconds: float) -> None:
    """A step that is too long leaves no checkpoint and no result, though no loss follows it."""
    given, path = parameters(), tmp_path / "training.safetensors"
    far = Sgd(LearningRate(3e38, min_lr=None), 0.0)
    with pytest.raises(TrainingError, match=r"matrix is not finite after step 1: .* --lr"):
        optimise(loss_of(given), given, Noise(1), far, quiet, Checkpoint(path, {}, seconds))
    assert not path.exists()


def test_optimise__takes_long_gradients_that_are_numbers() -> None:
    """The square of 1e30 is no float32: the length of the gradient is not finite, all of it is."""
    given = {"tau": nn.Parameter(torch.ones(2))}
    optimise(
        lambda _: {"pull": 1e30 * given["tau"].sum()},
        given,
        Noise(1),
        Sgd(LearningRate(1e-30, min_lr=None), 0.0),
        quiet,
    )
    torch.testing.assert_close(given["tau"].detach(), torch.zeros(2))


def test_optimise__an_error_counts_an_image_once_and_none_where_there_are_none() -> None:
    given = {"tau": nn.Parameter(torch.ones(2))}
    empty = torch.zeros(0, dtype=torch.long)
    for files, said in [(("a.png", "b.png") * 2, " with 2 images, the first"), ((), r"\. Saved")]:
        batches = Noise(1)
        batches.start = lambda _, files=files: iter([Batch(0, True, empty, empty, files)])
        with pytest.raises(TrainingError, match=f"pull became nan at step 1{said}"):
            optimise(
                lambda _: {"pull": given["tau"].sum() * torch.nan}, given, batches, SCHEDULE, quiet
            )


def test_optimise__scales_losses_so_that_fp16_keeps_small_gradients() -> None:
    """1e-9 is 0 in float16, 65536 times as much is not."""
    for scaler, end in ((None, 1.0), (GradScaler("cpu"), 0.0)):
        given = {"tau": nn.Parameter(torch.ones(2))}
        optimise(
            lambda _, given=given: {"pull": 1e-9 * given["tau"].half().float().sum()},
            given,
            Noise(1),
            Sgd(LearningRate(1e9, min_lr=None), 0.0),
            quiet,
            scaler=scaler,
        )
        torch.testing.assert_close(given["tau"].detach(), torch.full((2,), end), rtol=0, atol=1e-3)


def test_optimise__leaves_out_steps_beyond_the_range_of_fp16() -> None:
    """2 x 65536 and 2 x 32768 are no float16: after two steps the scale fits, and two are taken."""
    given, lines = {"tau": nn.Parameter(torch.ones(2))}, []
    optimise(
        lambda _: {"pull": 2 * given["tau"].half().float().sum()},
        given,
        Noise(4),
        Sgd(LearningRate(0.125, min_lr=None), 0.0),
        lambda **line: lines.append(line),
        scaler=GradScaler("cpu"),
    )
    assert [line["loss_scale"] for line in lines] == [2**15, 2**14, 2**14, 2**14]
    assert given["tau"].tolist() == [0.5, 0.5]


def test_optimise__stops_where_no_loss_scale_helps() -> None:
    given = {"tau": nn.Parameter(torch.ones(2))}
    with pytest.raises(TrainingError, match=r"gradient of tau is not finite at step 17 with 6 ima"):
        optimise(
            lambda _: {"pull": Steep.apply(given["tau"].sum())},
            given,
            Noise(20),
            SCHEDULE,
            quiet,
            scaler=GradScaler("cpu"),
        )
    assert given["tau"].tolist() == [1, 1]


def interrupted(inner: Loss, step: int, error: type[BaseException]) -> Loss:
    """Ends in the middle of a step, after the state has been changed."""

    def loss(batch: Batch) -> dict[str, Tensor]:
        terms = inner(batch)
        if batch.step == step:
            raise error
        return terms

    return loss


def run(
    path: Path | None,
    stop: tuple[int, type[BaseException]] | None = None,
    schedule: Schedule = SCHEDULE,
    scaler: GradScaler | None = None,
) -> dict[str, bytes]:
    """Train from what lies at `path`; the bytes of everything that training changes."""
    given, seen = parameters(), torch.zeros(C)
    given["unused"] = nn.Parameter(torch.full((2, 5), 3.0))  # no loss reaches it
    keep = Checkpoint(path, {"seen": seen}, seconds=0.0) if path else None
    loss = loss_of(given, seen)
    if stop:
        with pytest.raises(stop[1]):
            optimise(interrupted(loss, *stop), given, Noise(8), schedule, quiet, keep, scaler)
    else:
        optimise(loss, given, Noise(8), schedule, quiet, keep, scaler)
    tensors = {name: p.detach() for name, p in given.items()} | {"seen": seen}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("step", [0, 1, 7])
def test_checkpoint__continues_to_the_bit(tmp_path: Path, step: int) -> None:
    path = tmp_path / "training.safetensors"
    assert run(path, (step, KeyboardInterrupt)) != run(None)
    assert path.is_file() == (step > 0)
    assert run(path) == run(None)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_checkpoint__of_sgd_continues_to_the_bit(tmp_path: Path, momentum: float) -> None:
    path, schedule = (
        tmp_path / "training.safetensors",
        Sgd(LearningRate(0.05, min_lr=None), momentum),
    )
    run(path, (4, KeyboardInterrupt), schedule)
    assert run(path, None, schedule) == run(None, None, schedule) != run(None)


def test_checkpoint__continues_after_two_kills(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    run(path, (3, KeyboardInterrupt))
    run(path, (6, KeyboardInterrupt))
    assert run(path) == run(None)


def test_checkpoint__keeps_the_loss_scale_and_when_it_grows(tmp_path: Path) -> None:
    """8 doubles after each three steps, of which a kill forgets none: 32 after eight."""
    path = tmp_path / "training.safetensors"
    first, second = (GradScaler("cpu", init_scale=8, growth_interval=3) for _ in range(2))
    run(path, (4, KeyboardInterrupt), scaler=first)
    assert run(path, scaler=second) == run(None), "a power of two changes no gradient"
    assert (first.get_scale(), second.get_scale()) == (16, 32)


def test_checkpoint__that_is_complete_trains_no_further(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    wanted = run(path)
    given, seen, batches = parameters(), torch.zeros(C), Noise(8)
    given["unused"] = nn.Parameter(torch.zeros(2, 5))
    optimise(
        loss_of(given, seen), given, batches, SCHEDULE, quiet, Checkpoint(path, {"seen": seen})
    )
    assert batches.asked == [8]
    assert given["matrix"].detach().numpy().tobytes() == wanted["matrix"]
    assert given["unused"].detach().numpy().tobytes() == wanted["unused"]
    assert seen.numpy().tobytes() == wanted["seen"]


@pytest.mark.parametrize(
    ("cost", "saved"),
    [(0.4, [1, 2, 3, 4, 5, 6, 7]), (0.6, [1, 1, 3, 3, 5, 5, 7]), (9.0, [1, 1, 1, 4, 4, 4, 7])],
)
def test_checkpoint__takes_a_twentieth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cost: float, saved: list[int]
) -> None:
    """Steps of 10 s: one is lost where saving takes less than 0.5 s; 25 s are lost at most."""
    now = [0.0]

    def save(*given: Any) -> None:
        now[0] += cost
        write_tensors(*given)

    monkeypatch.setattr("anyclass.training.loop.write_tensors", save)
    path, given, steps = tmp_path / "training.safetensors", parameters(), []

    def loss(batch: Batch) -> dict[str, Tensor]:
        now[0] += 10
        if path.is_file():
            with safe_open(path, "pt") as file:
                steps.append(int(file.metadata()["step"]))
        return loss_of(given)(batch)

    keep = Checkpoint(path, {}, seconds=25.0, clock=lambda: now[0])
    optimise(loss, given, Noise(8), SCHEDULE, quiet, keep)
    assert steps == saved
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"step": "8"}, "the last step is always kept"


def test_checkpoint__damaged_begins_again_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    run(path, (3, KeyboardInterrupt))
    path.write_bytes(path.read_bytes()[:-7])
    warnings = []
    given, batches = parameters(), Noise(2)
    log = lambda **row: warnings.append(row.get("warning"))  # noqa: E731
    optimise(loss_of(given), given, batches, SCHEDULE, log, Checkpoint(path, {}))
    assert batches.asked == [0]
    assert warnings[0].startswith(f"{path} is damaged (")


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_optimise__without_memory_names_the_flag_and_the_size(error: Exception) -> None:
    given = parameters()

    def loss(batch: Batch) -> dict[str, Tensor]:
        if batch.step == 2:
            raise error
        return loss_of(given)(batch)

    with pytest.raises(TrainingError) as caught:
        optimise(loss, given, Noise(5), SCHEDULE, quiet)
    assert str(caught.value) == (
        "step 3 needs more memory than there is: give a smaller --batch-size (6 rows of a batch "
        "now), or, for a method that has it, a --micro-batch, which changes no result. Saved "
        "states are intact"
    )


def test_optimise__without_a_checkpoint_writes_nothing(tmp_path: Path) -> None:
    given = parameters()
    optimise(loss_of(given), given, Noise(2), SCHEDULE, quiet)
    assert list(tmp_path.iterdir()) == []


def test_generator__depends_on_its_key_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    first = torch.rand(3, generator=seeded_rng(4, 2))
    torch.rand(5)
    assert torch.equal(first, torch.rand(3, generator=seeded_rng(4, 2)))
    others = [seeded_rng(*key) for key in [(4, 3), (4,), (42,), (2, 4), (4, 2, 0), ()]]
    drawn = [tuple(torch.rand(3, generator=other).tolist()) for other in others]
    assert len({tuple(first.tolist()), *drawn}) == 7


def test_generator__of_zero_is_a_known_value() -> None:
    assert torch.randperm(8, generator=seeded_rng(0, 0)).tolist() == [5, 4, 6, 3, 1, 7, 0, 2]


def test_batches__is_a_protocol() -> None:
    assert isinstance(Noise(1), Batches)
    assert not isinstance([], Batches)


def test_recomputed__same_values_and_slopes_a_few_rows_at_a_time() -> None:
    layer, seen = nn.Linear(3, 2), []

    def encode(x: Tensor) -> Tensor:
        seen.append(len(x))
        return layer(x).tanh()

    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for size in (None, 3, 7):
        layer.zero_grad()
        y = checkpointed(encode, x, size)
        y.square().sum().backward()
        found.append((y.detach(), layer.weight.grad.clone()))
    assert sorted(seen) == sorted([7, 3, 3, 1, 3, 3, 1, 7])  # forward, and again for the slope
    for y, slope in found[1:]:
        assert torch.allclose(y, found[0][0])
        assert torch.allclose(slope, found[0][1], atol=1e-6)
