"""Chat completions, OpenAI's protocol: what is sent for a request, and what is read of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt4image.llm.base import ChatAnswer, DescribeRequest, RequestFailedError

Body = dict[str, Any]


DETAIL_LENGTH = 200


def chat_body(model: str, request: DescribeRequest, answers: Sequence[str], *, old_limit: bool = True) -> Body:
    """Body of the call that asks the next question of a request.

    Args:
        model: the model.
        request: what is asked.
        answers: answers to the questions before.
        old_limit: limit the answer by `max_tokens`, which all servers knew once, in place of the newer
            `max_completion_tokens`.
    """
    image = {"type": "image_url", "image_url": {"url": request.picture.data_url}}
    first = {"role": "user", "content": [image, {"type": "text", "text": request.turns[0]}]}
    messages: list[Body] = [{"role": "system", "content": request.system}] if request.system else []
    messages.append(first)
    for answer, question in zip(answers, request.turns[1:], strict=False):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    sampling = request.sampling.to_dict()
    limit = sampling.pop("max_tokens")
    return {
        "model": model,
        "messages": messages,
        ("max_tokens" if old_limit else "max_completion_tokens"): limit,
        **sampling,
    }


def read_answer(body: Any) -> ChatAnswer:  # noqa: ANN401 - whatever a server sends
    """Take the answer out of a server's JSON.

    Raises:
        RequestFailedError: there is none: refused, filtered, empty, or not of the protocol's form. It says what
            tokens were used all the same.
    """
    choice = first_choice(body)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise unreadable(body)
    answer = ChatAnswer(
        text=spoken(message.get("content")),
        finish_reason=text_or_none(choice.get("finish_reason")),
        tokens_in=count_of(body, "prompt_tokens"),
        tokens_out=count_of(body, "completion_tokens"),
        model=text_or_none(body.get("model")) or "",
    )
    refusal = text_or_none(message.get("refusal"))
    if refusal and not answer.text.strip():
        raise RequestFailedError("refused by the model", refusal, retryable=False).after([answer])
    if answer.finish_reason == "content_filter":
        raise RequestFailedError("stopped by the content filter", answer.text, retryable=False).after([answer])
    if not answer.text.strip():
        detail = f"finish reason {answer.finish_reason}"
        raise RequestFailedError("empty answer", detail, retryable=True).after([answer])
    return answer


def first_choice(body: Any) -> Mapping[str, Any]:  # noqa: ANN401 - whatever a server sends
    """The answer's first choice."""
    choices = body.get("choices") if isinstance(body, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise unreadable(body)
    return choices[0]


def unreadable(body: Any) -> RequestFailedError:  # noqa: ANN401 - whatever a server sends
    """What is raised for an answer that is not of the protocol's form."""
    usage = body if isinstance(body, Mapping) else {}
    paid = ChatAnswer("", None, count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens"), "")
    return RequestFailedError("unreadable answer", str(body)[:DETAIL_LENGTH], retryable=True, server_fault=True).after(
        [paid]
    )


def spoken(content: Any) -> str:  # noqa: ANN401 - whatever a server sends
    """The text of a message's content, which is a text or a list of parts."""
    if isinstance(content, list):
        return "".join(spoken(part.get("text")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def text_or_none(value: Any) -> str | None:  # noqa: ANN401 - whatever a server sends
    """The value if it is a text."""
    return value if isinstance(value, str) else None


def count_of(body: Mapping[str, Any], name: str) -> int | None:
    """A count of tokens in an answer's account, None where it is missing or cannot be meant."""
    usage = body.get("usage")
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
