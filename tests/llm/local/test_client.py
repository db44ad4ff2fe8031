"""A model in this process, on a tiny real one: batching, conversations, cancellation, memory, token counts."""

from __future__ import annotations

import asyncio
import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from openai import AsyncOpenAI
from transformers import (
    AutoProcessor,
    LlavaForConditionalGeneration,
)

from gpt4image.core.errors import DescribeError
from gpt4image.llm.base import ChatAnswer, DescribeRequest, Reply, RequestFailedError
from gpt4image.llm.local.client import DEFAULT_LOCAL_MODEL, LocalDescriber
from gpt4image.llm.local.model import VisionModel
from gpt4image.llm.picture import Picture
from support.local_requests import ENDLESS, IMAGE_TOKENS, QUESTIONS, answers, ask, encoded, picture, sizes, variant
from support.tiny_vlm import TEMPLATE, build_tiny_vlm


@pytest.mark.slow
def test_batch_gives_the_same_answers_and_token_counts_as_single_requests(describer, reference, batches):
    replies = answers(describer, *map(ask, range(6)))
    assert sizes(batches) == [4, 2]
    for number, reply in enumerate(replies):
        text, read, written = reference(f"<s>user: <image>{QUESTIONS[number]}</s>assistant:", picture(number))
        assert reply.texts == (text,)
        assert (reply.tokens_in, reply.tokens_out) == (read, written)
        assert reply.finish_reason == ("length" if written == 24 else "stop")
        assert reply.model == describer.model
    assert len({reply.texts for reply in replies}) == 6
    assert len({reply.tokens_in for reply in replies}) > 3


@pytest.mark.slow
def test_answers_end_at_the_end_token_or_the_limit(describer, reference):
    short, long = (answers(describer, *(ask(n, max_tokens=limit) for n in range(12))) for limit in (3, 120))
    assert {(reply.finish_reason, reply.tokens_out) for reply in short} == {("length", 3)}
    assert {reply.finish_reason for reply in long} == {"length", "stop"}
    for number, reply in enumerate(long):
        prompt = f"<s>user: <image>{QUESTIONS[number % 6]}</s>assistant:"
        text, _, written = reference(prompt, picture(number), max_new_tokens=120)
        assert (reply.texts, reply.tokens_out) == ((text,), written)
        assert reply.finish_reason == "stop" or written == 120


def test_conversation_contains_earlier_answers(describer, reference):
    turns = ("What is it?", "Which colours?", "Is it a drawing?")
    talks = [ask(1, *turns, system="Answer in plain words."), ask(2, turns[0]), ask(3, *turns[:2])]
    long, single, double = answers(describer, *talks)
    prompt, texts, counts = "<s>system: Answer in plain words.</s>user: <image>What is it?</s>assistant:", [], []
    for following in (*turns[1:], None):
        text, *numbers = reference(prompt, picture(1))
        texts.append(text)
        counts.append(numbers)
        prompt += f" {text}</s>user: {following}</s>assistant:"
    assert long.texts == tuple(texts)
    assert [long.tokens_in, long.tokens_out] == np.sum(counts, axis=0).tolist()
    assert [len(single.texts), len(double.texts)] == [1, 2]


REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
LEAVES_SYSTEM_OUT = TEMPLATE.replace("in messages", "in messages if message['role'] != 'system'")


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, LEAVES_SYSTEM_OUT])
def test_system_message_precedes_the_question_if_the_template_has_no_system_turn(template, local, tmp_path, batches):
    describer = local(build_tiny_vlm(tmp_path / "model", template=template))
    assert isinstance(answers(describer, ask(0, "What is it?", system="Use plain words."))[0], Reply)
    tokenizer = AutoProcessor.from_pretrained(describer.place).tokenizer
    seen = tokenizer.decode(batches[0]["input_ids"][0])
    assert seen == f"<s>user: {'<image>' * IMAGE_TOKENS}Use plain words.\n\nWhat is it?</s>assistant:"


@pytest.mark.slow
def test_requests_with_different_sampling_get_separate_batches(describer, batches):
    requests = [ask(n, max_tokens=5 + 15 * (n % 2)) for n in range(4)] + [ask(4, temperature=1.0, max_tokens=9)]
    replies = answers(describer, *requests)
    assert sorted(sizes(batches)) == [1, 2, 2]
    for request, reply in zip(requests, replies, strict=True):
        assert reply.tokens_out <= request.sampling.max_tokens
        assert reply.finish_reason == "stop" or reply.tokens_out == request.sampling.max_tokens
    assert replies[:4] == [answers(describer, request)[0] for request in requests[:4]]


def test_broken_picture_fails_alone(describer):
    good = [ask(n) for n in range(3)]
    whole = good[0].picture
    cut = Picture(whole.data[: len(whole.data) // 2], whole.media_type, whole.width, whole.height)
    broken = DescribeRequest("b" * 32, "b" * 32, "cut.png", (cut,), None, ("What?",), good[0].sampling, "plain")
    *replies, failure = answers(describer, *good, broken)
    assert replies == answers(describer, *good)
    assert isinstance(failure, RequestFailedError)
    assert (failure.reason, failure.retryable) == ("picture cannot be decoded", False)
    assert "cut.png" in failure.detail


def test_request_that_the_model_rejects_fails_alone(describer, batches):
    """The prompt mentions a second picture that is missing: the whole batch fails, then this request alone."""
    asked = [ask(3, "Where is the second <image> of it?"), *map(ask, range(3))]
    failure, *replies = answers(describer, *asked)
    assert isinstance(failure, RequestFailedError)
    assert (failure.reason, failure.retryable) == ("the model failed", False)
    assert "image" in failure.detail
    assert replies == answers(describer, *map(ask, range(3)))


def test_cancelled_request_does_not_affect_its_batch(describer, batches):
    async def cancel_one():
        tasks = [asyncio.create_task(describer.describe(ask(n))) for n in range(4)]
        while not batches:
            await asyncio.sleep(0.001)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, cancelled, *others = asyncio.run(cancel_one())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [first, *others] == answers(describer, ask(0), ask(2), ask(3))
    assert sizes(batches)[0] == 4


def test_abandoned_answers_end_early(tiny_vlm, local, tmp_path, batches):
    endless = variant(tiny_vlm, tmp_path / "endless", eos_token_id=10_000)
    describer = local(endless, batch_size=2)

    async def give_up():
        asked = [ask(n, "What?", "And?", max_tokens=ENDLESS) for n in range(3)]
        tasks = [asyncio.create_task(describer.describe(request)) for request in asked]
        while not batches:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        return await describer.describe(ask(4, max_tokens=7))

    reply = asyncio.run(give_up())
    assert (reply.tokens_out, reply.finish_reason) == (7, "length")
    assert sizes(batches) == [2, 1]
    assert batches[0]["tokens"].shape[1] < ENDLESS


@pytest.mark.slow
def test_close_ends_the_thread_and_a_new_request_restarts_it(tiny_vlm, local, tmp_path, batches):
    describer = local(variant(tiny_vlm, tmp_path / "endless", eos_token_id=10_000))

    async def close_meanwhile():
        task = asyncio.create_task(describer.describe(ask(1, max_tokens=ENDLESS)))
        while not batches:
            await asyncio.sleep(0.001)
        await describer.close()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = set(threading.enumerate())
    asyncio.run(close_meanwhile())
    assert not [thread for thread in threading.enumerate() if thread not in before and thread.name == "local-describer"]
    assert batches[0]["model"]() is None
    assert batches[0]["tokens"].shape[1] < ENDLESS
    assert isinstance(answers(describer, ask(1))[0], Reply)


@pytest.mark.slow
def test_dropped_describer_frees_its_model(tiny_vlm, batches):
    assert isinstance(answers(LocalDescriber(str(tiny_vlm), device="cpu"), ask(0))[0], Reply)
    gc.collect()
    assert batches[0]["model"]() is None


@pytest.mark.slow
def test_seeded_answer_does_not_depend_on_its_batch(describer):
    def drawn(number: int, seed: int | None, *turns: str) -> DescribeRequest:
        return ask(number, *turns, temperature=0.9, top_p=0.95, seed=seed)

    together = answers(describer, *(drawn(n, 5) for n in range(4)), drawn(4, 6, "What?", "And?"))
    alone = [answers(describer, drawn(n, 5))[0] for n in range(4)]
    assert together[:4] == alone
    assert together[4] == answers(describer, drawn(4, 6, "What?", "And?"))[0]
    assert answers(describer, drawn(0, 6))[0].texts != alone[0].texts
    assert alone[0].texts != answers(describer, ask(0))[0].texts
    assert len({answers(describer, drawn(0, None))[0].texts for _ in range(3)}) == 3


def test_same_seed_gives_different_requests_different_answers(describer):
    same = [ask(0, temperature=2.0, seed=1), ask(0, temperature=2.0, seed=1)]
    other = DescribeRequest("f" * 32, *(getattr(same[0], name) for name in DescribeRequest.__slots__[1:]))
    first, second, third = answers(describer, *same, other)
    assert first == second
    assert first.texts != third.texts


@pytest.mark.slow
def test_generation_config_decides_what_the_request_leaves_open(tiny_vlm, local, tmp_path):
    wild = variant(tiny_vlm, tmp_path / "wild", do_sample=True, temperature=3.0, top_k=0)
    describer = local(wild)
    greedy, *drawn = answers(describer, ask(0), *(ask(0, temperature=None) for _ in range(3)))
    assert len({reply.texts for reply in drawn}) == 3
    assert {r.texts for r in answers(local(tiny_vlm), ask(0), ask(0, temperature=None))} == {greedy.texts}


def fail_on(monkeypatch, bad: Callable[[torch.Tensor], bool], fault: Callable[[], object]) -> None:
    """Inject a fault into `generate` for some inputs."""
    generate = LlavaForConditionalGeneration.generate

    def faulty(self, **inputs):
        if bad(inputs["input_ids"]):
            fault()
        return generate(self, **inputs)

    monkeypatch.setattr(LlavaForConditionalGeneration, "generate", faulty)


def exhaust_memory() -> object:
    return torch.empty(2**52, dtype=torch.uint8)


@pytest.mark.slow
def test_batch_that_exceeds_memory_is_halved(tiny_vlm, local, monkeypatch, batches, capsys):
    describer = local(tiny_vlm, batch_size=8)
    expected = answers(describer, *map(ask, range(8)))
    seen = []
    fail_on(monkeypatch, lambda ids: seen.append(len(ids)) or len(ids) > 2, exhaust_memory)
    assert answers(describer, *map(ask, range(8))) == expected
    assert seen == [8, 4, 2, 2, 4, 2, 2]
    seen.clear()
    assert answers(describer, *map(ask, range(4))) == expected[:4]
    assert seen == [2, 2]
    assert "with 4 pictures per batch, continuing with 2" in capsys.readouterr().err


@pytest.mark.slow
def test_request_that_exceeds_memory_fails_alone(describer, monkeypatch):
    expected = answers(describer, *map(ask, range(3)))
    seen = []
    fail_on(monkeypatch, lambda ids: seen.append(len(ids)) or ids.shape[1] > 150, exhaust_memory)
    *replies, failure = answers(describer, *map(ask, range(3)), ask(3, "What is it? " * 40))
    assert replies == expected
    assert (failure.reason, failure.retryable) == ("out of memory", False)
    answers(describer, *map(ask, range(4)))
    assert seen[-1] == 4


def test_broken_device_stops_the_job(describer, monkeypatch):
    def break_down():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")

    fail_on(monkeypatch, lambda _: True, break_down)
    failures = answers(describer, *map(ask, range(3)))
    assert all(isinstance(failure, DescribeError) for failure in failures)
    assert "Run the same command again" in str(failures[0])


def test_empty_answer_is_a_failure_with_its_tokens(tiny_vlm, local, tmp_path):
    from safetensors.torch import load_file, save_file

    mute = variant(tiny_vlm, tmp_path / "mute")
    weights = load_file(mute / "model.safetensors")
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    save_file({**weights, head: torch.zeros_like(weights[head])}, mute / "model.safetensors", {"format": "pt"})
    failure = answers(local(mute), ask(0, "What?", "And?"))[0]
    assert (failure.reason, failure.retryable, failure.tokens_out) == ("empty answer", False, 24)
    assert 0 < failure.tokens_in - IMAGE_TOKENS < 20


def test_folder_identity_depends_on_its_files_alone(tiny_vlm, tmp_path):
    moved = shutil.copytree(tiny_vlm, tmp_path / "elsewhere" / "tiny-vlm")
    changed = variant(tiny_vlm, tmp_path / "changed" / "tiny-vlm", temperature=0.5)
    known, again, other = (LocalDescriber(str(folder)).model for folder in (tiny_vlm, moved, changed))
    assert known == again
    assert known != other
    assert known.startswith("tiny-vlm@")
    assert LocalDescriber(None).model == DEFAULT_LOCAL_MODEL


def test_import_does_not_load_torch():
    code = "import sys, gpt4image.llm.local.client; print(sorted({'torch', 'transformers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_transformers_serve_gives_the_reference_answer(vlm_server, tiny_vlm, reference):
    async def chat():
        async with AsyncOpenAI(base_url=vlm_server, api_key="none") as client:
            parts = [
                {"type": "image_url", "image_url": {"url": encoded(picture(1)).data_url}},
                {"type": "text", "text": "What is it?"},
            ]
            messages = [{"role": "user", "content": parts}]
            return await client.chat.completions.create(model=str(tiny_vlm), messages=messages, max_tokens=12)

    answer = asyncio.run(chat())
    text, read, _ = reference("<s>user: <image>What is it?</s>assistant:", picture(1), max_new_tokens=12)
    assert answer.choices[0].message.content.strip() == text
    assert answer.usage.prompt_tokens == read


def test_answer_cut_off_while_thinking_names_the_fix(describer, monkeypatch):
    monkeypatch.setattr(
        VisionModel, "_answer", lambda _, batch: [ChatAnswer("<think>A cat?", "length", 9, 7) for _ in batch]
    )
    failure = answers(describer, ask(0, "What?", "And?"))[0]
    assert (failure.reason, failure.retryable, failure.tokens_out) == ("cut off while thinking", False, 7)
