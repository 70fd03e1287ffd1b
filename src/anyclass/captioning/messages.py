"""Questions and answers in the format of the OpenAI protocol."""

from base64 import b64encode
from typing import Any

UNREADABLE = (ValueError, LookupError, TypeError, RecursionError)
"""Exceptions for an answer of an unexpected structure."""


def question(text: str, image: bytes, model: str, **generation: Any) -> dict[str, Any]:
    """Body of a question about a JPEG, which precedes the text as a data URI."""
    url = f"data:image/jpeg;base64,{b64encode(image).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": text},
    ]
    return {"model": model, "messages": [{"role": "user", "content": content}], **generation}


def answer_text(body: Any) -> str:
    """Extract the text from the body of an answer; empty if there is none.

    Raises:
        UNREADABLE: it has an unexpected structure.
    """
    text = body["choices"][0]["message"]["content"]
    if not isinstance(text, str | None):
        raise TypeError(f"its content is of type {type(text).__name__}")
    return text or ""
