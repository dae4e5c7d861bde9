import ast
import io
import itertools
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import bench
from bench.codec import as_rgb, check_picture, decoded, png, read_picture, through_jpeg
from bench.errors import DataError
from bench.files.complete import check_rows


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_without_loss(channels):
    images = torch.randint(
        0, 256, (3, channels, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(decoded([png(image) for image in images], (7, 9)), images)


def test_jpeg_is_pillows_at_quality_90():
    images = torch.randint(
        0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    found = through_jpeg(images)
    buffer = io.BytesIO()
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(buffer, format="JPEG", quality=90)
    assert torch.equal(found[0], decoded([buffer.getvalue()], (16, 16))[0])
    assert not torch.equal(found, images)
    assert float((through_jpeg(images, 100).float() - images).abs().mean()) < float(
        (found.float() - images).abs().mean()
    )


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"


def test_only_the_formats_that_are_meant_are_asked(monkeypatch):
    from PIL import EpsImagePlugin

    def never(*arguments, **options):
        raise AssertionError("Ghostscript was started")

    assert Image.open(io.BytesIO(EPS)).format == "EPS", "Pillow alone would take it"
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    gif = encoded(Image.new("L", (4, 4)), "GIF")
    for data in (EPS, gif):
        with pytest.raises(DataError, match="expected PNG or JPEG"):
            decoded([data], (4, 4))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        pytest.param(encoded(Image.new("RGBA", (4, 4))), "mode RGBA", id="alpha"),
        pytest.param(encoded(Image.new("P", (4, 4))), "mode P", id="palette"),
        pytest.param(encoded(Image.new("I;16", (4, 4))), "mode I;16", id="sixteen-bits"),
        pytest.param(encoded(Image.new("RGB", (5, 4))), "5x4 pixels, expected 4x4", id="size"),
        pytest.param(encoded(Image.new("L", (4, 4))), "gray and RGB", id="channels"),
        pytest.param(encoded(Image.new("RGB", (4, 4)))[:40], "not a picture", id="cut"),
        pytest.param(b"", "not a picture", id="empty"),
    ],
)
def test_saved_pictures_that_are_refused(data, match):
    good = encoded(Image.new("RGB", (4, 4)))
    with pytest.raises(DataError, match=match):
        decoded([good, data], (4, 4))


def raw_png(width, height, packed, *, interlaced=0, parts=1):
    """An RGB PNG with any data, in so many chunks."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    cuts = [place * len(packed) // parts for place in range(parts + 1)]
    data = [chunk(b"IDAT", packed[cut:end]) for cut, end in itertools.pairwise(cuts)]
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *data, chunk(b"IEND", b"")])


def bomb(width, height):
    """A PNG of a few hundred bytes that claims any size."""
    return raw_png(width, height, zlib.compress(bytes(100_000)))


@pytest.mark.parametrize("interlaced", [0, 1], ids=["row-by-row", "interlaced"])
def test_a_png_with_too_few_rows_is_refused(interlaced):
    """Pillow decodes it, and leaves what is missing black."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    grids = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    grids = grids if interlaced else [(0, 0, 1, 1)]
    for black in (False, True):
        pixels[-1] *= not black
        passes = [pixels[top::down, left::across] for top, left, down, across in grids]
        rows = [b"\0" + row.tobytes() for one in passes if one.size for row in one]
        for parts in (1, 3):
            whole = raw_png(7, 9, zlib.compress(b"".join(rows)), interlaced=interlaced, parts=parts)
            assert np.array_equal(np.asarray(read_picture(whole, ("PNG",), (7, 9))), pixels)
            short = zlib.compress(b"".join(rows[:-1]))
            short = raw_png(7, 9, short, interlaced=interlaced, parts=parts)
            with pytest.raises(DataError, match="fewer rows than its head says"):
                read_picture(short, ("PNG",), (7, 9))


@pytest.mark.parametrize("noisy", [False, True], ids=["black", "noise"])
def test_rows_are_counted_in_little_memory(noisy):
    """What is still packed is not copied over and over either, in a single large chunk."""
    rows = 1_000 * (1 + 1_000 * 3)
    raw = np.random.default_rng(0).bytes(rows) if noisy else bytes(rows)
    data = raw_png(1_000, 1_000, zlib.compress(raw, 1))
    tracemalloc.start()
    check_rows(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**19


JPEGS = {
    "plain": {},
    "own-codes": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "full-chroma": {"subsampling": 0},
}


def scene(width, height, mode="RGB"):
    """A picture like a photograph: smooth, and noisy."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(width).normal(0, 8, (height, width, 3))
    pixels = np.stack([3 * x, 2 * y, x + y], axis=-1) % 200 + 20 + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_with_too_few_blocks_is_refused(options):
    """Pillow decodes it where an end mark follows, and repeats the last color."""
    for width, height in ((33, 40), (40, 33), (48, 48), (62, 61)):
        data = encoded(scene(width, height), "JPEG", **options)
        assert read_picture(data, ("JPEG",), (width, height)).size == (width, height)
        first = data.index(b"\xff\xda") + 20  # of the coded data
        for cut in (first, (first + len(data)) // 2, len(data) - 12, len(data) - 6):
            short = data[:cut].rstrip(b"\xff") + b"\xff\xd9"
            with pytest.raises(DataError, match=r"fewer blocks than|truncated|broken"):
                read_picture(short, ("JPEG",), None)


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_jpeg_whose_head_claims_more_rows_is_refused(options):
    data = encoded(scene(32, 32), "JPEG", **options)
    frame = data.index(b"\xff\xc2" if "progressive" in options else b"\xff\xc0")
    taller = data[: frame + 5] + struct.pack(">H", 64) + data[frame + 7 :]
    with pytest.raises(DataError, match="fewer blocks than its head says"):
        read_picture(taller, ("JPEG",), None)


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
def test_a_whole_jpeg_is_read(options):
    for side in (*range(1, 20), 32):
        for mode in ("L", "RGB", "CMYK"):
            for picture in (scene(side, 21, mode), Image.new(mode, (side, 21))):
                data = encoded(picture, "JPEG", **options)
                for more in (b"", b"\n", data):  # what lies behind the end mark is not the picture
                    assert read_picture(data + more, ("JPEG",), None).size == (side, 21)


def strips(count, rows=4):
    """A gray TIFF of 8x8 pixels, of which `count` strips are there."""
    tags = [(256, 3, [8]), (257, 3, [8]), (258, 3, [8]), (262, 3, [1]), (277, 3, [1])]
    tags += [(273, 4, [8 + i * 8 * rows for i in range(count)]), (278, 3, [rows])]
    return packed_tiff([*tags, (279, 4, [8 * rows] * count)], bytes(range(100, 164)))


def test_a_tiff_without_some_of_its_strips_is_refused():
    for rows in (1, 2, 3, 4, 8, 9):
        wanted = -(-8 // rows)
        if 8 % rows == 0:
            read = read_picture(strips(wanted, rows), ("TIFF",), None)
            assert np.asarray(read).ravel().tolist() == list(range(100, 164))
        for count in range(1, wanted):
            with pytest.raises(DataError, match="fewer strips or tiles than its head says"):
                read_picture(strips(count, rows), ("TIFF",), None)


def test_damage_inside_a_tiff_is_refused_or_told():
    data = encoded(scene(400, 40), "TIFF", compression="jpeg")
    tags = Image.open(io.BytesIO(data), formats=["TIFF"]).tag_v2
    read_picture(data, ("TIFF",), None)
    for rows in (8, 16, 24):
        striped = encoded(scene(40, 37), "TIFF", compression="jpeg", tiffinfo={278: rows})
        assert len(read_picture(striped, ("TIFF",), None).tag_v2[273]) == -(-37 // rows)
    place, size = tags[273][0], tags[279][0]
    short = data[: place + size // 2] + b"\xff\xd9" + data[place + size // 2 + 2 :]
    with pytest.raises(DataError, match="fewer blocks than its head says"):
        read_picture(short, ("TIFF",), None)
    frame = data.index(b"\xff\xc0", place) + 5
    for height, said in ((65_000, "larger than the picture"), (39, "smaller than its head")):
        larger = data[:frame] + struct.pack(">H", height) + data[frame + 2 :]
        with pytest.raises(DataError, match=said):
            read_picture(larger, ("TIFF",), None)
    with pytest.raises(DataError, match="compressed for fax"):
        read_picture(encoded(scene(40, 40, "1"), "TIFF", compression="group4"), ("TIFF",), None)


def test_a_black_png_is_read():
    packed = zlib.compress(bytes(30 * 91))
    assert not np.asarray(read_picture(raw_png(30, 30, packed), ("PNG",), None)).any()


@pytest.mark.parametrize("side", [8_200, 9_000, 12_000, 60_000], ids=str)
def test_a_bomb_is_refused_before_a_pixel_is_decoded(side, monkeypatch):
    def never(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    with pytest.raises(DataError, match=r"more than|exceeds limit"):
        read_picture(bomb(side, side), ("PNG",), None)
    with pytest.raises(DataError, match=r"expected 32x32|exceeds limit"):
        read_picture(bomb(side, side), ("PNG",), (32, 32))
    with pytest.raises(DataError, match=r"expected 32x32|exceeds limit"):
        check_picture(bomb(side, side), ("PNG",), (32, 32))


def test_a_head_that_is_there_twice_is_judged_by_what_would_be_decoded(monkeypatch):
    """Pillow takes the size from the last head before the pixels."""
    small, large = bomb(4, 4), bomb(300, 300)
    twice = small[:33] + large[8:]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: None)
    for read in (read_picture, check_picture):
        with pytest.raises(DataError, match="300x300 pixels, expected 4x4"):
            read(twice, ("PNG",), (4, 4))


def test_a_plain_png_is_told_by_its_head_alone(monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *arguments, **options: 1 / 0)
    plain = encoded(Image.new("RGB", (40, 30)))
    check_picture(plain, ("PNG",), (40, 30))
    for data, size in ((plain, (30, 40)), (plain + b"IHDR", (40, 30)), (plain[4:], (40, 30))):
        with pytest.raises(DataError, match=r"division"):
            check_picture(data, ("PNG",), size)


def test_a_picture_has_at_most_the_pixels_that_are_asked_for(monkeypatch):
    data = encoded(Image.new("RGB", (40, 30)))
    assert read_picture(data, ("PNG",), None, 1200).size == (40, 30)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: 1 / 0)
    with pytest.raises(DataError, match="40x30 pixels, more than the 1,199"):
        read_picture(data, ("PNG",), None, 1199)


ANY_SIZE = {"bench/datasets/folder.py", "reports/html/pictures.py", "reports/notebook.py"}
"""Where pictures of people are read, whose size nobody knows, and where they are only shown."""


def test_whoever_knows_the_size_says_it():
    home = Path(bench.__file__).parent.parent
    found = {
        path.relative_to(home).as_posix()
        for folder in ("bench", "reports")
        for path in (home / folder).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith("read_picture")
        and ast.unparse(call.args[2]) == "None"
    }
    assert found == ANY_SIZE


GRAY = np.array([[0, 64], [128, 255]], dtype=np.uint8)


def with_alpha(mode):
    picture = Image.fromarray(GRAY).convert(mode)
    picture.putalpha(Image.fromarray(255 - GRAY))
    return picture


def palette(transparency):
    picture = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 3]))
    picture.putpalette([value for level in (0, 64, 128, 255) for value in (level,) * 3])
    return encoded(picture, transparency=transparency)


def tiff(data, bits, photometric, *more):
    """A gray TIFF of 2x2 pixels, one strip, little-endian, uncompressed."""
    tags = [(256, 2), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1)]
    tags = sorted([*tags, (278, 2), (279, len(data)), *more])
    place = 8 + 2 + 12 * len(tags) + 4
    table = b"".join(
        struct.pack("<HHII", tag, 4, 1, place if tag == 273 else value) for tag, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4) + data


def of_12_bits(picture):
    """Rows of 2 pixels in 3 bytes."""
    rows = picture.astype(np.uint32) * 16 + 5
    packed = (rows[:, 0] << 12) | rows[:, 1]
    return b"".join(int(row).to_bytes(3, "big") for row in packed)


CONVERTED = {
    "gray": encoded(Image.fromarray(GRAY)),
    "gray-alpha": encoded(with_alpha("LA")),
    "color-alpha": encoded(with_alpha("RGBA")),
    "palette": encoded(Image.fromarray(GRAY).convert("P")),
    "palette-one-transparent": palette(1),
    "palette-transparent-bytes": palette(b"\x00\x80\xff\x10"),
    "sixteen-bits": encoded(Image.fromarray(GRAY.astype(np.uint16) * 257)),
    "sixteen-bits-low-byte": encoded(Image.fromarray(GRAY.astype(np.uint16) * 256 + 90)),
    "sixteen-bits-tiff": encoded(Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF"),
    "sixteen-bits-tiff-white-is-0": tiff((65535 - GRAY.astype("<u2") * 257).tobytes(), 16, 0),
    "eight-bits-tiff-white-is-0": tiff((255 - GRAY).tobytes(), 8, 0),
    "twelve-bits-tiff": tiff(of_12_bits(GRAY), 12, 1),
    "turned-tiff": tiff(GRAY[::-1, ::-1].tobytes(), 8, 1, (274, 3)),
    "sixteen-bits-pgm": b"P5 2 2 65535\n" + (GRAY.astype(">u2") * 257).tobytes(),
    "webp": encoded(Image.fromarray(GRAY).convert("RGB"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("data", CONVERTED.values(), ids=CONVERTED)
def test_every_mode_becomes_the_same_rgb(data):
    picture = as_rgb(read_picture(data, ("PNG", "TIFF", "PPM", "WEBP"), None))
    assert picture.mode == "RGB"
    assert np.array_equal(np.asarray(picture), np.repeat(GRAY[:, :, None], 3, axis=2))


def test_one_bit_and_cmyk():
    bits = encoded(Image.fromarray(GRAY).convert("1", dither=Image.Dither.NONE))
    assert np.asarray(as_rgb(read_picture(bits, ("PNG",), None))).max() == 255
    ink = encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=95)
    assert (
        np.abs(
            np.asarray(as_rgb(read_picture(ink, ("JPEG",), None))).astype(int) - [0, 255, 255]
        ).max()
        < 8
    )


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_modes_without_an_8_bit_value_are_refused_by_name(mode):
    data = encoded(Image.new(mode, (4, 4)), "TIFF")
    with pytest.raises(DataError, match=f"mode {mode}, which has no defined 8-bit value"):
        as_rgb(read_picture(data, ("TIFF",), None))


def test_signed_samples_are_no_unsigned_ones():
    signed = tiff((GRAY.astype(int) - 128).astype(np.int8).tobytes(), 8, 1, (339, 2))
    with pytest.raises(DataError, match="mode L with signed samples, which has no defined 8-bit"):
        as_rgb(read_picture(signed, ("TIFF",), None))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def color_tiff(bits, *more):
    """A TIFF of 2x2 pixels with its colors one after the other."""
    tags = [(256, 3, [2]), (257, 3, [2]), (258, 3, [bits] * 3), (262, 3, [2]), (277, 3, [3])]
    size = 4 * bits // 8
    tags += [(273, 4, [8, 8 + size, 8 + 2 * size]), (278, 3, [2]), (279, 4, [size] * 3)]
    return packed_tiff([*tags, (284, 3, [2])], bytes(range(3 * size)))


def packed_tiff(tags, data):
    """A little-endian, uncompressed TIFF of tags of (number, kind, values)."""
    first = 8 + len(data) + len(data) % 2
    place = first + 2 + 12 * len(tags) + 4
    table, beyond = b"", b""
    for tag, kind, values in sorted(tags):
        packed = struct.pack(f"<{len(values)}{'HI'[kind - 3]}", *values)
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", place + len(beyond)), beyond + packed
        table += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", first) + data + bytes(len(data) % 2)
    return head + struct.pack("<H", len(tags)) + table + bytes(4) + beyond


def palette_tiff(scale):
    """A TIFF of 2x2 pixels and a palette of numbers below 256 * scale."""
    tags = [(256, 3, [2]), (257, 3, [2]), (258, 3, [8]), (262, 3, [3]), (277, 3, [1])]
    tags += [(273, 4, [8]), (278, 3, [2]), (279, 4, [4])]
    return packed_tiff(
        [*tags, (320, 3, [level * scale for level in range(256)] * 3)], b"\0\x40\x80\xff"
    )


def palette_png(*colors):
    """A PNG of 2x2 pixels, of the colors 1 to 4."""
    chunks = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 3, 0, 0, 0)),
        *([chunk(b"PLTE", bytes(colors))] if colors else []),
        chunk(b"IDAT", zlib.compress(b"\0\1\2\0\3\4")),
        chunk(b"IEND", b""),
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        pytest.param(color_tiff(16), "16-bit colors one after the other", id="planar-16-bits"),
        pytest.param(palette_tiff(1), "a palette of 8-bit numbers", id="palette-8-bits"),
        pytest.param(palette_png(), "without a palette", id="no-palette"),
        pytest.param(
            palette_png(*range(12)), "of which 4 is not in its palette of 4", id="short-palette"
        ),
    ],
)
def test_pictures_that_pillow_takes_for_others_are_refused(data, said):
    with pytest.raises(DataError, match=said):
        as_rgb(read_picture(data, ("TIFF", "PNG"), None))


def test_planar_colors_and_palettes_are_read():
    picture = np.asarray(as_rgb(read_picture(color_tiff(8), ("TIFF",), None)))
    assert np.array_equal(
        picture, np.arange(12, dtype=np.uint8).reshape(3, 2, 2).transpose(1, 2, 0)
    )
    known = as_rgb(read_picture(palette_png(*range(15)), ("PNG",), None))
    assert np.asarray(known).reshape(4, 3).tolist() == np.arange(3, 15).reshape(4, 3).tolist()
    picture = np.asarray(as_rgb(read_picture(palette_tiff(257), ("TIFF",), None)))
    assert picture[:, :, 0].tolist() == [[0, 0x40], [0x80, 0xFF]]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF", "PPM"])
def test_pictures_cut_short_are_refused_whatever_pillow_was_told(form, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(Image.fromarray(np.repeat(GRAY, 40, axis=0)).convert("RGB"), form)
    with pytest.raises(DataError, match=r"[Tt]runcated"):
        read_picture(data[: len(data) * 2 // 3], (form,), None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES, "and it is left as it was"


def test_orientation_is_not_applied_and_several_pictures_are_refused():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    assert as_rgb(read_picture(turned, ("JPEG",), None)).size == (6, 4)
    pages = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    for form in ("TIFF", "PNG", "WEBP"):
        many = encoded(pages[0], form, save_all=True, append_images=pages[1:])
        with pytest.raises(DataError, match="a file of 2 pictures, expected one"):
            read_picture(many, (form,), None)
    camera = encoded(pages[0], "MPO", save_all=True, append_images=pages[1:])
    assert read_picture(camera, ("JPEG",), None).size == (4, 4), "cameras append a view to a JPEG"


def test_no_module_opens_pictures_past_the_codec():
    import bench

    home = Path(bench.__file__).resolve().parent.parent
    opened = [
        (path.name, line.strip())
        for package in ("bench", "attacks", "targets", "reports")
        for path in (home / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "Image.open(" in line and "formats=" not in line
    ]
    assert opened == []
