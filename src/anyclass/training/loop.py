"""The training loop of all methods: it minimises the sum of named loss terms."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import log as log_of
from pathlib import Path
from time import monotonic
from types import MappingProxyType

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.amp import GradScaler

from anyclass.distributed.gradients import average_gradients
from anyclass.distributed.processes import agreed, rank
from anyclass.errors import RequestError, TrainingError, out_of_memory
from anyclass.files import Pace, write_tensors
from anyclass.log import Log
from anyclass.training.batches import Batch, Batches
from anyclass.training.memory import within_memory
from anyclass.training.optim import Schedule

SAVE_EVERY = 30.0
"""Maximum number of seconds between two checkpoints of a loop."""


@dataclass(frozen=True)
class Checkpoint:
    """File for the state of a training loop, so that the same call continues after a kill."""

    path: Path
    """File of the last state."""
    state: Mapping[str, Tensor]
    """Further tensors that training changes in place (LatteCLIP's prototypes)."""
    seconds: float = field(default_factory=lambda: SAVE_EVERY)
    """Maximum time between two checkpoints; 0 writes one after every step."""
    clock: Callable[[], float] = monotonic
    """Seconds since any fixed moment."""

    @classmethod
    def at(
        cls, path: Path | None, state: Mapping[str, Tensor] = MappingProxyType({})
    ) -> "Checkpoint | None":
        """Checkpoint of a loop that changes its parameters and `state`; None for no checkpoint."""
        return None if path is None else cls(path, state)

    @property
    def name(self) -> str:
        """Name of the loop, which tells its steps from those of other loops of a run."""
        return self.path.stem


def optimise(
    loss: Callable[[Batch], dict[str, Float[Tensor, ""]]],
    parameters: Mapping[str, nn.Parameter],
    batches: Batches,
    schedule: Schedule,
    log: Log,
    checkpoint: Checkpoint | None = None,
    scaler: GradScaler | None = None,
) -> None:
    """Minimise the sum of the named terms over all batches.

    A parameter called `logit_scale` is clamped between 0 and ln 100, as in CLIP. Several processes
    (`distributed/gradients.py`) take each step together.

    Args:
        loss: computes the named terms of a batch, in each process those of the whole batch.
        parameters: trained parameters by name.
        batches: the batches of all steps.
        schedule: optimiser and learning rate.
        log: gets every term of each step, and the name of the checkpoint as `loop`.
        checkpoint: file for the state; None saves nothing.
        scaler: `Backbone.loss_scaler` of the trained encoders; None, or not enabled: losses are not
            scaled. A step with gradients beyond the range of fp16 is left out, and the scale is
            halved.

    Raises:
        TrainingError: a term, a gradient or a parameter is not finite, or a step needs more memory
            than there is; the message names it, the step and files, or the size of the batch.
    """
    optimiser = schedule.optimiser(parameters)
    scaler = scaler or GradScaler(enabled=False)
    state = _LoopState(optimiser, parameters, checkpoint, scaler)
    loop = {} if checkpoint is None else {"loop": checkpoint.name}
    first = step = _first_step(state, log)
    size = 0
    try:
        for batch in batches.start(step):
            size = len(batch.index)
            with within_memory() if step == first else nullcontext():
                terms = loss(batch)
            _check(terms, step, batch)
            optimiser.zero_grad(set_to_none=True)
            total = torch.stack(list(terms.values())).sum()
            scaler.scale(total).backward(inputs=list(parameters.values()))
            average_gradients(parameters.values())
            scaler.unscale_(optimiser)
            if scaler.get_scale() <= 1:  # without scaling, and where it no longer helps
                _check_gradients(parameters, step, batch)
            _set_rate(optimiser, schedule.rate.at(step, len(batches)))
            scaler.step(optimiser)
            scaler.update()
            if "logit_scale" in parameters:
                parameters["logit_scale"].data.clamp_(0, log_of(100))
            step += 1
            numbers = {name: float(term.detach()) for name, term in terms.items()}
            if scaler.is_enabled():
                numbers["loss_scale"] = scaler.get_scale()
            log(stage="fit", **loop, done=step, total=len(batches), **numbers)
            state.save(step, last=step == len(batches))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        rows = f" ({size} rows of a batch now)" if size else ""
        raise TrainingError(
            f"step {step + 1} needs more memory than there is: give a smaller --batch-size{rows}, "
            "or, for a method that has it, a --micro-batch, which changes no result. Saved states "
            "are intact"
        ) from error
    _check_parameters(parameters, step)


def _first_step(state: "_LoopState", log: Log) -> int:
    """The step that the saved state continues from; 0 without one.

    Raises:
        RequestError: several processes found different states.
    """
    step = state.load(log)
    if not agreed(step):
        raise RequestError(
            "the processes found different states of the training: the machines need one file "
            "system for the run folder (--out)"
        )
    return step


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
    """Raise if the last step, after which no loss is computed, left the range of numbers.

    Parameters without a gradient, such as CoCa's decoder, were not updated.
    """
    if name := _not_finite({n: p for n, p in parameters.items() if p.grad is not None}):
        raise TrainingError(f"{name} is not finite after step {step}: try a smaller --lr")


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor with a number that is not finite."""
    return next((name for name, t in tensors.items() if not torch.isfinite(t).all()), None)


def _stopped(what: str, step: int, batch: Batch) -> TrainingError:
    """The error about what is not finite, with the images of the batch."""
    files = list(dict.fromkeys(batch.files))  # each once, however many views it has
    some = f" with {len(files)} images, the first being {', '.join(files[:3])}" if files else ""
    return TrainingError(
        f"{what} at step {step + 1}{some}. Saved states are intact; try a smaller --lr, "
        "and --precision float32 where it is fp16"
    )


class _LoopState:
    """Parameters, running averages of the optimiser and further tensors, saved and restored."""

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        checkpoint: Checkpoint | None,
        scaler: GradScaler,
    ) -> None:
        self._optimiser = optimiser
        self._scaler = scaler
        self._parameters = parameters
        self._checkpoint = checkpoint
        self._pace = Pace(checkpoint.seconds, checkpoint.clock) if checkpoint else Pace()

    def save(self, step: int, last: bool = False) -> None:
        """Write the state atomically if the last checkpoint is old enough; the first process does.

        That is at once where writing takes little time beside a step: a kill then loses one step.
        The last step is always saved, so that what follows never trains this loop again.
        """
        if self._checkpoint is None or rank() or not (last or self._pace.due()):
            return
        _check_parameters(self._parameters, step)  # the last good state stays
        tensors = {f"state.{name}": tensor for name, tensor in self._checkpoint.state.items()}
        for name, parameter in self._parameters.items():
            tensors[f"parameter.{name}"] = parameter.data
            for key, value in self._optimiser.state[parameter].items():
                if value is not None:  # SGD without momentum
                    tensors[f"{key}.{name}"] = value
        for key, value in self._scaler.state_dict().items():  # none if it is not enabled
            tensors[f"scaler.{key}"] = torch.tensor(value)
        with self._pace.saving():
            write_tensors(self._checkpoint.path, tensors, {"step": str(step)})

    def load(self, log: Log) -> int:
        """Restore a saved state and return the step to continue from.

        A parameter without gradients so far has no running averages. A damaged file gives a
        warning, and training starts at the first step.
        """
        if self._checkpoint is None or not self._checkpoint.path.is_file():
            return 0
        path = self._checkpoint.path
        try:
            saved = safe_open(path, "pt")
        except SafetensorError as error:
            log(warning=f"{path} is damaged ({error!s:.80}): its training starts again")
            return 0
        with saved as file:
            names = set(file.keys())
            step = int(file.metadata()["step"])
            for name, tensor in self._checkpoint.state.items():
                tensor.copy_(file.get_tensor(f"state.{name}"))
            scale = {
                key: file.get_tensor(f"scaler.{key}").item()
                for key in self._scaler.state_dict()
                if f"scaler.{key}" in names
            }
            if scale:
                self._scaler.load_state_dict(scale)
            for name, parameter in self._parameters.items():
                parameter.data.copy_(file.get_tensor(f"parameter.{name}"))
                self._optimiser.state[parameter] = {
                    key: file.get_tensor(f"{key}.{name}").to(
                        "cpu" if key == "step" else parameter.device
                    )
                    for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
                    if f"{key}.{name}" in names
                }
        return step
