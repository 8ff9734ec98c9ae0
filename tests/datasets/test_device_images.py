"""Decoding on a device, on the one that every machine has: torchvision's pixels within a step, the same bits whatever
else is in the run, the processor's verdicts, and in which order a GPU's streams and memory are dealt with.

What is not tested here: nvJPEG itself. `python -m tests.benchmarks.device` looks at it where there is a GPU.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from pcace_dist.datasets import device_images
from pcace_dist.datasets.device_images import (
    DeviceDecoder,
    JpegFrame,
    choose_decoder,
    decode_jpegs,
    decoder_of,
    frame_for_device,
    memory_beside,
)
from pcace_dist.datasets.images import ImageSpec, buffer_of, decode
from pcace_dist.datasets.loader import Batch
from pcace_dist.datasets.sections import Interpolation, Limits, Mode
from pcace_dist.datasets.units import make_units
from pcace_dist.errors import JobError, RowError
from tests.datasets.helpers import encoded, ids, listed, picture, png, reader_of, shard
from tests.datasets.test_images import photograph
from tests.datasets.test_loader import pilot

HOST = torch.device("cpu")
GPU = torch.device("cuda", 0)
SIZES = [(500, 375), (375, 500), (64, 64), (31, 40), (200, 1), (1, 90), (1, 1)]  # width, height
GEOMETRIES: list[tuple[Any, Any]] = [(48, 40), ((33, 21), None), (100, 120), (None, 50), (64, None)]


def jpeg(seed: int, width: int = 60, height: int = 45, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(picture(seed, width, height, mode), "JPEG", **options)


@cache
def photo(width: int, height: int, mode: str = "RGB") -> bytes:
    """A photograph's detail, of any size."""
    return encoded(photograph(640, 480).resize((width, height)).convert(mode), "JPEG", quality=95)


def images(data: Sequence[bytes | None], spec: ImageSpec, decoder: DeviceDecoder | None = None) -> list[Any]:
    """What the device makes of some files: pixels, or the reason why there are none."""
    decoded = (decoder or DeviceDecoder(HOST)).images(data, spec)
    return [image.reason if isinstance(image, RowError) else image for image in decoded]


def same(image: Any, expected: Any) -> bool:
    return (
        torch.equal(image, expected)
        if isinstance(image, Tensor) and isinstance(expected, Tensor)
        else image == expected
    )


def by_processor(data: bytes | None, spec: ImageSpec) -> Tensor | str:
    try:
        return decode(data, spec)
    except RowError as error:
        return error.reason


class Decoding:
    """Stands for the device's decoder: counts its calls, and refuses those with one of `refused` among their files."""

    def __init__(self, refused: Sequence[bytes] = (), error: Exception | None = None) -> None:
        self.calls: list[int] = []
        self._refused = [buffer_of(one) for one in refused]
        self._error = error or RuntimeError("Error while decoding JPEG images: Failed to decode jpeg stream: 4")

    def __call__(self, files: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
        self.calls.append(len(files))
        if any(torch.equal(file, one) for file in files for one in self._refused):
            raise self._error
        return decode_jpegs(files, channels, HOST)


# -- torchvision's reference


def reference(whole: Tensor, spec: ImageSpec) -> Tensor:
    """torchvision's v2 transforms; floats stay floats."""
    steps: list[torch.nn.Module] = []
    if spec.resize is not None:
        size = spec.resize if isinstance(spec.resize, int) else list(spec.resize)
        steps.append(v2.Resize(size, InterpolationMode(spec.interpolation), antialias=spec.antialias))
    if spec.crop is not None:
        steps.append(v2.CenterCrop(spec.crop))
    for step in steps:
        whole = step(whole)
    return whole


WAYS = [
    ("bilinear", True),
    ("bilinear", False),
    ("bicubic", True),
    ("bicubic", False),
    ("nearest", False),
    ("nearest-exact", False),
]


# In steps of 255, as docs/pipeline.md says. On processors torchvision resizes bytes in two passes and clips between
# them what bicubic overshoots; in floats, as which it resizes bytes on a GPU, nothing is clipped there.
LARGEST = {"bilinear": 1, "bicubic": 8, "nearest": 0, "nearest-exact": 0}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("interpolation", "antialias"), WAYS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_torchvisions(
    size: tuple[int, int], interpolation: Interpolation, antialias: bool, mode: Mode
) -> None:
    for resize, crop in GEOMETRIES:
        for stored in ("RGB", "L"):
            spec = ImageSpec(mode, resize, crop, interpolation=interpolation, antialias=antialias, scaled_decode=False)
            data = photo(*size, stored)
            if "after model.input.resize" in str(by_processor(data, replace(spec, limits=Limits(300_000)))):
                continue  # one pixel wide, and another side of thousands
            ours = images([data], spec)[0]
            whole = decode(data, ImageSpec(mode))
            assert ours.dtype == torch.uint8 and ours.shape == reference(whole, spec).shape
            difference = (ours.int() - reference(whole, spec).int()).abs()
            assert difference.max() <= LARGEST[interpolation] and difference.float().mean() <= 0.3  # of 255
            assert (difference > 1).float().mean() <= 1e-3
            # as torchvision does it on a GPU; what lies half-way may go either way, by how many threads there are
            floats = (ours.float() - reference(whole.float(), spec).clamp(0, 255).round()).abs()
            assert floats.max() <= 1 and (floats > 0).float().mean() <= 1e-3


def test_other_files_are_the_processors_to_the_bit() -> None:
    spec = ImageSpec(resize=40, crop=32)
    others = [encoded(picture(1, 60, 50), kind) for kind in ("PNG", "GIF", "WEBP", "BMP", "TIFF")]
    others += [jpeg(3, mode="CMYK"), jpeg(4) + b"\0", jpeg(5, keep_rgb=True)]
    decoding = Decoding()
    decoded = images(others, spec, DeviceDecoder(HOST, decoding))
    assert all(torch.equal(image, decode(data, spec)) for image, data in zip(decoded, others, strict=True))
    assert decoding.calls == []


def test_a_much_larger_jpeg_is_decoded_whole() -> None:
    data = photo(640, 480)
    spec = ImageSpec(resize=32)
    assert torch.equal(images([data], spec)[0], images([data], replace(spec, scaled_decode=False))[0])


# -- what goes to the device


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(("mode", "components"), [("RGB", 3), ("L", 1)])
def test_whole_jpegs_go_to_the_device(progressive: bool, mode: str, components: int) -> None:
    data = jpeg(1, 31, 17, mode, progressive=progressive, exif=b"Exif\0\0" + jpeg(2, 8, 8))  # with a thumbnail
    assert frame_for_device(data, ImageSpec()) == JpegFrame(17, 31, components)
    assert frame_for_device(memoryview(data), ImageSpec()) == JpegFrame(17, 31, components)


def test_what_is_beyond_a_limit_or_lacks_its_end_stays_on_the_processor() -> None:
    data = jpeg(1, 20, 10)
    assert frame_for_device(data, ImageSpec(limits=Limits(200))) is not None
    for spec in (
        ImageSpec(limits=Limits(199)),
        ImageSpec(limits=Limits(bytes=len(data) - 1)),
        ImageSpec(resize=20, limits=Limits(799)),
    ):
        assert frame_for_device(data, spec) is None
    for broken in (None, b"", data[:-1], data[:-2], data[: len(data) // 2], b"\xff\xd8\xff\xd9", png(1)):
        assert frame_for_device(broken, ImageSpec()) is None


BROKEN: list[bytes | None] = [
    None,
    b"",
    b"no image",
    png(1)[:60],
    b"\xff\xd8\xff\xd9",
    *(jpeg(6)[: int(len(jpeg(6)) * share)] for share in (0.02, 0.3, 0.6, 0.9)),
    *(jpeg(6)[:-missing] for missing in (1, 2, 5)),
    jpeg(7, 200, 200),  # beyond the pixels
    jpeg(7, 100, 100, quality=100),  # beyond the bytes
    jpeg(8, 150, 1),  # explodes
]


def test_what_is_set_aside_has_the_reason_that_it_has_on_the_processor() -> None:
    spec = ImageSpec(resize=30, limits=Limits(30_000, 12_000))
    decoding = Decoding()
    decoded = images(BROKEN, spec, DeviceDecoder(HOST, decoding))
    assert decoded == [by_processor(data, spec) for data in BROKEN]
    assert all(isinstance(reason, str) for reason in decoded)
    assert decoding.calls == [], "a decoder that forgives what is missing is not asked"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_get_the_processors_verdict(draw: st.DataObject) -> None:
    data = bytearray(jpeg(8, 20, 20))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    spec = ImageSpec(limits=Limits(10_000))
    assert same(images([bytes(data)], spec)[0], by_processor(bytes(data), spec))


# -- the same bits, whatever else is there


def mixed() -> list[bytes | None]:
    """Files of equal and of different sizes, grey ones, other formats and broken ones."""
    files: list[bytes | None] = [photo(60, 45), photo(45, 60), photo(60, 45, "L"), png(1, 50, 50), None, b"junk"]
    files += [jpeg(seed, 60, 45) for seed in range(4)] + [jpeg(seed, 45 + seed, 60) for seed in range(3)]
    return [*files, jpeg(9, mode="CMYK"), jpeg(9)[:-5]]


@pytest.mark.parametrize(("interpolation", "antialias"), WAYS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("at_once", [1, 6_000, 8 << 20])
def test_an_image_has_the_same_bits_alone_and_among_others(
    mode: Mode, interpolation: Interpolation, antialias: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ImageSpec(mode, 32, (40, 28), interpolation=interpolation, antialias=antialias)
    files = mixed()
    alone = [images([data], spec)[0] for data in files]
    monkeypatch.setattr(device_images, "PIXELS_AT_ONCE", at_once)
    for seed in range(3):
        order = random.Random(seed).sample(range(len(files)), len(files))
        decoded = images([files[i] for i in order], spec)
        assert all(same(image, alone[i]) for image, i in zip(decoded, order, strict=True))


def test_no_call_decodes_more_pixels_than_are_allowed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_images, "PIXELS_AT_ONCE", 3 * 60 * 45)
    decoding = Decoding()
    files = [*(jpeg(seed) for seed in range(7)), jpeg(7, 200, 150)]
    assert len(images(files, ImageSpec(resize=20), DeviceDecoder(HOST, decoding))) == 8
    assert decoding.calls == [3, 3, 1, 1]


# -- what the device refuses


def test_a_file_that_the_device_refuses_falls_to_the_processor_and_no_other() -> None:
    files = [jpeg(seed) for seed in range(8)]
    spec = ImageSpec(resize=20, crop=18)
    decoding = Decoding(refused=[files[5]])
    decoded = images(files, spec, DeviceDecoder(HOST, decoding))
    assert decoding.calls == [8, 4, 4, 2, 1, 1, 2], "halves, until it is alone"
    assert torch.equal(decoded[5], decode(files[5], spec))
    whole = images(files, spec)
    assert all(torch.equal(decoded[i], whole[i]) for i in range(8) if i != 5)


def test_what_is_refused_by_the_device_and_broken_is_set_aside_by_the_processor() -> None:
    data = bytearray(jpeg(1))
    at = bytes(data).index(b"\xff\xc4") + 5
    data[at : at + 16] = b"\xff" * 16  # a table of codes that cannot be
    files = [jpeg(2), bytes(data), jpeg(3)]
    assert frame_for_device(files[1], ImageSpec()) is not None
    decoded = images(files, ImageSpec(), DeviceDecoder(HOST, Decoding(refused=[files[1]])))
    assert decoded[1] == by_processor(files[1], ImageSpec()) and decoded[1].startswith("broken JPEG")
    assert isinstance(decoded[0], Tensor) and isinstance(decoded[2], Tensor)


def test_a_resize_that_the_device_does_not_hold_falls_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(batch: Tensor, *_: Any, **options: Any) -> Tensor:
        if batch.shape[-1] == 60:
            raise RuntimeError("Provided interpolation parameters can not be handled with current algorithm")
        return real(batch, *_, **options)

    real = torch.nn.functional.interpolate
    spec = ImageSpec(resize=20)
    files = [jpeg(1), jpeg(2, 50, 45), jpeg(3)]
    other = images(files, spec)[1]
    monkeypatch.setattr(device_images, "interpolate", refusing)
    decoded = images(files, spec)
    assert torch.equal(decoded[0], decode(files[0], spec)) and torch.equal(decoded[2], decode(files[2], spec))
    assert torch.equal(decoded[1], other)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("Error while decoding JPEG images: CUDA out of memory. Tried to allocate 20 MiB\nmore"),
        RuntimeError("Error while decoding JPEG images: Failed to decode batch: 5\nException raised from"),
    ],
)
def test_memory_that_runs_out_is_no_refusal(error: Exception) -> None:
    """Or pixels would depend on what is free: fewer at a time, then the end with the key that would do."""
    small, large = jpeg(1), jpeg(2, 200, 200)
    failing = Decoding(refused=[large], error=error)
    with pytest.raises(
        JobError, match=r"^model\.input\.decode gpu: memory .* does not hold .*model\.input\.decode: cpu"
    ):
        images([small, large], ImageSpec(), DeviceDecoder(HOST, failing))
    assert failing.calls == [2, 1, 1]

    calls: list[int] = []

    def tight(files: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
        calls.append(len(files))
        if len(files) > 2:
            raise error
        return decode_jpegs(files, channels, HOST)

    files = [jpeg(seed) for seed in range(5)]
    decoded = images(files, ImageSpec(resize=20), DeviceDecoder(HOST, tight))
    assert calls == [5, 2, 3, 1, 2]
    assert all(
        torch.equal(image, other) for image, other in zip(decoded, images(files, ImageSpec(resize=20)), strict=True)
    )


def test_a_device_that_has_failed_is_no_refusal() -> None:
    failing = Decoding(refused=[jpeg(1)], error=torch.AcceleratorError("CUDA error: an illegal memory access"))
    with pytest.raises(torch.AcceleratorError):
        images([jpeg(1)], ImageSpec(), DeviceDecoder(HOST, failing))


# -- through the reader


def shards_of(folder: Path) -> list[bytes | None]:
    files = [data for _ in range(3) for data in mixed()]
    shard(folder / "a.parquet", files, row_group=11, label=list(range(len(files))))
    return files


def read(folder: Path, **changes: Any) -> tuple[list[Batch], list[tuple[Any, ...]]]:
    spec, listing = listed(folder, label="label")
    (unit,) = make_units(listing, 10**6)
    settings: dict[str, Any] = {"batch_size": 7, "image_spec": ImageSpec(resize=(32, 40)), "image_shape": (32, 40)}
    with reader_of(spec, **{**settings, **changes}) as reader:
        stream = reader.submit(unit)
        batches = list(stream.batches())
    return batches, [(bad.row, bad.stage, bad.reason) for bad in stream.bad]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [4, 7, 64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_do_not_depend_on_threads_or_size(
    tmp_path: Path, threads: int, batch_size: int, channels_last: bool
) -> None:
    files = shards_of(tmp_path)
    spec = ImageSpec(resize=(32, 40))
    decoder = DeviceDecoder(HOST)
    got, bad = read(tmp_path, decoder=decoder, threads=threads, batch_size=batch_size, channels_last=channels_last)
    expected = [image for image in images(files, spec) if isinstance(image, Tensor)]
    assert torch.equal(torch.cat([batch.images for batch in got]), torch.stack(expected))
    assert all(batch.images.permute(0, 2, 3, 1).is_contiguous() == channels_last for batch in got)
    on_host, set_aside = read(tmp_path, batch_size=batch_size)
    assert bad == set_aside and len(bad) == 9
    assert ids(got) == ids(on_host)
    for image, two in zip(got, on_host, strict=True):
        assert np.array_equal(image.fold_keys, two.fold_keys)
        assert image.labels is not None and two.labels is not None and np.array_equal(image.labels, two.labels)


def test_images_of_another_size_than_the_plans_are_set_aside_with_the_same_words(tmp_path: Path) -> None:
    shards_of(tmp_path)
    changes = {"image_spec": ImageSpec(), "image_shape": (45, 60)}
    got, bad = read(tmp_path, decoder=DeviceDecoder(HOST), **changes)
    on_host, set_aside = read(tmp_path, **changes)
    assert bad == set_aside and ids(got) == ids(on_host)
    assert torch.equal(torch.cat([b.images for b in got]), torch.cat([b.images for b in on_host]))


def test_the_pilot_reads_the_pixels_of_the_pass(tmp_path: Path) -> None:
    files = shards_of(tmp_path)
    spec, listing = listed(tmp_path)
    changes: dict[str, Any] = {"image_spec": ImageSpec(resize=(32, 40))}
    got = pilot(listing, spec, len(files), decoder=DeviceDecoder(HOST), **changes)
    expected, _ = read(tmp_path, decoder=DeviceDecoder(HOST))
    assert torch.equal(torch.cat([b.images for b in got]), torch.cat([b.images for b in expected]))
    assert all(batch.images.device == HOST for batch in got)


def test_errors_of_the_device_reach_who_iterates(tmp_path: Path) -> None:
    shards_of(tmp_path)
    failing = Decoding(refused=[jpeg(1)], error=torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(JobError, match=r"model\.input\.decode gpu"):
        read(tmp_path, decoder=DeviceDecoder(HOST, failing))


# -- what the key means


@pytest.mark.parametrize("asked", ["auto", "cpu"])
@pytest.mark.parametrize("device", [HOST, GPU])
def test_auto_is_the_processor(asked: str, device: torch.device) -> None:
    assert choose_decoder(asked, device) == "cpu"
    assert decoder_of(asked, device) is None


def test_without_a_gpu_or_nvjpeg_one_line_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError) as caught:
        choose_decoder("gpu", HOST)
    message = "model.input.decode gpu: the workers have no GPU; set workers.gpus: 1, or use model.input.decode: cpu"
    assert str(caught.value) == message

    def missing(*_: Any) -> list[Tensor]:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nException raised from")

    monkeypatch.setattr(device_images, "decode_jpegs", missing)
    with pytest.raises(JobError) as caught:
        decoder_of("gpu", GPU)
    assert str(caught.value) == (
        "model.input.decode gpu: nvJPEG does not work here (decode_jpegs_cuda: torchvision not compiled with nvJPEG "
        "support); install a torchvision that is built with CUDA, or use model.input.decode: cpu"
    )


def test_gpu_is_the_gpu_where_nvjpeg_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_images, "decode_jpegs", lambda files, channels, _: decode_jpegs(files, channels, HOST))
    assert choose_decoder("gpu", GPU) == "gpu"


def test_the_memory_of_decoding_grows_with_the_threads() -> None:
    assert 2 * memory_beside(1) == memory_beside(2) < 1 << 30


# -- streams: what is asked of CUDA, and in which order


class Streams:
    """Stands for CUDA's streams: writes down what is done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.made = 0
        self._current = threading.local()
        monkeypatch.setattr(torch.cuda, "Stream", self._stream)
        monkeypatch.setattr(torch.cuda, "stream", self._entered)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self._current.stream)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: self.done.append("device waits"))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: self.done.append("cache emptied"))

    def _stream(self, _: torch.device) -> Any:
        number, self.made = self.made, self.made + 1
        return type("Stream", (), {"synchronize": lambda _: self.done.append(f"{number} waits"), "number": number})()

    @contextlib.contextmanager
    def _entered(self, stream: Any) -> Iterator[None]:
        before, self._current.stream = getattr(self._current, "stream", None), stream
        self.done.append(f"{stream.number} entered")
        yield
        self._current.stream = before

    def noting(self, decode: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
        def noted(files: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
            self.done.append(f"decode {len(files)}")
            return decode(files, channels, device)

        return noted


def test_memory_is_at_rest_before_it_is_decoded_into_and_when_a_run_is_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = Streams(monkeypatch)
    decoder = DeviceDecoder(GPU, streams.noting(Decoding(refused=[jpeg(2)])))
    assert streams.made == 1, "that of the batches' memory"
    with decoder.working():
        images([jpeg(1), jpeg(2), jpeg(3, mode="L")], ImageSpec(resize=20), decoder)
    assert streams.done == [
        "1 entered",
        "1 waits",
        "decode 2",
        "device waits",  # refused: what was begun of the other may still be written
        "1 waits",
        "decode 1",
        "1 waits",
        "decode 1",
        "device waits",
        "1 waits",
        "decode 1",  # grey
        "1 waits",
    ]


def test_each_thread_has_a_stream_of_its_own_and_waits_for_it_after_errors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)
    decoder = DeviceDecoder(GPU)

    def work() -> None:
        for _ in range(2):
            with contextlib.suppress(ZeroDivisionError), decoder.working():
                raise ZeroDivisionError

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert streams.made == 3
    assert streams.done == ["1 entered", "1 waits"] * 2 + ["2 entered", "2 waits"] * 2


def test_batches_lie_in_memory_of_a_stream_on_which_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)
    decoder = DeviceDecoder(GPU)
    with decoder.holding():
        pass
    assert streams.done == ["0 entered"]


def test_memory_that_runs_out_is_given_back_before_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(monkeypatch)

    def tight(files: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
        if len(files) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode_jpegs(files, channels, HOST)

    decoder = DeviceDecoder(GPU, streams.noting(tight))
    with decoder.working():
        assert len(images([jpeg(1), jpeg(2)], ImageSpec(), decoder)) == 2
    assert [what for what in streams.done if what[0] != "1"] == ["decode 2", "cache emptied", "decode 1", "decode 1"]
