"""Rough estimate of the cost of a captioner's answers."""

from math import ceil
from typing import NamedTuple

TOKEN = 28
"""Side of the image region of a token: 14 x 14 patches, merged by fours (Qwen2-VL)."""
QUESTION = 30
"""Tokens per question."""
BYTES = 1 / 3
"""Bytes per pixel, as JPEG in base64."""


class CostEstimate(NamedTuple):
    """Rough cost of a number of answers."""

    tokens_in: int = 0
    """Input tokens: images and questions."""
    tokens_out: int = 0
    """Output tokens, if every answer has the longest allowed length."""
    minutes: float | None = 0.0
    """Time until the last answer; None if not known."""
    megabytes_sent: float = 0.0
    """Size of the images that leave this machine."""
    sent_to: str = ""
    """Destination of the images; empty if they stay on this machine."""
    dollars: float | None = 0.0
    """Price; None if not known."""
    calls: int = 0
    """Number of questions to a language model."""


def estimated(
    calls: int,
    size: int,
    max_tokens: int,
    seconds: float | None = None,
    prices: tuple[float, float] = (0.0, 0.0),
    sent_to: str = "",
) -> CostEstimate:
    """Estimate the cost of `calls` answers.

    Args:
        calls: number of questions.
        size: side of an image in pixels; every image counts as a square.
        max_tokens: longest answer in tokens; every answer counts as that long.
        seconds: average time between two answers.
        prices: dollars per million input and output tokens; 0 if not known.
        sent_to: destination of the images.
    """
    tokens_in = calls * (ceil(size / TOKEN) ** 2 + QUESTION)
    tokens_out = calls * max_tokens
    return CostEstimate(
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        minutes=None if seconds is None else calls * seconds / 60,
        megabytes_sent=calls * size**2 * BYTES / 1e6 if sent_to else 0.0,
        sent_to=sent_to,
        dollars=(tokens_in * prices[0] + tokens_out * prices[1]) / 1e6 if any(prices) else None,
        calls=calls,
    )
