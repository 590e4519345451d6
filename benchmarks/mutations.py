"""Ways in which the bytes of media files go wrong.

A mutation takes a source of chance, the bytes of a file and those of another one, and returns the
spoilt bytes, or None where the file has nothing of the kind it spoils.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from random import Random

HEAD = 2048  # bytes, within which most formats tell what follows
ABSURD = (65_520, 16_128, 12_288)  # pixels a side: beyond FFmpeg's own limit, just below it, and 12K

HIGH_PROFILES = {100, 110, 122, 244}  # of H.264, whose parameters say more

Mutation = Callable[[Random, bytes, bytes], bytes | None]


# Bytes that are wrong.


def flipped(random: Random, data: bytes, first: int, stop: int, bits: int) -> bytes | None:
    if stop <= first:
        return None
    spoilt = bytearray(data)
    for _ in range(bits):
        spoilt[random.randrange(first, stop)] ^= 1 << random.randrange(8)
    return bytes(spoilt)


def few_flips(random: Random, data: bytes, other: bytes) -> bytes | None:
    return flipped(random, data, 0, len(data), random.randint(1, 8))


def many_flips(random: Random, data: bytes, other: bytes) -> bytes | None:
    return flipped(random, data, 0, len(data), max(10, len(data) // random.choice([50, 200, 1000])))


def flips_in_head(random: Random, data: bytes, other: bytes) -> bytes | None:
    return flipped(random, data, 0, min(HEAD, len(data)), random.randint(1, 30))


def flips_in_payload(random: Random, data: bytes, other: bytes) -> bytes | None:
    return flipped(random, data, HEAD, len(data) - HEAD, random.randint(1, 200))


def flips_in_moov(random: Random, data: bytes, other: bytes) -> bytes | None:
    start, size = _moov(data)
    return flipped(random, data, start + 8, start + size, random.randint(1, 20))


def extreme_numbers(random: Random, data: bytes, other: bytes) -> bytes | None:
    """A few numbers of the head, or of where an MP4 keeps its tables, become the largest or smallest there are."""
    start, size = _moov(data)
    first, stop = (start + 8, start + size) if size else (8, min(HEAD, len(data)))
    if stop - first < 8:
        return None
    spoilt = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at, width = random.randrange(first, stop - 4), random.choice([2, 4])
        spoilt[at : at + width] = random.choice([b"\xff", b"\x00", b"\x7f", b"\x80"]) * width
    return bytes(spoilt)


def hole(random: Random, data: bytes, other: bytes) -> bytes | None:
    start = random.randrange(len(data))
    size = random.randint(1, max(1, len(data) // 4))
    return data[:start] + bytes(min(size, len(data) - start)) + data[start + size :]


# Bytes that are missing or too many.


def truncated(random: Random, data: bytes, other: bytes) -> bytes | None:
    return data[: random.randrange(1, len(data))]


def truncated_head(random: Random, data: bytes, other: bytes) -> bytes | None:
    return data[: random.randint(1, min(300, len(data)))]


def empty(random: Random, data: bytes, other: bytes) -> bytes | None:
    return b""


def cut_out(random: Random, data: bytes, other: bytes) -> bytes | None:
    start = random.randrange(len(data))
    return data[:start] + data[start + random.randint(1, max(1, len(data) // 4)) :]


def doubled(random: Random, data: bytes, other: bytes) -> bytes | None:
    start = random.randrange(len(data))
    stop = random.randint(start, len(data))
    return data[:stop] + data[start:]


def spliced(random: Random, data: bytes, other: bytes) -> bytes | None:
    return data[: random.randrange(1, len(data))] + other[random.randrange(len(other)) :]


def garbage_appended(random: Random, data: bytes, other: bytes) -> bytes | None:
    return data + random.randbytes(random.randint(1, 50_000))


def repeated_moov(random: Random, data: bytes, other: bytes) -> bytes | None:
    start, size = _moov(data)
    if not size:
        return None
    moov = data[start : start + size]
    return moov + data if random.random() < 0.5 else data + moov * random.randint(1, 3)


def without_a_stream(random: Random, data: bytes, other: bytes) -> bytes | None:
    """One track of an MP4, or all of them, is called free space."""
    tracks = [at for at in _places(data, b"trak") if _moov(data)[0] < at]
    if not tracks:
        return None
    spoilt = bytearray(data)
    for at in random.choice([tracks, [random.choice(tracks)]]):
        spoilt[at : at + 4] = b"free"
    return bytes(spoilt)


MAGICS = (
    b"\0\0\0\x1cftypisom\0\0\2\0isomiso2mp41",
    b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\xff\xff\xff\xffmoov",
    b"\x1a\x45\xdf\xa3\x93\x42\x82\x88matroska\x42\x87\x81\x04\x42\x85\x81\x02\x18\x53\x80\x67\x01" + b"\xff" * 7,
    b"RIFF\xff\xff\xff\x7fAVI LIST\xc0\0\0\0hdrlavih8\0\0\0",
    b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\xff\xff\xff\x7f",
    b"OggS\0\2\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\1\x13OpusHead",
    b"fLaC\0\0\0\x22\x10\0\x10\0",
    b"GIF89a\xff\xff\xff\xff\xf7\0\0",
    b"FLV\1\5\0\0\0\x09\0\0\0\0",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c",
    b"\0\0\1\xba\x44\0\4\0\4\1\x01\x89\xc3\xf8\0\0\1\xe0",
    b"\0\0\0\1\x67\x42\xc0\x1e",
    b"ID3\4\0\0\0\0\0\0\xff\xfb\x90\0",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\0\0\xff\xff\0\0\x08\2\0\0\0",
)


def random_with_magic(random: Random, data: bytes, other: bytes) -> bytes | None:
    noise = random.choice(MAGICS) + random.randbytes(random.randint(0, 30_000))
    if random.random() < 0.2:  # an MPEG transport stream is known by every 188th byte
        spoilt = bytearray(noise)
        spoilt[::188] = b"\x47" * len(spoilt[::188])
        noise = bytes(spoilt)
    return noise


# Sizes and rates that nobody has.


def absurd_size(random: Random, data: bytes, other: bytes) -> bytes | None:
    """Wherever the format or the codec says how large pictures are, or in one place of those, it says so many."""
    side = random.choice(ABSURD)
    found = [spoilt for claim in SIZE_CLAIMS if (spoilt := claim(data, side)) is not None]
    if not found:
        return None
    if random.random() < 0.5:
        return random.choice(found)
    for claim in SIZE_CLAIMS:
        data = claim(data, side) or data
    return data


def absurd_rate(random: Random, data: bytes, other: bytes) -> bytes | None:
    """A WAV file of 1 Hz, of hundreds of megahertz, or of hundreds of channels."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at = data.find(b"fmt ") + 8
    spoilt = bytearray(data)
    rate = random.choice([0, 1, 99_999_989, 499_999_993, 2**31 - 1, 2**32 - 1])
    struct.pack_into("<HHI", spoilt, at, 1, random.choice([1, 1, 1, 63, 64, 65_535]), rate)
    return bytes(spoilt)


def _replaced(data: bytes, places: list[int], pattern: bytes) -> bytes | None:
    """`pattern` written at all places that have room for it."""
    spoilt = bytearray(data)
    for at in places:
        spoilt[at : at + len(pattern)] = pattern[: max(0, len(data) - at)]
    return bytes(spoilt) if places else None


def _tkhd(data: bytes, side: int) -> bytes | None:
    places = [at + 80 for at in _places(data, b"tkhd") if data[at + 80 : at + 82] != b"\0\0"]
    return _replaced(data, places, struct.pack(">II", side << 16, side << 16))


def _stsd(data: bytes, side: int) -> bytes | None:
    places = [at + 28 for kind in (b"avc1", b"mp4v") for at in _places(data, kind) if data[at + 4 : at + 8] == bytes(4)]
    return _replaced(data, places, struct.pack(">HH", side, side))


def _matroska(data: bytes, side: int) -> bytes | None:
    """PixelWidth and PixelHeight; where they have one byte each, not quite absurd ones."""
    if not data.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    size = struct.pack(">H", side)
    spoilt = re.sub(rb"\xb0\x81.\xba\x81.", b"\xb0\x81\xff\xba\x81\xff", data, flags=re.DOTALL)
    spoilt = re.sub(
        rb"\xb0\x82..\xba\x82..", lambda _: b"\xb0\x82" + size + b"\xba\x82" + size, spoilt, flags=re.DOTALL
    )
    return spoilt if spoilt != data else None


def _avi(data: bytes, side: int) -> bytes | None:
    if data[8:12] != b"AVI ":
        return None
    places = [at + 12 for at in _places(data, b"strf(\0\0\0")]
    return _replaced(data, places, struct.pack("<ii", side, side))


def _jpeg(data: bytes, side: int) -> bytes | None:
    places = [at + 5 for at in _places(data, b"\xff\xc0\x00\x11\x08")]
    return _replaced(data, places, struct.pack(">HH", side, side))


def _vp8(data: bytes, side: int) -> bytes | None:
    places = [at + 3 for at in _places(data, b"\x9d\x01\x2a")]  # what every key frame begins with
    return _replaced(data, places, struct.pack("<HH", min(side, 0x3FFF), min(side, 0x3FFF)))


def _gif(data: bytes, side: int) -> bytes | None:
    if not data.startswith(b"GIF8"):
        return None
    frames = [at + 5 for at in _places(data, b"\x2c\0\0\0\0")]
    return _replaced(data, [6, *frames], struct.pack("<HH", side, side))


def _png(data: bytes, side: int) -> bytes | None:
    places = [at + 4 for at in _places(data, b"IHDR")]
    return _replaced(data, places, struct.pack(">II", side, side))


def _h264(data: bytes, side: int) -> bytes | None:
    """The size in the first sequence parameter set of avcC, whose length the boxes around it do not let grow."""
    at = data.find(b"avcC")
    if at < 0:
        return None
    start, size = at + 12, int.from_bytes(data[at + 10 : at + 12], "big")
    room = data[start : start + size]
    if len(room) < 8:
        return None
    return data[:start] + resized_sps(room, side // 16, side // 16)[:size].ljust(size, b"\0") + data[start + size :]


SIZE_CLAIMS = (_tkhd, _stsd, _matroska, _avi, _jpeg, _vp8, _gif, _png, _h264)


def resized_sps(sps: bytes, columns: int, rows: int) -> bytes:
    """An H.264 sequence parameter set (7.3.2.1.1), without a scaling matrix, with its size in macroblocks changed."""
    bits = "".join(f"{byte:08b}" for byte in sps)
    at = 32  # the NAL unit's header, profile, constraints, level
    at = _after_number(bits, at)  # seq_parameter_set_id
    if sps[1] in HIGH_PROFILES:
        for _ in range(3):  # chroma_format_idc, bit_depth_luma_minus8, bit_depth_chroma_minus8
            at = _after_number(bits, at)
        at += 2  # qpprime_y_zero_transform_bypass_flag, seq_scaling_matrix_present_flag
    at = _after_number(bits, at)  # log2_max_frame_num_minus4
    kind = _number(bits, at)  # pic_order_cnt_type
    at = _after_number(bits, at)
    at = _after_number(bits, at) if kind == 0 else at  # log2_max_pic_order_cnt_lsb_minus4
    at = _after_number(bits, at) + 1  # max_num_ref_frames, gaps_in_frame_num_value_allowed_flag
    rest = _after_number(bits, _after_number(bits, at))
    bits = bits[:at] + _coded(columns - 1) + _coded(rows - 1) + bits[rest:]
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _number(bits: str, at: int) -> int:
    """An unsigned Exp-Golomb number (9.1)."""
    zeros = bits.index("1", at) - at
    return int(bits[at + zeros : at + 2 * zeros + 1], 2) - 1


def _after_number(bits: str, at: int) -> int:
    return at + 2 * (bits.index("1", at) - at) + 1


def _coded(number: int) -> str:
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _moov(data: bytes) -> tuple[int, int]:
    """Where an MP4's moov box starts, and its size; 0, 0 if there is none."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"moov":
            return at, min(size, len(data) - at)
        if size < 8:
            break
        at += size
    return 0, 0


def _places(data: bytes, pattern: bytes) -> list[int]:
    places, at = [], data.find(pattern)
    while at >= 0:
        places.append(at)
        at = data.find(pattern, at + 1)
    return places


MUTATIONS: dict[str, Mutation] = {
    "few bit flips": few_flips,
    "many bit flips": many_flips,
    "flips in the head": flips_in_head,
    "flips in the payload": flips_in_payload,
    "flips in moov": flips_in_moov,
    "extreme numbers": extreme_numbers,
    "a hole of zeros": hole,
    "truncated": truncated,
    "truncated head": truncated_head,
    "empty": empty,
    "a piece cut out": cut_out,
    "a piece doubled": doubled,
    "two files spliced": spliced,
    "garbage appended": garbage_appended,
    "moov repeated": repeated_moov,
    "a stream missing": without_a_stream,
    "random with a magic": random_with_magic,
    "absurd size": absurd_size,
    "absurd rate": absurd_rate,
}
