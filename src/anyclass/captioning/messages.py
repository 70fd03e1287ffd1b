"""What a question and its answer look like in the OpenAI protocol."""

from base64 import b64encode
from typing import Any

UNREADABLE = (ValueError, LookupError, TypeError, RecursionError)
"""What an answer of another shape than expected raises."""


def question(text: str, image: bytes, model: str, **generation: Any) -> dict[str, Any]:
    """The body of a question about a JPEG, which stands before the text as a data URI."""
    url = f"data:image/jpeg;base64,{b64encode(image).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": text},
    ]
    return {"model": model, "messages": [{"role": "user", "content": content}], **generation}


def answer(body: Any) -> str:
    """The text in the body of an answer; nothing where there is none.

    Raises:
        UNREADABLE: it has another shape.
    """
    text = body["choices"][0]["message"]["content"]
    if not isinstance(text, str | None):
        raise TypeError(f"its content is of type {type(text).__name__}")
    return text or ""
