"""The training loop of all methods: it minimises the sum of named loss terms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import log as log_of
from pathlib import Path
from time import monotonic

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from anyclass.errors import TrainingError
from anyclass.files import atomic_write
from anyclass.log import Log
from anyclass.training.batches import Batch, Batches
from anyclass.training.optim import Schedule

SAVE_EVERY = 30.0
"""Seconds between two checkpoints of a loop."""


@dataclass(frozen=True)
class Checkpoint:
    """File for the state of a training loop, so that the same call continues after a kill."""

    path: Path
    """File of the last state."""
    state: Mapping[str, Tensor]
    """Further tensors that training changes in place (LatteCLIP's prototypes)."""
    seconds: float = field(default_factory=lambda: SAVE_EVERY)
    """Time between two checkpoints; 0 writes one after every step."""
    clock: Callable[[], float] = monotonic
    """Seconds since any fixed moment."""

    @classmethod
    def at(cls, path: Path | None) -> "Checkpoint | None":
        """Checkpoint of a loop that changes only its parameters; None for no checkpoint."""
        return None if path is None else cls(path, {})


def optimise(
    loss: Callable[[Batch], dict[str, Float[Tensor, ""]]],
    parameters: Mapping[str, nn.Parameter],
    batches: Batches,
    schedule: Schedule,
    log: Log,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Minimise the sum of the named terms over all batches.

    A parameter called `logit_scale` is clamped between 0 and ln 100, as in CLIP.

    Args:
        loss: computes the named terms of a batch.
        parameters: trained parameters by name.
        batches: the batches of all steps.
        schedule: optimiser and learning rate.
        log: gets every term of each step.
        checkpoint: file for the state; None saves nothing.

    Raises:
        TrainingError: a term, a gradient or a parameter is not finite; the message names it, the
            step and files.
    """
    optimiser = schedule.optimiser(parameters)
    keeper = _Keeper(optimiser, parameters, checkpoint)
    step = keeper.load()
    for batch in batches.start(step):
        terms = loss(batch)
        _check(terms, step, batch)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward(inputs=list(parameters.values()))
        _check_gradients(parameters, step, batch)
        _set_rate(optimiser, schedule.rate.at(step, len(batches)))
        optimiser.step()
        if "logit_scale" in parameters:
            parameters["logit_scale"].data.clamp_(0, log_of(100))
        step += 1
        numbers = {name: float(term.detach()) for name, term in terms.items()}
        log(stage="fit", done=step, total=len(batches), **numbers)
        keeper.save(step)
    _check_parameters(parameters, step)


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def _check(terms: Mapping[str, Tensor], step: int, batch: Batch) -> None:
    """Raise before a step with a loss that is not finite."""
    for name, term in terms.items():
        if not torch.isfinite(term):
            raise _stopped(f"{name} became {float(term.detach())}", step, batch)


def _check_gradients(parameters: Mapping[str, nn.Parameter], step: int, batch: Batch) -> None:
    """Raise before a step along a gradient that is not finite: a finite loss may have one."""
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    if torch.isfinite(nn.utils.get_total_norm(gradients.values())):
        return
    if name := _not_finite(gradients):  # else all are finite, and only their squares overflow
        raise _stopped(f"the gradient of {name} is not finite", step, batch)


def _check_parameters(parameters: Mapping[str, nn.Parameter], step: int) -> None:
    """Raise if the last step, after which no loss is computed, left the range of numbers."""
    if name := _not_finite(parameters):
        raise TrainingError(f"{name} is not finite after step {step}: try a smaller --lr")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a number that is not finite."""
    return next((name for name, t in tensors.items() if not torch.isfinite(t).all()), None)


def _stopped(what: str, step: int, batch: Batch) -> TrainingError:
    """The error about what is not finite, with the images of the batch."""
    files = list(dict.fromkeys(batch.files))  # each once, however many views it has
    some = f" with {len(files)} images, the first being {', '.join(files[:3])}" if files else ""
    return TrainingError(
        f"{what} at step {step + 1}{some}. Saved states are intact; try a smaller --lr"
    )


class _Keeper:
    """Saves and restores the state of a loop."""

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        checkpoint: Checkpoint | None,
    ) -> None:
        self.optimiser = optimiser
        self.parameters = parameters
        self.checkpoint = checkpoint
        self.saved = checkpoint.clock() if checkpoint else 0.0

    def save(self, step: int) -> None:
        """Write the state atomically if the last checkpoint is old enough."""
        if self.checkpoint is None:
            return
        if self.checkpoint.clock() - self.saved < self.checkpoint.seconds:
            return
        _check_parameters(self.parameters, step)  # the last good state stays
        tensors = {f"state.{name}": tensor for name, tensor in self.checkpoint.state.items()}
        for name, parameter in self.parameters.items():
            tensors[f"parameter.{name}"] = parameter.data
            for key, value in self.optimiser.state[parameter].items():
                if value is not None:  # SGD without momentum
                    tensors[f"{key}.{name}"] = value
        with atomic_write(self.checkpoint.path) as path:
            save_file({n: t.contiguous() for n, t in tensors.items()}, path, {"step": str(step)})
        self.saved = self.checkpoint.clock()

    def load(self) -> int:
        """Restore a saved state and return the step to continue from.

        A parameter without gradients so far has no running averages.
        """
        if self.checkpoint is None or not self.checkpoint.path.is_file():
            return 0
        with safe_open(self.checkpoint.path, "pt") as file:
            saved = set(file.keys())
            step = int(file.metadata()["step"])
            for name, tensor in self.checkpoint.state.items():
                tensor.copy_(file.get_tensor(f"state.{name}"))
            for name, parameter in self.parameters.items():
                parameter.data.copy_(file.get_tensor(f"parameter.{name}"))
                self.optimiser.state[parameter] = {
                    key: file.get_tensor(f"{key}.{name}").to(
                        "cpu" if key == "step" else parameter.device
                    )
                    for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
                    if f"{key}.{name}" in saved
                }
        return step
