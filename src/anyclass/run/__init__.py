"""What a user does with a folder: plan, fit, predict, evaluate."""

from anyclass.run.fitting import fit
from anyclass.run.labelling import evaluate, predict
from anyclass.run.planning import plan
from anyclass.run.request import Request

__all__ = ["Request", "evaluate", "fit", "plan", "predict"]
