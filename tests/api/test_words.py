"""Messages of Python name arguments."""

import pytest

from anyclass.api.words import in_python, names_arguments
from anyclass.errors import ImageError, RequestError


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("give images (--images DIR)", "give images (images=...)"),
        ("(--labels folders), or (--unknown N)", '(labels="folders"), or (unknown=...)'),
        ("more than --max-rejected allows (10%)", "more than max_rejected allows (10%)"),
        ("choose another --out, or add --overwrite", "choose another out, or add overwrite=True"),
        ("--seed: input should be (got -1)", "seed: input should be (got -1)"),
        ("cannot be used with --unknown 3: use", "cannot be used with unknown=3: use"),
        ("name the run (--from RUN)", "name the run (from_run=...)"),
        ("use --no-prompt-ensemble", "use prompt_ensemble=False"),
        ("the names: --classes daisy,rose,tulip", 'the names: classes=["daisy", "rose", "tulip"]'),
        ("--device tpu cannot be used", "device tpu cannot be used"),
        (
            "run `anyclass evaluate --run RUN`, or --seed 1",
            "run `anyclass evaluate --run RUN`, or seed=1",
        ),
        ("a -- b, x--y and c--", "a -- b, x--y and c--"),
    ],
)
def test_in_python(flags: str, arguments: str) -> None:
    assert in_python(flags) == arguments


def test_names_arguments__keeps_the_kind_of_error() -> None:
    @names_arguments
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(RequestError, match=r"^give labels=\.\.\.$"):
        fail(RequestError("give --labels FILE"))
    with pytest.raises(ImageError, match="missing: --labels FILE"):
        fail(ImageError("missing", "--labels FILE"))
    with pytest.raises(ValueError, match="--labels"):
        fail(ValueError("--labels"))
