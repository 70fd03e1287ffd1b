"""What a user does with a folder: plan, describe, fit, predict, evaluate, rename."""

from anyclass.run.describing import describe
from anyclass.run.fitting import fit
from anyclass.run.labelling import evaluate, predict
from anyclass.run.planning import plan
from anyclass.run.renaming import rename
from anyclass.run.request import Request

__all__ = ["Request", "describe", "evaluate", "fit", "plan", "predict", "rename"]
