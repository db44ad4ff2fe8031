"""Time and money for describing ImageNet, by the estimate that `gpt4image describe --estimate` prints.

    python benchmarks/imagenet_cost.py
    python benchmarks/imagenet_cost.py --images 50000 --tokens-out 150 --gpu-images 12 --gpu-dollars 1.5

Tokens and time of an answer are assumed here; the estimate measures them. Prices are the library's current ones.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from gpt4image.core.format import duration, money
from gpt4image.describe.estimate import Estimate
from gpt4image.descriptions.store import DescriptionRecord
from gpt4image.llm.prices import FREE, Price, list_price

IMAGENET = 1_281_167
WIDTH, HEIGHT = 500, 375  # pixels of a typical photograph
PROMPT_TOKENS = 40
AT_ONCE = 64


@dataclass(frozen=True)
class Reader:
    """A model and how it counts an image: a number of tokens for each square of a given side in pixels."""

    name: str
    square: int
    tokens_a_square: float = 1.0

    def tokens(self, width: int, height: int) -> int:
        """Return the tokens of an image."""
        return round(math.ceil(width / self.square) * math.ceil(height / self.square) * self.tokens_a_square)


NANO = Reader("gpt-4.1-nano", 32, 2.46)
MINI = Reader("gpt-4.1-mini", 32, 1.62)
QWEN = Reader("Qwen/Qwen2.5-VL-7B-Instruct", 28)


def estimate(asked: argparse.Namespace, reader: Reader, price: Price, images_per_second: float) -> Estimate:
    """Return the library's estimate from the assumed tokens and speed."""
    seconds = AT_ONCE / images_per_second
    tokens_in = reader.tokens(asked.width, asked.height) + PROMPT_TOKENS
    answer = DescriptionRecord("", "", tokens_in=tokens_in, tokens_out=asked.tokens_out, seconds=seconds)
    return Estimate([answer], asked.images, seconds / AT_ONCE, AT_ONCE, price, None)


def main() -> None:
    """Print the estimates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGENET)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--height", type=int, default=HEIGHT)
    parser.add_argument("--tokens-out", type=int, default=100, help="tokens of an answer")
    parser.add_argument("--api-images", type=float, default=10, help="images a second that the account's limits allow")
    parser.add_argument("--gpu-images", type=float, default=7, help="images a second of the rented GPU")
    parser.add_argument("--gpu-dollars", type=float, default=2.0, help="US dollars an hour")
    parser.add_argument("--desk-images", type=float, default=2, help="images a second of the workstation's GPU")
    asked = parser.parse_args()
    for reader in (NANO, MINI):
        price = list_price(reader.name)
        if price is None:
            raise SystemExit(f"The price of {reader.name} is not known to this version of genai-prices.")
        print("\n  ".join([f"API, {reader.name}:", *estimate(asked, reader, price, asked.api_images).lines()[1:]]))
    rented = estimate(asked, QWEN, FREE, asked.gpu_images)
    hours = rented.time_span[0] / 3600
    print("\n  ".join([f"rented GPU, {QWEN.name}:", *rented.lines()[1:]]))
    print(f"  rent: {money(hours * asked.gpu_dollars)} for {hours:.0f} h at {money(asked.gpu_dollars)} an hour")
    desk = estimate(asked, QWEN, FREE, asked.desk_images)
    print(f"workstation, {QWEN.name}: {duration(desk.time_span[0])}")


if __name__ == "__main__":
    main()
