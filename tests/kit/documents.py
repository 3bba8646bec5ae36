"""Documents that viewers show: a PDF and a picture, each filled with one colour."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

PDF_COLOUR, PICTURE_COLOUR = 0x2266BB, 0x229955


def write_pdf(path: Path, colour: int = PDF_COLOUR) -> None:
    """Write a PDF of one page that is filled with a colour (0xRRGGBB)."""
    red, green, blue = (part / 255 for part in colour.to_bytes(3, "big"))
    drawing = b"%.4f %.4f %.4f rg 0 0 400 300 re f" % (red, green, blue)
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 300] /Contents 4 0 R >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawing), drawing),
    )
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"xref\n0 5\n0000000000 65535 f \n%strailer\n" % table
    end = len(data) - len(table) - len(b"xref\n0 5\n0000000000 65535 f \ntrailer\n")
    data += b"<< /Size 5 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % end
    path.write_bytes(data)


def write_picture(path: Path, colour: int = PICTURE_COLOUR) -> None:
    """Write a picture of one colour, as its name says (PNG, JPEG)."""
    Image.new("RGB", (400, 300), tuple(colour.to_bytes(3, "big"))).save(path)
