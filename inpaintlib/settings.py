"""Settings of a method: each field has a default and says what will do; what will not is one clear sentence."""

import math
from collections.abc import Iterable
from dataclasses import field, fields

from inpaintlib import BadInput


def one_of(default: str, choices: Iterable[str] = ()) -> str:
    """A field that takes one of some words; they are the default and those of ``choices``."""
    words = tuple(dict.fromkeys([default, *choices]))
    right = " or ".join([", ".join(words[:-1]), words[-1]])
    return field(default=default, metadata={"ok": words.__contains__, "right": right, "choices": words})


def number(default: float, least: float = 0, above: float | None = None, below: float = math.inf, unit: str = "",
           infinite: bool = False):  # fmt: skip
    """A field that takes a number of at least ``least``, or above ``above``, and below ``below``; ``infinite``: inf
    will do, too. Only whole numbers will do where the default is one."""
    whole = isinstance(default, int)
    right = f"a {'whole ' * whole}number {f'of at least {least:g}' if above is None else f'above {above:g}'}"
    right += f" and below {below:g}" * (below < math.inf) + f" {unit}" * bool(unit) + ", or inf" * infinite

    def ok(value) -> bool:
        high_enough = value >= least if above is None else value > above
        return high_enough and (value < below or infinite) and (not whole or isinstance(value, int))

    return field(default=default, metadata={"ok": ok, "right": right})


def power_of_two(default: int, least: int) -> int:
    """A field that takes a side in px: a power of two of at least ``least``."""
    return field(default=default, metadata={"ok": lambda n: n >= least and n & (n - 1) == 0,
                                            "right": f"a power of two of at least {least} px"})  # fmt: skip


class Checked:
    """Base of frozen dataclasses whose fields are made by the functions above. BadInput for a value that won't do."""

    def __post_init__(self):
        for each in fields(self):
            if each.metadata:
                self.require(each.name, each.metadata["ok"](getattr(self, each.name)), each.metadata["right"])

    def require(self, name: str, ok: bool, right: str) -> None:
        """BadInput unless ``ok``, saying which field is wrong and what would be right."""
        if not ok:
            raise BadInput(f"{name}: {getattr(self, name)!r} will not do; it must be {right}")
