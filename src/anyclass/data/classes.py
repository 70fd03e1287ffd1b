"""The classes to tell apart: names, how much is known of each, and the text that stands for it."""

import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

from anyclass.errors import ModelError, RequestError

Kind = Literal["labelled", "named", "unknown"]
"""Some images carry the label | there is a name only | not even a name, it was discovered."""


@dataclass(frozen=True)
class Classes:
    """Ordered class names. Beyond them lie `unknown` further classes that have no name at all."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    names: tuple[str, ...]
    """Unique, Unicode NFC, stripped, in the user's order; index c is class c everywhere."""

    kinds: tuple[Kind, ...]
    """What is known of each name."""

    prompts: tuple[str, ...]
    """The text that stands for each class in a template such as `a photo of a {}.`."""

    unknown: int = 0
    """How many further classes there are to discover."""

    def __post_init__(self) -> None:
        """Refuses duplicates, empty names and control characters, and parts that do not match."""
        if not len(self.names) == len(self.kinds) == len(self.prompts) or self.unknown < 0:
            raise RequestError(
                "names, kinds and prompts must be as many, and `unknown` not negative."
            )
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            raise RequestError(f"class names must differ; given more than once: {listed(twice)}.")
        if bad := [name for name in self.names if not name or _unprintable(name)]:
            raise RequestError(
                f"class names must be text; empty or with control characters: {listed(bad)}."
            )

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        prompts: Iterable[str] | None = None,
        labelled: Collection[str] = (),
        unknown: int = 0,
    ) -> "Classes":
        """Normalises `names`; those in `labelled` become labelled, the others named.

        Args:
            names: one per class, any Unicode, commas and many words allowed.
            prompts: one per class; by default the name with `_` as a space.
            labelled: the names that some image carries as its label.
            unknown: how many further classes there are to discover.
        """
        names = tuple(normal(name) for name in names)
        texts = names if prompts is None else tuple(normal(prompt) for prompt in prompts)
        seen = {normal(name) for name in labelled}
        return cls(
            names=names,
            kinds=tuple("labelled" if name in seen else "named" for name in names),
            prompts=texts if prompts is not None else tuple(t.replace("_", " ") for t in texts),
            unknown=unknown,
        )

    @classmethod
    def read(cls, path: Path) -> "Classes":
        """Reads one name a line, or from `*.json` a list of names or an object {prompt: name}.

        Raises:
            RequestError: the file is missing, damaged, empty, or lists a class twice.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
            value = json.loads(text) if path.suffix.lower() == ".json" else text.split("\n")
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{path} is not a list of class names: {error}.") from error
        names = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RequestError(f"{path} must hold a list of names or an object of prompt: name.")
        if not any(name.strip() for name in names):
            raise RequestError(f"{path} holds no class name. Write one name a line.")
        if isinstance(value, dict):
            return cls.of(names, prompts=value)
        return cls.of(name for name in names if name.strip())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Classes":
        """The classes that `to_json` described.

        Raises:
            ModelError: the value is damaged.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(
                f"the saved classes are damaged: {first['loc']}: {first['msg']}"
            ) from error
        except RequestError as error:
            raise ModelError(f"the saved classes are damaged: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Names, kinds, prompts and the number of unknown classes as JSON values."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    def discovered(self, labelled: Collection[int]) -> "Classes":
        """All classes, those beyond the names too, once they were told apart without their names.

        Only the `labelled` ones keep their name: which of the others a name belongs to is not known
        yet, so they are called "discovered 1" and so on, and their kind is unknown.
        """
        kept = {c: (self.names[c], self.prompts[c]) for c in labelled}
        taken = {name for name, _ in kept.values()}
        free = (name for i in count(1) if (name := f"discovered {i}") not in taken)
        rows = [kept.get(c) or (name := next(free), name) for c in range(self.total)]
        names, prompts = zip(*rows, strict=True)
        kinds = tuple[Kind, ...]("labelled" if c in kept else "unknown" for c in range(self.total))
        return Classes(names, kinds, prompts)

    @property
    def total(self) -> int:
        """K, how many classes there are, those without a name included."""
        return len(self.names) + self.unknown

    def __len__(self) -> int:
        """How many classes have a name."""
        return len(self.names)

    def index(self, name: str) -> int:
        """The number of the class called `name`.

        Raises:
            RequestError: there is none.
        """
        try:
            return self.names.index(normal(name))
        except ValueError as error:
            raise RequestError(
                f"there is no class {name!r}; there are {listed(self.names)}."
            ) from error

    def kind(self, index: int) -> Kind:
        """What is known of class `index`; indices beyond the names are unknown classes."""
        return self.kinds[index] if index < len(self.names) else "unknown"

    @property
    def labelled(self) -> list[int]:
        """Indices of the classes that some image carries as its label."""
        return [c for c, kind in enumerate(self.kinds) if kind == "labelled"]

    @property
    def named(self) -> list[int]:
        """Indices of the classes that have a name and not one labelled image."""
        return [c for c, kind in enumerate(self.kinds) if kind == "named"]

    @property
    def second_half(self) -> list[str]:
        """Names of the new classes of base-to-new: all but the first ceil(C / 2) (CoOp's code)."""
        return list(self.names[(len(self.names) + 1) // 2 :])


def near_duplicates(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in case, spaces, `_` and `-`."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        key = "".join(letter for letter in normal(name).casefold() if letter not in " _-")
        if first.setdefault(key, name) != name:
            pairs.append((first[key], name))
    return pairs


def normal(name: str) -> str:
    """Unicode NFC without white space at the ends: how names are compared."""
    return unicodedata.normalize("NFC", name).strip()


def listed(items: Iterable[str], most: int = 5) -> str:
    """The first `most` items for a message, quoted, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(repr(item) for item in items[:most]) + more


def _unprintable(name: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
