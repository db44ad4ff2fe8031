"""Answers in the forms that real servers send."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gpt4image.llm.base import ChatAnswer, RequestFailedError, Token, fails_again
from gpt4image.llm.chat import read_answer
from gpt4image.llm.thinking import find_thinking


def body(content: str | None = "A cat.", reason: str = "stop", usage: Any = None, **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": reason}], "usage": usage}


@pytest.mark.parametrize(
    "content",
    [
        "<think>\nA <b>cat</b>?\n</think>\n\nA cat.",
        "A cat? Yes.\n</think>\n\nA cat.",
        "<think></think>A cat.",
        "<thinking>A cat?</thinking>\nA cat.",
        "<|channel>thought\nA cat?<channel|>A cat.",
        "<unused94>thought\nA cat?<unused95>A cat.",
        "<|begin_of_thought|>A cat?<|end_of_thought|>A cat.",
        "<reason>A cat?</reason>A cat.",
        "<scratchpad>A cat?</scratchpad>A cat.",
        "<THOUGHT>A cat?</THOUGHT> A cat.",
        "[THINK]A cat?[/THINK]A cat.",
        "◁think▷A cat?◁/think▷A cat.",
        "<|channel|>analysis<|message|>A cat?<|end|><|start|>assistant<|channel|>final<|message|>A cat.",
        "<seed:think>A cat?</seed:think>A cat.",
        "<mm:think>A cat?</mm:think>A cat.",
        "<inner_thoughts>A cat?</inner_thoughts>A cat.",
        "<analysis>A cat?</analysis>\nA cat.",
        "<think>\nA cat?\n</think>\n<answer>\nA cat.</answer>",
        "<think>A cat?</think><|begin_of_box|>A cat.<|end_of_box|>",
        "<think time=3>A cat?</think>A cat.",
        "<ant_thinking>A cat?</ant_thinking>A cat.",
        "<|think|>A cat?<|/think|>A cat.</s>",
        "<thoughts>A cat?</thoughts>A cat.<|im_end|>",
        "<|begin_of_thought|>A cat?<|end_of_thought|><|begin_of_solution|>A cat.<|end_of_solution|>",
        "<|channel|>analysis<|message|>A cat?<|end|><|start|>assistant<|channel|>final<|message|>A cat.<|return|>",
        "analysisA cat? Yes.assistantfinalA cat.",
        "[Thinking]A cat?[/Thinking]A cat.",
        "&lt;think&gt;A cat?&lt;/think&gt;A cat.",
        "<seed:think>A cat?<seed:cot_budget_reflect>Enough.</seed:cot_budget_reflect></seed:think>A cat.",
        '<details type="reasoning" done="true"><summary>Thought for 3 seconds</summary>A cat?</details>\nA cat.',
        "<|START_THINKING|>A cat?<|END_THINKING|><|START_RESPONSE|>A cat.<|END_RESPONSE|>",
    ],
)
def test_thinking_before_the_answer_is_stripped(content):
    assert find_thinking(content)
    assert read_answer(body(content)).text == "A cat."
    assert ChatAnswer(content, "stop", 1, 1).text == "A cat."  # as conversations repeat older answers


@pytest.mark.parametrize(
    "end", ["</s>", "<|im_end|>", "<|eot_id|>\n", "<end_of_turn>\n<eos>", " <|endoftext|>", "<|END_OF_TURN_TOKEN|>"]
)
def test_marks_of_the_end_of_a_turn_are_no_part_of_the_text(end):
    assert read_answer(body(f"A cat.{end}")).text == "A cat."
    assert read_answer(body(f"A sign with {end.strip()} on it.")).text == f"A sign with {end.strip()} on it."


def test_thinking_in_a_part_of_its_own_is_left_out():
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "A cat?"}]}
    assert read_answer(body([thinking, {"type": "text", "text": "A cat."}])).text == "A cat."


@pytest.mark.parametrize(
    "reason",
    [
        "content_filter",
        "content_filter: PROHIBITED_CONTENT",
        "SAFETY",
        "FinishReason.SAFETY",
        "IMAGE_SAFETY",
        "guardrail_intervened",
        "RECITATION",
        "refusal",
    ],
)
def test_answer_that_a_filter_cut_is_a_failure_whatever_the_filter_is_called(reason):
    with pytest.raises(RequestFailedError) as caught:
        read_answer(body("A ca", reason))
    assert (caught.value.reason, caught.value.retryable) == ("stopped by the content filter", False)


@pytest.mark.parametrize("content", [{"type": "text", "text": "A cat."}, [{"text": "A "}, {"text": "cat."}]])
def test_text_of_parts_is_joined(content):
    assert read_answer(body(content)).text == "A cat."


def test_answer_in_the_form_of_plain_completions_is_read():
    assert read_answer({"choices": [{"text": "A cat.", "finish_reason": "stop"}]}).text == "A cat."


def test_markers_inside_an_answer_stay_for_the_check_to_find():
    text = "A cat on a sofa. <think>Is it a dog?</think> It sleeps."
    assert read_answer(body(text)).text == text and find_thinking(text) == "<think>"
    assert find_thinking("A sign says: I think, therefore I am.") is None


@pytest.mark.parametrize(
    "answer",
    [
        body("<think>A cat?", "length"),
        body(None, "length", reasoning="A cat?"),
        body("", "length", reasoning_content="A cat?"),
        body("", "MAX_TOKENS", {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 305}),
        body("", "length", {"completion_tokens": 300, "completion_tokens_details": {"reasoning_tokens": 300}}),
    ],
)
def test_answer_cut_off_while_thinking_is_not_retried_and_names_the_fix(answer):
    with pytest.raises(RequestFailedError, match=r"--max-tokens.*--extra-body") as caught:
        read_answer(answer)
    assert (caught.value.reason, caught.value.retryable) == ("cut off while thinking", False)


@pytest.mark.parametrize(
    "answer",
    [
        body("<think>A cat?"),
        body("<think>A cat?</think>"),
        body("", reasoning_content="A cat?"),
        body(None, reasoning="A cat?"),
        body("", reasoning_details=[{"type": "reasoning.encrypted", "data": "x"}]),
        body([{"type": "thinking", "thinking": [{"type": "text", "text": "A cat?"}]}]),
        body("", "end_turn", {"completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 30}}),
    ],
)
def test_thoughts_without_an_answer_are_paid_for_once_and_name_the_fix(answer):
    with pytest.raises(RequestFailedError, match="--extra-body") as caught:
        read_answer(answer)
    assert (caught.value.reason, caught.value.retryable) == ("thought without answering", False)


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (body(None, "tool_calls", tool_calls=[{"id": "1", "function": {"name": "look"}}]), "tool_calls"),
        (body("", "stop", function_call={"name": "look", "arguments": "{}"}), "function_call"),
        (body([{"type": "tool_use", "name": "look"}], "tool_use"), "tool_use"),
        (body("", "stop", images=[{"type": "image_url", "image_url": {"url": "data:"}}]), "images"),
        (body(None, "stop", audio={"id": "a", "data": "x"}), "audio"),
    ],
)
def test_answer_of_something_else_than_text_is_paid_for_once_and_names_the_fix(message, found):
    with pytest.raises(RequestFailedError, match="--extra-body") as caught:
        read_answer(message | {"usage": {"prompt_tokens": 9, "completion_tokens": 2}})
    error = caught.value
    assert (error.reason, error.retryable, error.tokens_out) == ("answer without a text", False, 2)
    assert found in error.detail and fails_again(error.reason)


def test_reason_without_a_message_counts():
    with pytest.raises(RequestFailedError, match="content filter"):
        read_answer({"choices": [{"message": None, "finish_reason": "content_filter"}]})
    assert read_answer({"choices": [{"message": "A cat.", "finish_reason": "stop"}]}).text == "A cat."


@pytest.mark.parametrize("usage", [None, {"completion_tokens_details": {"reasoning_tokens": 0}}, {"x": 1}])
def test_empty_answer_without_thoughts_is_retried(usage):
    with pytest.raises(RequestFailedError) as caught:
        read_answer(body("", "stop", usage, reasoning_content="", reasoning=None))
    assert (caught.value.reason, caught.value.retryable) == ("empty answer", True)


@pytest.mark.parametrize("reason", ["error", "abort", "network error", "insufficient-system-resource"])
def test_answer_that_the_server_broke_off_is_a_failure_with_its_tokens(reason):
    answer = body("A ca", reason, {"prompt_tokens": 5, "completion_tokens": 2})
    answer["choices"][0]["error"] = {"code": 502, "message": "upstream died"}
    with pytest.raises(RequestFailedError, match="upstream died") as caught:
        read_answer(answer)
    assert (caught.value.retryable, caught.value.tokens_in, caught.value.tokens_out) == (True, 5, 2)


@pytest.mark.parametrize(
    "count",
    [10**20, 999_999_999, -1, 3.5, 1e300, "many", "-4", "9" * 30, math.nan, math.inf, True, None, [7], 0],
)
def test_implausible_token_count_counts_as_not_reported(count):
    usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}
    answer = read_answer(body(usage=usage))
    assert (answer.tokens_in, answer.tokens_out) == (None, None)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, (10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}, (10, 105)),
        ({"prompt_tokens": 10, "total_tokens": 115}, (10, 105)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 3}, (10, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 10**20}, (10, 5)),
        ({"completion_tokens": 5, "total_tokens": 115}, (None, 5)),
        ({"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 100}}, (None, 105)),
        ({"prompt_tokens": 10.0, "completion_tokens": "5", "total_tokens": "115.0"}, (10, 105)),
        ({"input_tokens": 10, "output_tokens": 5}, (10, 5)),
        ({"input_tokens": 10, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 7}}, (10, 12)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 999_999_999}, (10, 5)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 15,
                "completion_tokens_details": {"reasoning_tokens": 100},
            },
            (10, 105),
        ),
        ({"completion_tokens": 105, "completion_tokens_details": {"reasoning_tokens": 100}}, (None, 105)),
    ],
)
def test_tokens_that_only_the_total_shows_are_counted_as_written(usage, counts):
    answer = read_answer(body(usage=usage))
    assert (answer.tokens_in, answer.tokens_out) == counts


def test_tokens_of_thinking_are_left_out():
    pieces = ("<think>", "cat? ", "no", "</think>", "\n", "do", "g")
    answer = ChatAnswer("".join(pieces), "stop", 1, 1, tokens=tuple(Token(piece, -0.1) for piece in pieces))
    assert answer.text.strip() == "dog"
    assert [token.text for token in answer.tokens] == ["do", "g"]
    assert ChatAnswer("dog", "stop", 1, 1, tokens=(Token("cat", -0.1),)).tokens == ()
