"""Finding one's way in a box of controls."""


def walk(box):
    """The box and everything in it, from the top."""
    yield box
    for child in getattr(box, "children", ()):
        yield from walk(child)


def field(box, label):
    """The control with this label."""
    return next(widget for widget in walk(box) if getattr(widget, "description", None) == label)
