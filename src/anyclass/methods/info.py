"""`MethodInfo`: what planning, command line, report and documentation ask of a method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from anyclass.backbone import Part


class Situation(Enum):
    """What is known of the classes: a heading, and the words for it."""

    ANY = ("Whatever is known", "Any mix of labels, names and unknown classes")
    NAMES = ("Names only", "Names of all classes, no labels")
    NAMES_AND_LABELS = ("Labels and names", "Labels for some images, names of all classes")
    UNKNOWN = ("Unknown classes", "Labels for some classes, the others unknown (--unknown N)")
    NOTHING = ("Nothing known", "Neither labels nor names (--unknown N)")

    @property
    def heading(self) -> str:
        """Heading of a list of methods."""
        return self.value[0]

    @property
    def words(self) -> str:
        """What is known of which classes."""
        return self.value[1]


@dataclass(frozen=True)
class MethodInfo:
    """Facts of a method that do not depend on its settings."""

    title: str
    """Name in texts, as the paper writes it."""
    situations: tuple[Situation, ...]
    """What the method is for; the first one is where lists show it."""
    discovers: bool = False
    """Whether the method can discover unnamed classes."""
    uses_labels: bool = True
    """Whether labels of images change the result."""
    takes_features: bool = False
    """Whether a fit takes precomputed features in the place of images."""
    divisible: tuple[Part, ...] = ()
    """Values of --tune with which several processes can share the training."""
    shares: Mapping[str, str] = field(default_factory=dict)
    """Metric of a fit that is a share of 1 -> what it is, for the report."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Other metric of a fit -> what it is."""
    baselines: Mapping[str, str] = field(default_factory=dict)
    """Baseline that the method fits beside its result -> title."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Hyper-parameter whose name says too little -> what it is."""
