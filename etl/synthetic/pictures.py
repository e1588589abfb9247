"""Pictures of the synthetic catalogue: each style is a shape in a color."""

from io import BytesIO

from PIL import Image, ImageDraw

COLORS = 8
SIDE = 96  # pixels
OVERSAMPLING = 4  # drawn in this many times the size, then reduced


def style_picture(style: int) -> bytes:
    """Return a PNG: a disc, ring, square, cross or triangle on white. Styles 0 to 39 differ."""
    size = OVERSAMPLING * SIDE
    image = Image.new("RGB", (size, size), "white")
    pen, color = ImageDraw.Draw(image), f"hsl({360 * (style % COLORS) // COLORS}, 55%, 52%)"
    shape, near, far = style // COLORS % 5, size // 6, size * 5 // 6
    third = (far - near) // 3
    box, inside = (near, near, far, far), (near + third, near + third, far - third, far - third)
    if shape < 2:
        pen.ellipse(box, fill=color)
    if shape == 1:
        pen.ellipse(inside, fill="white")
    if shape == 2:
        pen.rectangle(box, fill=color)
    if shape == 3:
        pen.rectangle((near + third, near, far - third, far), fill=color)
        pen.rectangle((near, near + third, far, far - third), fill=color)
    if shape == 4:
        pen.polygon([(near, far), (far, far), ((near + far) // 2, near)], fill=color)
    content = BytesIO()
    image.resize((SIDE, SIDE)).save(content, "PNG")
    return content.getvalue()
