"""Pictures of the synthetic catalogue's styles: a shape in a colour, so that one sees which are
alike.
"""

from io import BytesIO

from PIL import Image, ImageDraw

COLOURS = 8
SIDE = 96  # pixels
FINE = 4  # times as large while it is drawn


def style_picture(style: int) -> bytes:
    """A PNG: a disc, ring, square, cross or triangle on white; styles below 40 differ."""
    image = Image.new("RGB", (FINE * SIDE, FINE * SIDE), "white")
    pen, colour = ImageDraw.Draw(image), f"hsl({360 * (style % COLOURS) // COLOURS}, 55%, 52%)"
    shape, near, far = style // COLOURS % 5, FINE * SIDE // 6, FINE * SIDE * 5 // 6
    third = (far - near) // 3
    box, inside = (near, near, far, far), (near + third, near + third, far - third, far - third)
    if shape < 2:
        pen.ellipse(box, fill=colour)
    if shape == 1:
        pen.ellipse(inside, fill="white")
    if shape == 2:
        pen.rectangle(box, fill=colour)
    if shape == 3:
        pen.rectangle((near + third, near, far - third, far), fill=colour)
        pen.rectangle((near, near + third, far, far - third), fill=colour)
    if shape == 4:
        pen.polygon([(near, far), (far, far), ((near + far) // 2, near)], fill=colour)
    content = BytesIO()
    image.resize((SIDE, SIDE)).save(content, "PNG")
    return content.getvalue()
