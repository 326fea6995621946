"""A hole drawn on a photo with the mouse, in JupyterLab (notebook 92)."""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

MISSING = ("To draw a hole, install the canvas with pip install ipycanvas, and start the kernel again. Until then the "
           "hole is what the parameter mask says.")  # fmt: skip


class Drawing:
    """Strokes of a brush on a photo uint8 (H,W,3): what they cover is the hole.

    ``brush``: width of a stroke, px of the screen; ``width``: of the photo on the screen, px at most;
    ``on_stroke(hole)``: called at the end of each stroke.
    """

    def __init__(self, pixels: np.ndarray, on_stroke: Callable[[np.ndarray], None] | None = None, brush: int = 32,
                 width: int = 640):  # fmt: skip
        self.scale = min(1.0, width / pixels.shape[1])
        self.pixels, self.on_stroke, self.brush = pixels, on_stroke, brush
        self.strokes: list[list[tuple[float, float]]] = []
        self.down, self.canvas = False, None

    @property
    def hole(self) -> np.ndarray:
        """All strokes, bool (H,W) of the photo's size; nothing where there are none."""
        drawn = np.zeros(self.pixels.shape[:2], np.uint8)
        for stroke in self.strokes:
            points = (np.array(stroke + stroke[-1:]) / self.scale).round().astype(np.int32)
            cv2.polylines(drawn, [points[:, None]], False, 1, max(1, round(self.brush / self.scale)))
        return drawn.astype(bool)

    def press(self, x: float, y: float) -> None:
        """The mouse goes down at px (x, y) of the screen."""
        self.down = True
        self.strokes.append([(x, y)])
        self._paint(self.strokes[-1])

    def move(self, x: float, y: float) -> None:
        """The mouse moves; it draws while it is down."""
        if self.down:
            self.strokes[-1].append((x, y))
            self._paint(self.strokes[-1][-2:])

    def release(self, x: float, y: float) -> None:
        """The mouse goes up, or leaves the photo."""
        if self.down and self.on_stroke:
            self.on_stroke(self.hole)
        self.down = False

    def clear(self, *_) -> None:
        """Takes all strokes back."""
        self.strokes.clear()
        self._show()

    def widget(self):
        """The photo to draw on, and a button that clears it; None where ipycanvas is not installed."""
        try:
            from ipycanvas import Canvas
        except ImportError:
            return None
        import ipywidgets

        high, wide = self.pixels.shape[:2]
        self.canvas = Canvas(width=round(wide * self.scale), height=round(high * self.scale))
        self.canvas.layout.width = f"{self.canvas.width}px"
        self.canvas.on_mouse_down(self.press)
        self.canvas.on_mouse_move(self.move)
        self.canvas.on_mouse_up(self.release)
        self.canvas.on_mouse_out(self.release)
        self.canvas.on_client_ready(self._show)
        self._show()
        button = ipywidgets.Button(description="Clear")
        button.on_click(self.clear)
        return ipywidgets.VBox([self.canvas, button])

    def _show(self) -> None:
        """Draws the photo and all strokes anew."""
        if self.canvas:
            small = Image.fromarray(self.pixels).resize((self.canvas.width, self.canvas.height))
            self.canvas.put_image_data(np.asarray(small))
            for stroke in self.strokes:
                self._paint(stroke)

    def _paint(self, points: list[tuple[float, float]]) -> None:
        if self.canvas:
            self.canvas.stroke_style, self.canvas.line_width, self.canvas.line_cap = "white", self.brush, "round"
            self.canvas.stroke_lines([*points, points[-1]] if len(points) > 1 else points * 2)
