"""Images are decoded, resized and cropped on the model's device, many at a time: nvJPEG, through torchvision.

The file and the limits alone decide what goes to the device: complete 8-bit JPEGs, baseline or progressive, grey or
YCbCr. Everything else (other formats, CMYK, RGB, truncated files, files beyond a limit), and what the device's decoder
refuses, goes to the CPU's decoder (images.py). So only the CPU's decoder decides what is set aside, and why. Images are
resized as torchvision resizes bytes on a GPU: in float32, clamped where bicubic overshoots, rounded to bytes. Images of
one size are resized together, each from its own pixels, so that an image's bits do not depend on its neighbours.

Works with any torch device: on a CPU the same code runs with libjpeg-turbo, and is tested that way. Scaled decoding
exists in libjpeg only and does not apply here; a file that goes to the CPU is decoded as usual. No models, no Ray.
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

from pcace_dist.datasets.decoding.orientation import AS_STORED, turned, turned_size
from pcace_dist.datasets.formats import Encoded
from pcace_dist.datasets.images import (
    EXIF,
    JPEG_BEGIN,
    TORCHVISION_MODE,
    ImageSpec,
    buffer_of,
    cropped,
    orientation_of_jpeg,
    pixels,
    resized,
)
from pcace_dist.errors import JobError, RowError

AUTO, CPU, GPU = "auto", "cpu", "gpu"

JPEG_END = b"\xff\xd9"
START_OF_SCAN, ADOBE = 0xDA, 0xEE
WHOLE_FRAMES = (0xC0, 0xC2)  # baseline and progressive, Huffman codes
OTHER_FRAMES = frozenset(range(0xC1, 0xD0)) - {0xC2, 0xC4, 0xC8, 0xCC}
ADOBE_RGB = 0  # the value of the Adobe marker's transform for RGB

PIXELS_AT_ONCE = 8 << 20  # decoded in one call, and resized before the next; a larger image has a call of its own
BYTES_OF_PIXEL = 27  # three decoded bytes, three floats, and the same floats again while they are resized

DecodeJpegs: TypeAlias = Callable[[list[Tensor], int, torch.device], list[Tensor]]


def decode_jpegs(data: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
    """Decodes files (uint8 (bytes,), on the host) to uint8 (channels, H, W) on the device. Raises RuntimeError."""
    if device.type == "cuda":
        decoded: list[Tensor] = torch.ops.image.decode_jpegs_cuda(data, channels, device)
        return decoded
    return [torch.ops.image.decode_jpeg(file, channels, False) for file in data]


def choose_decoder(asked: str, device: torch.device) -> str:
    """What `model.input.decode` (auto, cpu or gpu) means where the model runs on `device`: cpu or gpu.

    auto is cpu: nothing has been measured on a GPU yet. Raises JobError where gpu is asked for and not available.
    """
    if asked != GPU:
        return CPU
    alternative = "or use model.input.decode: cpu"
    if device.type != "cuda":
        raise JobError(f"model.input.decode gpu: the workers have no GPU; set workers.gpus: 1, {alternative}")
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 16)).save(jpeg, "JPEG")
    try:
        decode_jpegs([buffer_of(jpeg.getvalue())], TORCHVISION_MODE["RGB"], device)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise JobError(
            f"model.input.decode gpu: nvJPEG does not work here ({reason}); install a torchvision that is built with "
            f"CUDA, {alternative}"
        ) from None
    return GPU


def decoder_of(decode: str, device: torch.device) -> DeviceDecoder | None:
    """The decoder on `device` where a plan says gpu; None for cpu. Raises JobError as `choose_decoder`."""
    return DeviceDecoder(device) if choose_decoder(decode, device) == GPU else None


def memory_beside(threads: int) -> int:
    """Bytes of device memory for decoding in `threads` threads, besides the batches; a very large image needs more."""
    return threads * PIXELS_AT_ONCE * BYTES_OF_PIXEL


@dataclass(frozen=True)
class JpegFrame:
    """A JPEG's frame header: sides in pixels, as stored, and the number of components (1 grey, 3 YCbCr)."""

    height: int
    width: int
    components: int


def frame_for_device(data: Encoded | None, spec: ImageSpec) -> JpegFrame | None:
    """The frame of a file that may be decoded on the device; None for a file that the CPU is to decode or refuse."""
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
    """Reads the marker segments up to the first scan. None for any JPEG that decoders might treat differently."""
    at, frame_body = 2, b""
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
            if frame_body:
                return None
            frame_body = bytes(data[at + 4 : end])
        if marker == START_OF_SCAN:
            return _of_body(frame_body)
        at = end
    return None


def _is_adobe_rgb(body: bytes) -> bool:
    return body[:5] == b"Adobe" and len(body) >= 12 and body[11] == ADOBE_RGB


def _of_body(body: bytes) -> JpegFrame | None:
    """The frame in a segment's body: precision, height, width, and for each component its name, sampling and table."""
    if len(body) < 6 or body[0] != 8 or len(body) != 6 + 3 * body[5]:
        return None
    if body[5] not in (1, 3) or body[6::3] == b"RGB":
        return None
    return JpegFrame(int.from_bytes(body[1:3]), int.from_bytes(body[3:5]), body[5])


class DeviceDecoder:
    """Decodes slices of images on `device`. All threads of a reader share one.

    `decode` decodes JPEGs; one bad file may make a whole call fail.
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
        """Work inside the block runs on a stream of this thread's own, and is complete at the end of the block.

        The host waits for the stream. An event for the reader of the pixels would not do: torchvision's decoder writes
        on a stream that it does not expose, and freed memory must be idle before the next images are decoded into it.
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
        """Memory allocated inside the block is reused only when all streams that read it (`record_stream`) are done.

        It belongs to a stream on which nothing else runs, so that freeing it waits for no other work.
        """
        if self._holding is None:
            yield
            return
        with torch.cuda.stream(self._holding):
            yield

    def images(self, data: Sequence[Encoded | None], spec: ImageSpec) -> list[Tensor | RowError]:
        """Each file as uint8 (C, h, w), C = 3 for mode RGB and 1 for L, or the reason why it is set aside.

        They are on the device, except those that the CPU decoded. Call it inside `working`. Raises JobError where the
        device's memory is too small for a single image.
        """
        images: dict[int, Tensor] = {}
        for channels, rows in self._rows_for_device(data, spec).items():
            for rows_at_once in _parts(rows):
                self._run(data, rows_at_once, channels, spec, images)
        return [images[i] if i in images else _on_processor(file, spec) for i, file in enumerate(data)]

    def _rows_for_device(self, data: Sequence[Encoded | None], spec: ImageSpec) -> dict[int, list[tuple[int, int]]]:
        """(row, pixels) by the number of channels to decode to. Grey is expanded to three channels after resizing."""
        rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for row, file in enumerate(data):
            frame = frame_for_device(file, spec)
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
        images: dict[int, Tensor],
    ) -> None:
        """Put the images of some rows into `images`; where memory runs out, half of the rows at a time."""
        try:
            images.update(self._sized(data, rows, channels, spec))
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
        self._run(data, rows[:half], channels, spec, images)
        self._run(data, rows[half:], channels, spec, images)

    def _sized(
        self, data: Sequence[Encoded | None], rows: Sequence[int], channels: int, spec: ImageSpec
    ) -> dict[int, Tensor]:
        """The images of some rows, decoded and resized, by row. Rows that the device refuses are left out."""
        files = [file_bytes for row in rows if (file_bytes := data[row]) is not None]
        decoded = self._decoded([buffer_of(file_bytes) for file_bytes in files], channels)
        by_size: dict[torch.Size, list[tuple[int, Tensor]]] = defaultdict(list)
        for row, file, stored in zip(rows, files, decoded, strict=True):
            if stored is not None:
                image = turned(stored, _orientation(file, spec))
                by_size[image.shape].append((row, image))
        sized: dict[int, Tensor] = {}
        for same_size in by_size.values():
            for (row, _), image in zip(same_size, to_size([image for _, image in same_size], spec), strict=False):
                sized[row] = image.expand(TORCHVISION_MODE[spec.mode], -1, -1)
        return sized

    def _decoded(self, files: list[Tensor], channels: int) -> list[Tensor | None]:
        """Each file decoded, None where it is refused. A failed call does not tell which file failed, so the halves are
        decoded separately."""
        self._wait_for_own()
        try:
            return list(self._decode(files, channels, self.device))
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
                raise
            if _tells_of_memory(str(error)):
                raise torch.OutOfMemoryError(str(error)) from None
        if self.device.type == "cuda":  # the other files of the call may still be being written
            torch.cuda.synchronize(self.device)
        if len(files) == 1:
            return [None]
        half = len(files) // 2
        return self._decoded(files[:half], channels) + self._decoded(files[half:], channels)

    def _wait_for_own(self) -> None:
        """Wait for this thread's own work: it may still read memory that the thread freed, and the decoder would not
        wait for it."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


def to_size(images: Sequence[Tensor], spec: ImageSpec) -> Sequence[Tensor]:
    """Images uint8 (C, H, W), all of one size, resized and cropped as the job says: uint8 (C, h, w) each.

    The same as torchvision's v2 transforms on a GPU, which resize bytes as float32. Empty where the device cannot
    resize between such sizes.
    """
    sized: Sequence[Tensor] = images
    height, width = images[0].shape[-2:]
    target_size = (height, width) if spec.resize is None else resized(height, width, spec.resize)
    if target_size != (height, width):
        batch = _resized(images, target_size, spec)
        if batch is None:
            return []
        sized = batch.unbind(0)
    if spec.crop is None:
        return sized
    return [cropped(image, spec.crop, spec.crop_offset) for image in sized]


def _resized(images: Sequence[Tensor], size: tuple[int, int], spec: ImageSpec) -> Tensor | None:
    """The images as one batch uint8 (n, C, h, w); None where the device cannot resize between such sizes."""
    smooth = spec.interpolation in ("bilinear", "bicubic")
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.float32, device=images[0].device)
    for slot, image in zip(batch, images, strict=True):
        slot.copy_(image)
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
    """Rows, from (row, pixels), in groups of at most PIXELS_AT_ONCE pixels, or of one row."""
    batch: list[int] = []
    total = 0
    for row, count in rows:
        if batch and total + count > PIXELS_AT_ONCE:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += count
    if batch:
        yield batch


def _tells_of_memory(text: str) -> bool:
    """Whether an error of nvJPEG, or of CUDA inside it, is a lack of memory: status 5 is the allocator's."""
    first_line = text.strip().splitlines()[0] if text.strip() else ""
    return "out of memory" in text or first_line.endswith(": 5")
