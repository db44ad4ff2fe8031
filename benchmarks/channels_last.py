"""Speed of frozen stages on a CPU: channels-last against the default memory format.

python benchmarks/channels_last.py
"""

import time

import timm
import torch

IMAGES, SIZE, ROUNDS = 64, 128, 5


@torch.no_grad()
def images_per_second(model: torch.nn.Module, images: torch.Tensor) -> float:
    model.forward_features(images)
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        model.forward_features(images)
        seconds.append(time.perf_counter() - started)
    return len(images) / min(seconds)


def main() -> None:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    images = torch.randn(IMAGES, 3, SIZE, SIZE)
    default = images_per_second(model, images)
    model.to(memory_format=torch.channels_last)
    channels_last = images_per_second(model, images.contiguous(memory_format=torch.channels_last))
    print(f"default        {default:7.1f} images/s")
    print(f"channels last  {channels_last:7.1f} images/s")
    print(f"ratio          {channels_last / default:7.2f}")


if __name__ == "__main__":
    main()
