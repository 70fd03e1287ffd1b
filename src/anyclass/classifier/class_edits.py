"""Classes merged, split, rejected and renamed after a fit; nothing is fitted again.

    p_j      probability of class j as it was fitted
    g        gate of a split, linear in rows f = [features | 1]: g = f . w
    p_a, p_b = p_j sigmoid(g), p_j sigmoid(-g)          a split: the parts a and b of class j
    p_c      = sum of p_j over the parts of class c     a merge: probabilities add exactly

`edited_probabilities` computes them.

Letters: n images, K classes as fitted, G gates, P = K + splits parts, C classes now, E columns of
a row of the representation.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
from jaxtyping import Float

from anyclass.data import Classes
from anyclass.data.classes import Kind, listed, normal, readable
from anyclass.errors import RequestError


@dataclass(frozen=True, eq=False)
class ClassEdits:
    """Which parts of the fitted classes each class now consists of."""

    members: tuple[tuple[int, ...], ...]
    """Parts of each class; the first is the class that it continues. The parts are the K fitted
    classes, followed by the second half of each split."""
    divided: tuple[tuple[int, int], ...] = ()
    """Splits in order: the part that is divided, and its gate."""
    gates: Float[np.ndarray, "G F"] = field(default_factory=lambda: np.zeros((0, 1), np.float32))
    """Weights [w | bias] of each gate, F = E + 1."""

    @classmethod
    def none(cls, classes: int) -> "ClassEdits":
        """No edit of K classes."""
        return cls(tuple((k,) for k in range(classes)))

    @property
    def fitted(self) -> int:
        """K."""
        return sum(map(len, self.members)) - len(self.divided)

    @property
    def changes_nothing(self) -> bool:
        """Whether every class is as it was fitted."""
        return self.members == ClassEdits.none(self.fitted).members

    def merge(self, into: int, others: Iterable[int]) -> "ClassEdits":
        """Add the parts of other classes to a class; the others end."""
        gone = set(others)
        more = tuple(part for c in sorted(gone) for part in self.members[c])
        members = [
            parts + more if c == into else parts
            for c, parts in enumerate(self.members)
            if c not in gone
        ]
        return replace(self, members=tuple(members))

    def split(self, c: int, gate: Float[np.ndarray, " F"]) -> "ClassEdits":
        """Divide a class by a gate: the side of g > 0 stays class c, the other is the last one."""
        gates = np.concatenate([self.gates, gate[None]]) if len(self.gates) else gate[None]
        first_new = self.fitted + len(self.divided)
        parts = self.members[c]
        new = tuple(range(first_new, first_new + len(parts)))
        divided = tuple((part, len(gates) - 1) for part in parts)
        return ClassEdits((*self.members, new), self.divided + divided, gates)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        members = [list(parts) for parts in self.members]
        divided = [list(pair) for pair in self.divided]
        gates = self.gates.tolist() if len(self.gates) else []
        return {"members": members, "divided": divided, "gates": gates}

    @classmethod
    def from_json(
        cls,
        members: Sequence[Sequence[int]],
        divided: Sequence[tuple[int, int]],
        gates: Sequence[Sequence[float]],
    ) -> "ClassEdits":
        """Restore edits.

        Raises:
            ValueError: the values do not fit together.
        """
        of_class = tuple(tuple(parts) for parts in members)
        everything = sorted(part for parts in of_class for part in parts)
        if everything != list(range(len(everything))) or not all(of_class):
            raise ValueError("each part of its edited classes must occur once")
        first_new = len(everything) - len(divided)
        for number, (part, gate) in enumerate(divided):
            if not (0 <= part < first_new + number and 0 <= gate < len(gates)):
                raise ValueError("a split of its edited classes divides nothing")
        if len({len(gate) for gate in gates}) > 1:
            raise ValueError("the gates of its edited classes have different lengths")
        table = np.array(gates, np.float32) if gates else np.zeros((0, 1), np.float32)
        if not np.isfinite(table).all():
            raise ValueError("the gates of its edited classes are not finite")
        return cls(of_class, tuple((part, gate) for part, gate in divided), table)


@dataclass(frozen=True, eq=False)
class EditedClasses:
    """Classes of a classifier and the edits that led to them; every operation returns new ones."""

    classes: Classes
    """The C classes."""
    edits: ClassEdits
    """Their parts."""

    def merge(self, names: Sequence[str]) -> "EditedClasses":
        """Merge classes; the class with labels or a name of its own, else the first one, remains.

        Raises:
            RequestError: there are not two classes, one does not exist, or two of them have a name
                of their own.
        """
        indices = list(dict.fromkeys(self.classes.index(name) for name in names))
        if len(indices) < 2:
            raise RequestError(f"a merge needs two classes, not {listed(names)}")
        own = [c for c in indices if self.classes.kind(c) != "unknown"]
        if len(own) > 1:
            both = listed(self.classes.names[c] for c in own)
            raise RequestError(
                f"{both} were given, so they cannot be merged: change the labels and fit again"
            )
        into = own[0] if own else indices[0]
        gone = [c for c in indices if c != into]
        return EditedClasses(_without(self.classes, gone), self.edits.merge(into, gone))

    def split(
        self, name: str, gate: Float[np.ndarray, " F"], names: Sequence[str] = ()
    ) -> "EditedClasses":
        """Split a discovered class by a gate; the second half becomes the last class.

        Args:
            name: the class.
            gate: weights of `two_means`.
            names: names of both halves; by default as of `half_names`.
        """
        c = self.discovered(name, "split")
        first, second = names or half_names(self.classes.names[c], self.classes.names)
        renamed = self.rename({self.classes.names[c]: first}).classes
        new: Kind = "unknown"
        classes = Classes(
            (*renamed.names, normal(second)),
            (*renamed.kinds, new),
            (*renamed.prompts, readable(normal(second))),
            rejected=renamed.rejected,
            synonyms=renamed.synonyms and (*renamed.synonyms, ()),
        )
        return EditedClasses(classes, self.edits.split(c, gate))

    def reject(self, name: str) -> "EditedClasses":
        """Reject a discovered class: its images get no label."""
        c = self.discovered(name, "rejected")
        rejected = dict.fromkeys((*self.classes.rejected, self.classes.names[c]))
        return replace(self, classes=replace(self.classes, rejected=tuple(rejected)))

    def restore(self, name: str) -> "EditedClasses":
        """Take back that a class is rejected."""
        c = self.discovered(name, "restored")
        kept = tuple(one for one in self.classes.rejected if one != self.classes.names[c])
        return replace(self, classes=replace(self.classes, rejected=kept))

    def rename(self, names: Mapping[str, str]) -> "EditedClasses":
        """Rename discovered classes; their prompts change as well.

        Raises:
            RequestError: a class does not exist or was given, or a name is taken or unusable.
        """
        new = {self.discovered(old, "renamed"): normal(name) for old, name in names.items()}
        all_names = [new.get(c, name) for c, name in enumerate(self.classes.names)]
        taken = [name for name, times in Counter(all_names).items() if times > 1]
        if taken:
            raise RequestError(
                f"{taken[0]!r:.80} is the name of another class: merge the two, or choose another"
            )
        prompts = [
            readable(new[c]) if c in new else prompt
            for c, prompt in enumerate(self.classes.prompts)
        ]
        now = dict(zip(self.classes.names, all_names, strict=True))
        classes = Classes(
            tuple(all_names),
            self.classes.kinds,
            tuple(prompts),
            rejected=tuple(now[name] for name in self.classes.rejected),
            synonyms=self.classes.synonyms,
        )
        return replace(self, classes=classes)

    def predicts_as(self, other: "EditedClasses") -> bool:
        """Whether only names differ from other classes of the same fit."""
        count = range(len(self.classes))
        same = self.edits.members == other.edits.members
        return same and all(
            (self.classes.label(c) is None) == (other.classes.label(c) is None) for c in count
        )

    def discovered(self, name: str, what: str) -> int:
        """Index of a discovered class.

        Raises:
            RequestError: there is no such class, or it was given.
        """
        c = self.classes.index(name)
        if self.classes.kind(c) != "unknown":
            raise RequestError(
                f"class {c} is {self.classes.kind(c)}, so {self.classes.names[c]!r:.80} cannot be "
                f"{what}: only discovered classes can"
            )
        return c


def _without(classes: Classes, gone: Sequence[int]) -> Classes:
    """The other classes, in their order."""
    kept = [c for c in range(len(classes)) if c not in gone]
    names = tuple(classes.names[c] for c in kept)
    kinds = tuple(classes.kinds[c] for c in kept)
    prompts = tuple(classes.prompts[c] for c in kept)
    ended = {classes.names[c] for c in gone}
    rejected = tuple(name for name in classes.rejected if name not in ended)
    synonyms = classes.synonyms and tuple(classes.synonyms[c] for c in kept)
    return Classes(names, kinds, prompts, rejected=rejected, synonyms=synonyms)


def is_placeholder(name: str) -> bool:
    """Whether a class still has its name from the discovery, or from a split."""
    return bool(re.fullmatch(r"discovered \d+[a-z]*", name))


def half_names(name: str, taken: Iterable[str]) -> tuple[str, str]:
    """Names of the halves of a class: "discovered 3a" and "discovered 3b", "shoe a" and "shoe b".

    Where one of these is taken, the next free "discovered N".
    """
    others = set(taken) - {name}
    space = "" if is_placeholder(name) else " "
    halves = (f"{name}{space}a", f"{name}{space}b")
    if not others & set(halves):
        return halves
    numbered = (f"discovered {i}" for i in count(1))
    free = (one for one in numbered if one not in others)
    return next(free), next(free)
