"""Archives as a program writes them that does not know gatebench: json, zipfile, and a PNG encoder
of twenty lines. Nothing is imported from the project."""

import hashlib
import json
import struct
import zipfile
import zlib


def png(pixels, depth=8, color=2):
    """A (H, W, C) array as PNG bytes."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def archive(document, files):
    """What is to be written: (submission.json's content, name -> bytes)."""
    return {"submission.json": json.dumps(document).encode(), **files}


def write(path, files):
    """Write name -> bytes as a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return path


def submission(images, target, weights, dataset, threat, **claims):
    """A whole submission of one row: (document, files).

    Args:
        images: id -> (H, W, 3) uint8 array.
        target: label on the board.
        weights: as the board shows them.
        dataset: "NAME:SPLIT".
        threat: as in a plan.
        claims: NAME = {id: number}.
    """
    files, entries = {}, []
    for number, (name, pixels) in enumerate(images.items()):
        data = png(pixels)
        files[f"pictures/{number}.png"] = data
        entries.append(
            {
                "id": name,
                "file": f"pictures/{number}.png",
                "sha256": hashlib.sha256(data).hexdigest(),
                **{claim: values[name] for claim, values in claims.items()},
            }
        )
    document = {
        "schema": 1,
        "who": "A. Stranger, Elsewhere",
        "what": "Margin ascent with a thousand steps.",
        "license": "CC-BY-4.0",
        "paper": "https://example.org/paper",
        "code": "https://example.org/code",
        "board": {"dataset": dataset, "threat": threat},
        "rows": [{"attack": "stranger", "target": target, "weights": weights, "images": entries}],
    }
    return document, files
