"""Probabilities of classes that were merged or split; `class_edits` has the equations.

Letters: n images, K classes as fitted, G gates, C classes now, E columns of a row.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from anyclass.classifier.class_edits import ClassEdits


def gate_logits(edits: ClassEdits, rows: Float[Tensor, "n E"]) -> Float[Tensor, "n G"]:
    """g of each gate."""
    if not len(edits.gates):
        return rows.new_zeros(len(rows), 0)
    gates = torch.from_numpy(edits.gates).to(rows)
    return rows @ gates[:, :-1].T + gates[:, -1]


def edited_probabilities(
    edits: ClassEdits, fitted: Float[Tensor, "n K"], gates: Float[Tensor, "n G"]
) -> Float[Tensor, "n C"]:
    """Probability of each class.

    Args:
        edits: parts of each class.
        fitted: probabilities of the classes as they were fitted.
        gates: g of the same images.
    """
    parts = list(fitted.unbind(1))
    for part, gate in edits.divided:
        g = gates[:, gate]
        parts.append(parts[part] * torch.sigmoid(-g))
        parts[part] = parts[part] * torch.sigmoid(g)
    sums = []
    for members in edits.members:
        of_class = [parts[member] for member in members]
        sums.append(of_class[0] if len(of_class) == 1 else torch.stack(of_class).sum(0))
    return torch.stack(sums, dim=1)
