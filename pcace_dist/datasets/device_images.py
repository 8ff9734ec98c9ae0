"""Images decoded, resized and cropped on the device that the model runs on, many at a time: nvJPEG, by torchvision.

What goes to the device is a function of the file and the limits: whole JPEGs of 8 bits, baseline or progressive, grey
or YCbCr. Everything else (other formats, CMYK, RGB, what lacks its end, what is beyond a limit) and what the device's
decoder refuses goes to the processor's (images.py), which so is the one judge of what is set aside, and why. Resizing
is torchvision's way with bytes on a GPU: float32, clamped where bicubic overshoots, rounded to bytes. An image's bits
do not depend on what else is in its run: images of one size are resized together, each from its own pixels alone.

Takes any torch device: on a processor the same code runs over libjpeg-turbo, which is how it is tested. Scaled decoding
is libjpeg's and does not apply; a file that falls to the processor is decoded there as always. No models, no Ray.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional

from pcace_dist.datasets.formats import Encoded
from pcace_dist.datasets.images import (
    EXIF,
    JPEG_BEGIN,
    TORCHVISION_MODE,
    ImageSpec,
    buffer_of,
    orientation_of_jpeg,
    pixels,
    resized,
)
from pcace_dist.datasets.orientation import AS_STORED, turned, turned_size
from pcace_dist.errors import JobError, RowError

AUTO, CPU, GPU = "auto", "cpu", "gpu"

JPEG_END = b"\xff\xd9"
START_OF_SCAN, ADOBE = 0xDA, 0xEE
WHOLE_FRAMES = (0xC0, 0xC2)  # baseline and progressive, Huffman codes
OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {0xC2, 0xC4, 0xC8, 0xCC}
ADOBE_RGB = 0  # the transform that its marker names: none

PIXELS_AT_ONCE = 8 << 20  # decoded in one call, and resized before the next; a larger image is a call of its own
BYTES_OF_PIXEL = 27  # three bytes decoded, three floats, and as much again while they are resized

DecodeJpegs: TypeAlias = Callable[[list[Tensor], int, torch.device], list[Tensor]]


def decode_jpegs(data: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
    """Files (uint8 (bytes,), on the host) as uint8 (channels, H, W) on the device. RuntimeError if one is refused."""
    if device.type == "cuda":
        decoded: list[Tensor] = torch.ops.image.decode_jpegs_cuda(data, channels, device)
        return decoded
    return [torch.ops.image.decode_jpeg(one, channels, False) for one in data]


def choose_decoder(asked: str, device: torch.device) -> str:
    """What `model.input.decode` (auto, cpu or gpu) means where the model runs on `device`: cpu or gpu.

    auto is cpu: on a GPU nothing has been measured yet. Raises JobError where gpu is asked for and cannot be had.
    """
    if asked != GPU:
        return CPU
    otherwise = "or use model.input.decode: cpu"
    if device.type != "cuda":
        raise JobError(f"model.input.decode gpu: the workers have no GPU; set workers.gpus: 1, {otherwise}")
    held = io.BytesIO()
    Image.new("RGB", (16, 16)).save(held, "JPEG")
    try:
        decode_jpegs([buffer_of(held.getvalue())], TORCHVISION_MODE["RGB"], device)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise JobError(
            f"model.input.decode gpu: nvJPEG does not work here ({reason}); install a torchvision that is built with "
            f"CUDA, {otherwise}"
        ) from None
    return GPU


def decoder_of(decode: str, device: torch.device) -> DeviceDecoder | None:
    """The decoder on `device` where a plan says gpu; None for cpu. Raises JobError as `choose_decoder`."""
    return DeviceDecoder(device) if choose_decoder(decode, device) == GPU else None


def memory_beside(threads: int) -> int:
    """Bytes of the device that decoding in `threads` threads takes besides batches; a very large image takes more."""
    return threads * PIXELS_AT_ONCE * BYTES_OF_PIXEL


@dataclass(frozen=True)
class JpegFrame:
    """What a JPEG says of itself: sides in pixels, as they are stored, and components (1 grey, 3 YCbCr)."""

    height: int
    width: int
    components: int


def frame_for_device(data: Encoded | None, spec: ImageSpec) -> JpegFrame | None:
    """The frame of a file that may be decoded on the device, None for one that the processor is to decode or refuse."""
    if data is None or len(data) > spec.limits.bytes or data[:3] != JPEG_BEGIN or data[-2:] != JPEG_END:
        return None
    frame = _frame(data)
    if frame is None or not 0 < frame.height * frame.width <= spec.limits.pixels:
        return None
    if spec.resize is not None:
        seen_width, seen_height = turned_size(frame.width, frame.height, _orientation(data, spec))
        height, width = resized(seen_height, seen_width, spec.resize)
        if not 0 < height * width <= spec.limits.pixels:
            return None
    return frame


def _orientation(data: Encoded, spec: ImageSpec) -> int:
    return orientation_of_jpeg(data) if spec.orientation == EXIF else AS_STORED


def _frame(data: Encoded) -> JpegFrame | None:
    """Walk the marker segments up to the first scan; None for any kind that decoders might take differently."""
    at, found = 2, b""
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a body
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        end = at + 2 + length
        if length < 2:
            return None
        if marker in OTHER_FRAMES:
            return None
        if marker == ADOBE and _is_adobe_rgb(bytes(data[at + 4 : end])):
            return None
        if marker in WHOLE_FRAMES:
            if found:
                return None
            found = bytes(data[at + 4 : end])
        if marker == START_OF_SCAN:
            return _of_body(found)
        at = end
    return None


def _is_adobe_rgb(body: bytes) -> bool:
    return body[:5] == b"Adobe" and len(body) >= 12 and body[11] == ADOBE_RGB


def _of_body(body: bytes) -> JpegFrame | None:
    """Precision, height, width, and for each component its name, sampling and table."""
    if len(body) < 6 or body[0] != 8 or len(body) != 6 + 3 * body[5]:
        return None
    if body[5] not in (1, 3) or body[6::3] == b"RGB":
        return None
    return JpegFrame(int.from_bytes(body[1:3]), int.from_bytes(body[3:5]), body[5])


class DeviceDecoder:
    """Decodes runs of images on `device`. One serves all threads of a reader.

    `decode` is what decodes JPEGs; it may refuse a whole call for one file.
    """

    def __init__(self, device: torch.device, decode: DecodeJpegs = decode_jpegs) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device()) if str(device) == "cuda" else device
        self._decode = decode
        self._of_thread = threading.local()
        self._holding: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._holding = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """What is done inside is done on a stream of this thread's own, and is complete when it ends.

        The host waits, rather than leaving an event to whoever takes the pixels: torchvision's decoder writes on a
        stream that it does not tell, and memory that was given back must be at rest before it is decoded into.
        """
        if self.device.type != "cuda":
            yield
            return
        stream = getattr(self._of_thread, "stream", None)
        if stream is None:
            stream = self._of_thread.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            try:
                yield
            finally:
                stream.synchronize()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Memory that is taken inside is given out again only when those that read it (`record_stream`) are done.

        It belongs to a stream on which nothing runs: what is freed there needs to wait for no other work.
        """
        if self._holding is None:
            yield
            return
        with torch.cuda.stream(self._holding):
            yield

    def images(self, data: Sequence[Encoded | None], spec: ImageSpec) -> list[Tensor | RowError]:
        """Each file as uint8 (C, h, w), C = 3 for mode RGB and 1 for L, or why it is set aside.

        On the device, but for those that the processor decoded. To be called inside `working`. Raises JobError where
        the device's memory does not hold a single image.
        """
        found: dict[int, Tensor] = {}
        for channels, rows in self._rows_for_device(data, spec).items():
            for part in _parts(rows):
                self._run(data, part, channels, spec, found)
        return [found[i] if i in found else _on_processor(one, spec) for i, one in enumerate(data)]

    def _rows_for_device(self, data: Sequence[Encoded | None], spec: ImageSpec) -> dict[int, list[tuple[int, int]]]:
        """Rows and their pixels by the channels they are decoded to: grey is spread over three channels at the end."""
        rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, one in enumerate(data):
            frame = frame_for_device(one, spec)
            if frame is not None:
                channels = min(frame.components, TORCHVISION_MODE[spec.mode])
                rows[channels].append((row, frame.height * frame.width))
        return rows

    def _run(
        self,
        data: Sequence[Encoded | None],
        rows: Sequence[int],
        channels: int,
        spec: ImageSpec,
        found: dict[int, Tensor],
    ) -> None:
        """Put the images of some rows into `found`; in halves where memory runs out."""
        try:
            found.update(self._sized(data, rows, channels, spec))
            return
        except torch.OutOfMemoryError as error:
            reason = str(error).strip().splitlines()[0][:120]
        if self.device.type == "cuda":  # outside of the except block: the error holds the images
            torch.cuda.empty_cache()
        if len(rows) == 1:
            raise JobError(
                f"model.input.decode gpu: memory of this GPU does not hold an image of {len(data[rows[0]] or b'')} "
                f"bytes ({reason}); use limits.pixels, a smaller compute.batch or model.input.decode: cpu"
            )
        half = len(rows) // 2
        self._run(data, rows[:half], channels, spec, found)
        self._run(data, rows[half:], channels, spec, found)

    def _sized(
        self, data: Sequence[Encoded | None], rows: Sequence[int], channels: int, spec: ImageSpec
    ) -> dict[int, Tensor]:
        """Decoded and brought to size, those of one size together; rows that the device refuses are left out."""
        files = [one for row in rows if (one := data[row]) is not None]
        decoded = self._decoded([buffer_of(one) for one in files], channels)
        by_size: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
        for row, file, stored in zip(rows, files, decoded, strict=True):
            if stored is not None:
                image = turned(stored, _orientation(file, spec))
                by_size[image.shape].append((row, image))
        found: dict[int, Tensor] = {}
        for held in by_size.values():
            for (row, _), image in zip(held, to_size([image for _, image in held], spec), strict=False):
                found[row] = image.expand(TORCHVISION_MODE[spec.mode], -1, -1)
        return found

    def _decoded(self, files: list[Tensor], channels: int) -> list[Tensor | None]:
        """Each file decoded, None where it is refused: which one it was a call does not tell, so halves are tried."""
        self._wait_for_own()
        try:
            return list(self._decode(files, channels, self.device))
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
                raise
            if _tells_of_memory(str(error)):
                raise torch.OutOfMemoryError(str(error)) from None
        if self.device.type == "cuda":  # what was begun of the others may still be written
            torch.cuda.synchronize(self.device)
        if len(files) == 1:
            return [None]
        half = len(files) // 2
        return self._decoded(files[:half], channels) + self._decoded(files[half:], channels)

    def _wait_for_own(self) -> None:
        """What this thread began may still read memory that it freed; the decoder would not wait for that."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


def to_size(images: Sequence[Tensor], spec: ImageSpec) -> Sequence[Tensor]:
    """Images uint8 (C, H, W), all of one size, resized and cropped as the job says: uint8 (C, h, w) each.

    torchvision's v2 transforms as they are on a GPU, where bytes are resized as float32. Empty where the device's
    resize does not take such sizes.
    """
    sized: Sequence[Tensor] = images
    height, width = images[0].shape[-2:]
    after = (height, width) if spec.resize is None else resized(height, width, spec.resize)
    if after != (height, width):
        batch = _resized(images, after, spec)
        if batch is None:
            return []
        sized = batch.unbind(0)
    if spec.crop is None:
        return sized
    crop = [spec.crop, spec.crop] if isinstance(spec.crop, int) else list(spec.crop)
    return [functional.center_crop_image(image, crop) for image in sized]


def _resized(images: Sequence[Tensor], size: tuple[int, int], spec: ImageSpec) -> Tensor | None:
    """uint8 (n, C, h, w)."""
    smooth = spec.interpolation in ("bilinear", "bicubic")
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.float32, device=images[0].device)
    for place, image in zip(batch, images, strict=True):
        place.copy_(image)
    try:
        batch = interpolate(
            batch,
            size,
            mode=spec.interpolation,
            align_corners=False if smooth else None,
            antialias=smooth and spec.antialias,
        )
    except RuntimeError as error:
        if "interpolation parameters" not in str(error):  # CUDA's, of a resize that its blocks do not hold
            raise
        return None
    if spec.interpolation == "bicubic":
        batch = batch.clamp_(0, 255)
    return batch.round_().to(torch.uint8)


def _on_processor(data: Encoded | None, spec: ImageSpec) -> Tensor | RowError:
    try:
        return torch.from_numpy(pixels(data, spec))
    except RowError as error:
        return error


def _parts(rows: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Rows (and pixels) in parts of not more than PIXELS_AT_ONCE, or of one row."""
    part: list[int] = []
    total = 0
    for row, count in rows:
        if part and total + count > PIXELS_AT_ONCE:
            yield part
            part, total = [], 0
        part.append(row)
        total += count
    if part:
        yield part


def _tells_of_memory(text: str) -> bool:
    """Whether nvJPEG's error, or CUDA's inside of it, is of memory: its status 5 is that of an allocator."""
    first = text.strip().splitlines()[0] if text.strip() else ""
    return "out of memory" in text or first.endswith(": 5")
