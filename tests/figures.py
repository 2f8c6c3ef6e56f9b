"""Checks of figures: their texts, their images, and that no two texts overlap."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text


def texts(figure):
    """Texts that are shown: those of invisible axes and of ticks beyond their axis are not."""
    hidden = set()
    for axes in figure.findobj(Axes):
        if not axes.get_visible():
            hidden.update(axes.findobj(Text))
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    hidden.update((tick.label1, tick.label2))
    return [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


def assert_tidy(figure):
    """Draw the figure; all its texts lie inside it and none covers another."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    assert len(boxes) > 1
    for name, box in boxes:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, f"{name!r} sticks out"
    for (name, box), (other, another) in itertools.combinations(boxes, 2):
        assert not box.overlaps(another), f"{name!r} and {other!r} overlap"


def image(axes):
    return np.asarray(axes.images[-1].get_array())


def titled(figure, title):
    return next(axes for axes in figure.findobj(lambda a: hasattr(a, "get_title")) if axes.get_title() == title)


def pictures_of(axes, count):
    """The images of a strip of `count` square pictures."""
    strip = image(axes)
    side = len(strip)
    stride = (strip.shape[1] - side) // max(count - 1, 1)
    return [strip[:, k * stride : k * stride + side] for k in range(count)]
