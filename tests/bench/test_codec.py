import io

import pytest
import torch
from PIL import Image

from bench.codec import decoded, png, through_jpeg


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_without_loss(channels):
    images = torch.randint(
        0, 256, (3, channels, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(decoded([png(image) for image in images]), images)


def test_jpeg_is_pillows_at_quality_90():
    images = torch.randint(
        0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
    )
    found = through_jpeg(images)
    buffer = io.BytesIO()
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(buffer, format="JPEG", quality=90)
    assert torch.equal(found[0], decoded([buffer.getvalue()])[0])
    assert not torch.equal(found, images)
    assert float((through_jpeg(images, 100).float() - images).abs().mean()) < float(
        (found.float() - images).abs().mean()
    )
