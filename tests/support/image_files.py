"""Small image files for tests."""

import io
import struct
import tarfile
import zlib

import numpy as np
from PIL import Image


def encode(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(seed, size=8, kind="PNG", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), kind, **options)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def class_folders(root, counts, *, seed=0, kind="PNG"):
    """Write `counts[folder]` different images into every folder."""
    for folder, count in counts.items():
        for number in range(count):
            write(root / folder / f"{number:03d}.{kind.lower()}", noise((seed, hash_of(folder), number), kind=kind))
    return root


def hash_of(text):
    return zlib.crc32(text.encode())


def split_sizes(table):
    return [len(table.split(name)) for name in ("train", "validation", "test")]


def names_of(table, split):
    return {table.path(index): table.classes[table.labels[index]] for index in table.split(split)}


def reasons(table):
    return {image.path: image.reason for image in table.rejected}


def samples(count, start=0):
    """Samples of WebDataset, each with an image, a label and a text."""
    return [
        {"__key__": f"s/{start + n:04d}", "png": noise(start + n), "cls": n % 2, "txt": f"text {start + n}"}
        for n in range(count)
    ]


def shard(path, samples):
    """Write samples as a WebDataset tar."""
    import webdataset

    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def raw_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def wide_png(values, transparent=None):
    """Encode grey and alpha, colour, or colour and alpha of 16 bits, [H, W, 2 to 4], which Pillow cannot write.

    Of colour without alpha, one value [3] may stand for transparent.
    """

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    start += b"" if transparent is None else chunk(b"tRNS", struct.pack(">3H", *transparent))
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
