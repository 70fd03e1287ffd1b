"""Class names, how much is known of each class, and the prompts that describe them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

from anyclass.errors import ModelError, RequestError

Kind = Literal["labelled", "named", "unknown"]
"""Some images carry the label | only a name is known | discovered, not even a name is known."""


@dataclass(frozen=True)
class Classes:
    """Ordered class names, followed by `unknown` further classes without a name."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    names: tuple[str, ...]
    """Unique, Unicode NFC, stripped, in the user's order; index c is class c everywhere."""

    kinds: tuple[Kind, ...]
    """What is known of each name."""

    prompts: tuple[str, ...]
    """Text for each class in a template such as `a photo of a {}.`."""

    unknown: int = 0
    """Number of further classes to discover."""

    rejected: tuple[str, ...] = ()
    """Discovered classes that a person rejected: an image of one gets no label."""
    synonyms: tuple[tuple[str, ...], ...] = ()
    """Further prompts of each class; empty: no class has any. See `all_prompts`."""

    def __post_init__(self) -> None:
        """Reject duplicates, empty names, control characters and fields of unequal length."""
        alike = len(self.names) == len(self.kinds) == len(self.prompts)
        alike = alike and len(self.synonyms) in (0, len(self.names))
        if not alike or self.unknown < 0:
            raise RequestError(
                "names, kinds and prompts must have the same length, and `unknown` must not be "
                "negative."
            )
        repeated = [name for name, count in Counter(self.names).items() if count > 1]
        if repeated:
            raise RequestError(
                f"class names must be unique; given more than once: {listed(repeated)}."
            )
        bad = [name for name in self.names if not name or _unprintable(name)]
        if bad:
            raise RequestError(
                "class names must not be empty or contain control characters; "
                f"these are or do: {listed(bad)}."
            )
        kept = [name for name in self.rejected if name not in self.discovered_names]
        if kept:
            raise RequestError(f"only discovered classes can be rejected, not {listed(kept)}.")

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        prompts: Iterable[str | Sequence[str]] | None = None,
        labelled: Collection[str] = (),
        unknown: int = 0,
    ) -> "Classes":
        """Normalise `names`; those in `labelled` become labelled, the others named.

        Args:
            names: one per class, any Unicode; commas and several words are allowed.
            prompts: one per class, or several; by default, or where there are none, the name in
                words (`readable`).
            labelled: names of the classes with labelled images.
            unknown: number of further classes to discover.
        """
        names = tuple(normal(name) for name in names)
        given = [()] * len(names) if prompts is None else [_phrases(some) for some in prompts]
        filled = [some or (readable(name),) for some, name in zip(given, names, strict=False)]
        more = tuple(some[1:] for some in filled)
        with_labels = {normal(name) for name in labelled}
        kinds = tuple[Kind, ...]("labelled" if name in with_labels else "named" for name in names)
        first = tuple(some[0] for some in filled)
        return cls(names, kinds, first, unknown, synonyms=more if any(more) else ())

    @classmethod
    def read(cls, source: Path | str | Sequence[str] | Mapping[str, Any]) -> "Classes":
        """Names of a file, a list, or a mapping from names to prompts; each counts once.

        Raises:
            RequestError: a file is missing, damaged or holds no name.
        """
        from anyclass.data.class_files import class_names

        found = class_names(source)
        return cls.of(found.names, found.prompts)

    @classmethod
    def from_json(cls, value: Any) -> "Classes":
        """Restore the classes from `to_json`.

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
        """All fields as JSON values; rejected classes and synonyms only if there are some."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        if not self.rejected:
            del values["rejected"]
        if not self.synonyms:
            del values["synonyms"]
        return values

    def discovered(self, labelled: Collection[int]) -> "Classes":
        """The `total` classes after category discovery.

        Only the classes in `labelled` keep their names. It is not known which of the others a name
        belongs to, so those are called "discovered 1" and so on, and their kind is unknown.
        """
        taken = {self.names[c] for c in labelled}
        numbered = (f"discovered {i}" for i in count(1))
        free = (name for name in numbered if name not in taken)
        names: list[str] = []
        prompts: list[str] = []
        kinds: list[Kind] = []
        more: list[tuple[str, ...]] = []
        for c in range(self.total):
            known = c in labelled
            name = self.names[c] if known else next(free)
            names.append(name)
            prompts.append(self.prompts[c] if known else name)
            kinds.append("labelled" if known else "unknown")
            more.append(self.synonyms[c] if known and self.synonyms else ())
        synonyms = tuple(more) if any(more) else ()
        return Classes(tuple(names), tuple(kinds), tuple(prompts), synonyms=synonyms)

    def with_discovered(self) -> "Classes":
        """The `total` classes where those with a name keep it.

        The others follow as "discovered 1" and so on; their kind is unknown.
        """
        numbered = (f"discovered {i}" for i in count(1))
        free = (name for name in numbered if name not in self.names)
        new = tuple(next(free) for _ in range(self.unknown))
        nothing: Kind = "unknown"
        kinds = (*self.kinds, *([nothing] * self.unknown))
        synonyms = self.synonyms and (*self.synonyms, *([()] * self.unknown))
        return Classes((*self.names, *new), kinds, (*self.prompts, *new), synonyms=synonyms)

    @cached_property
    def all_prompts(self) -> tuple[tuple[str, ...], ...]:
        """All prompts of each class; its text feature is the normalised mean over them."""
        more = self.synonyms or [()] * len(self.prompts)
        return tuple((first, *others) for first, others in zip(self.prompts, more, strict=True))

    @property
    def total(self) -> int:
        """K, the number of classes, including those without a name."""
        return len(self.names) + self.unknown

    def __len__(self) -> int:
        """Number of classes with a name."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Index of the class called `name`.

        Raises:
            RequestError: there is no such class.
        """
        try:
            return self._index_of[normal(name)]
        except KeyError as error:
            raise RequestError(
                f"there is no class {name!r}; the classes are {listed(self.names)}."
            ) from error

    @cached_property
    def _index_of(self) -> dict[str, int]:
        """Name -> index."""
        return {name: c for c, name in enumerate(self.names)}

    def kind(self, index: int) -> Kind:
        """Kind of class `index`; indices beyond the names are unknown classes."""
        return self.kinds[index] if index < len(self.names) else "unknown"

    @property
    def labelled(self) -> list[int]:
        """Indices of the classes with labelled images."""
        return [c for c, kind in enumerate(self.kinds) if kind == "labelled"]

    @property
    def named(self) -> list[int]:
        """Indices of the classes with a name and without labelled images."""
        return [c for c, kind in enumerate(self.kinds) if kind == "named"]

    @property
    def discovered_names(self) -> list[str]:
        """Names of the discovered classes, also of those that got a better name."""
        return [name for c, name in enumerate(self.names) if self.kinds[c] == "unknown"]

    def label(self, index: int) -> str | None:
        """Label of an image of class `index`: its name; None if the class is rejected."""
        name = self.names[index]
        return None if name in self.rejected else name

    @property
    def second_half(self) -> list[str]:
        """Names of the new classes in base-to-new: all but the first ceil(C / 2) (CoOp's code)."""
        return list(self.names[(len(self.names) + 1) // 2 :])


_WORD_STARTS = re.compile(
    "(?<=[a-zà-öø-ÿ]{2})(?=[A-ZÀ-ÖØ-Þ][a-zà-öø-ÿ])|(?<=[A-ZÀ-ÖØ-Þ]{2})(?=[A-ZÀ-ÖØ-Þ][a-zà-öø-ÿ]{2})"
)


def readable(name: str) -> str:
    """A name in words, for a prompt: `red_panda` and `RedPanda` become `red panda`, `Red Panda`.

    Names such as iPhone, McDonald and T-shirt stay as they are.
    """
    return _WORD_STARTS.sub(" ", name.replace("_", " "))


def normal(name: str) -> str:
    """Normalise a name for comparison: Unicode NFC, stripped."""
    return unicodedata.normalize("NFC", name).strip()


def has_invisible(name: str) -> bool:
    """Whether a name has invisible characters other than joiners, as in Persian."""
    return not re.sub("[\u200c\u200d]", "", name).isprintable()


def listed(items: Iterable[str], most: int = 5) -> str:
    """The first `most` items, quoted for a message, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(repr(item) for item in items[:most]) + more


def plural(count: int, noun: str) -> str:
    """A number and a noun: 1 image, 2,000 images, 2 classes."""
    if count == 1:
        return f"1 {noun}"
    ending = "es" if noun.endswith(("s", "x")) else "ies" if noun.endswith("y") else "s"
    stem = noun[:-1] if ending == "ies" else noun
    return f"{count:,} {stem}{ending}"


def _phrases(prompts: str | Sequence[str]) -> tuple[str, ...]:
    """Prompts of one class, normalised."""
    many = (prompts,) if isinstance(prompts, str) else prompts
    return tuple(normal(prompt) for prompt in many)


def _unprintable(name: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
