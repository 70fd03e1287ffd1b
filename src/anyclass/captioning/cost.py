"""What answers will cost, roughly, before any is asked for."""

from math import ceil
from typing import NamedTuple

TOKEN = 28
"""Side of the part of an image that is a token: 14 x 14 patches, merged by fours (Qwen2-VL)."""
QUESTION = 30
"""Tokens of a question."""
BYTES = 1 / 3
"""Of a pixel, as JPEG in base64."""


class CostEstimate(NamedTuple):
    """What a number of answers will cost, roughly."""

    tokens_in: int = 0
    """Of images and questions."""
    tokens_out: int = 0
    """Of the answers, at their longest."""
    minutes: float | None = 0.0
    """Until the last answer is there; None where not known."""
    megabytes_sent: float = 0.0
    """Of images that leave this machine."""
    sent_to: str = ""
    """Where they go; nothing where they stay."""
    dollars: float | None = 0.0
    """None where the prices are not known."""
    calls: int = 0
    """Questions to a language model."""


def estimated(
    calls: int,
    size: int,
    max_tokens: int,
    seconds: float | None = None,
    prices: tuple[float, float] = (0.0, 0.0),
    sent_to: str = "",
) -> CostEstimate:
    """What `calls` answers cost.

    Args:
        calls: how many.
        size: side of an image in pixels; every image counts as a square.
        max_tokens: of an answer; it counts as long as it may be.
        seconds: until the next answer is there.
        prices: dollars for a million tokens in and out; 0 where not known.
        sent_to: where images go.
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
