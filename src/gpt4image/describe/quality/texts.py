"""What is checked: a text with all that is known of it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CheckedText:
    """One description.

    Attributes:
        image_id: the image, 32 hex digits.
        text: the description.
        path: the image as the source names it.
        label: its class, -1 where it has none or several.
        key: key in the description store, None where it is not from there.
        prompt: the prompt strategy it answers, None where it is not known.
        model: the model that wrote it, None where it is not known.
        finish_reason: why the answer ended, as the server said, None where it is not known.
        told: whether the prompt said the class, None where that is not known.
    """

    image_id: str
    text: str
    path: str = ""
    label: int = -1
    key: str | None = None
    prompt: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    told: bool | None = None

    def with_text(self, text: str) -> CheckedText:
        """The same with another text."""
        return replace(self, text=text)
