"""Settings of a method: each field has a default and says what will do; what will not is one clear sentence.

A field stands once, with the comment on its line for its meaning. The parameters cells of the notebooks are written
from the fields by ``python -m inpaintlib.settings``; a notebook keeps defaults of its own, and says where they differ.
"""

import ast
import importlib
import inspect
import json
import math
import re
from collections.abc import Iterable
from dataclasses import field, fields, is_dataclass
from pathlib import Path

from inpaintlib import ROOT, BadInput

OF_NOTEBOOKS = {"10_context_encoder": "context_encoder", "20_partial_conv": "partial_conv", "30_dcgan": "dcgan",
                "31_latent_search": "latent_search", "40_autoencoder": "autoencoder", "41_medfe": "medfe"}  # fmt: skip


def one_of(default: str, choices: Iterable[str] = ()) -> str:
    """A field that takes one of some words; they are the default and those of ``choices``."""
    words = tuple(dict.fromkeys([default, *choices]))
    right = " or ".join([", ".join(words[:-1]), words[-1]])
    return field(
        default=default, metadata={"ok": words.__contains__, "right": right, "allowed": f"{{{', '.join(words)}}}"}
    )


def number(default: float, least: float = 0, above: float | None = None, below: float = math.inf, unit: str = "",
           infinite: bool = False):  # fmt: skip
    """A field that takes a number of at least ``least``, or above ``above``, and below ``below``; ``infinite``: inf
    will do, too. Only whole numbers will do where the default is one."""
    whole = isinstance(default, int)
    right = f"a {'whole ' * whole}number {f'of at least {least:g}' if above is None else f'above {above:g}'}"
    right += f" and below {below:g}" * (below < math.inf) + f" {unit}" * bool(unit) + ", or inf" * infinite

    def ok(value) -> bool:
        high_enough = value >= least if above is None else value > above
        return high_enough and (value < below or infinite)

    allowed = f"{f'[{least:g}' if above is None else f'({above:g}'}, {below:g}{']' if infinite else ')'}"
    return field(default=default, metadata={"ok": ok, "right": right, "allowed": allowed})


def power_of_two(default: int, least: int) -> int:
    """A field that takes a side in px: a power of two of at least ``least``."""
    return field(default=default, metadata={"ok": lambda n: n >= least and n & (n - 1) == 0,
                                            "right": f"a power of two of at least {least} px",
                                            "allowed": f"[{least}, inf)"})  # fmt: skip


class Checked:
    """Base of frozen dataclasses whose fields are made by the functions above. BadInput for a value that won't do."""

    def __post_init__(self):
        for each in fields(self):
            value, kind = getattr(self, each.name), type(each.default)
            typed = isinstance(value, kind) or (kind is float and isinstance(value, int))
            typed = typed and isinstance(value, bool) == (kind is bool)
            right = each.metadata.get("right", "True or False" if kind is bool else "text")
            self.require(each.name, typed and each.metadata.get("ok", lambda _: True)(value), right)

    def require(self, name: str, ok: bool, right: str) -> None:
        """BadInput unless ``ok``, saying which field is wrong and what would be right."""
        if not ok:
            raise BadInput(f"{name}: {getattr(self, name)!r} will not do; it must be {right}")


def declared(settings: type[Checked], cell: str) -> str:
    """The text of a parameters cell with the lines of all fields written anew: their types, meanings and what is
    allowed, and the settings' own default where the cell has another. Other lines and all values stay."""
    known = {one.name: one for one in fields(settings)}
    source = "".join(inspect.getsource(each) for each in settings.__mro__ if is_dataclass(each))
    meanings = dict(re.findall(r"^    (\w+): \w+ = .*?  # (.*)$", source, re.MULTILINE))
    lines = []
    for line in cell.splitlines():
        name, value = re.match(r"(\w+): \w+ = (.+?)(?=  #|$)", line).groups()
        if one := known.get(name):
            default = one.default if isinstance(one.default, str | bool) else f"{one.default:g}"
            differs = ast.literal_eval(value) != one.default and f"{default}" not in re.split(
                r"[ ,;:]+", meanings[name]
            )
            said = [meanings[name] + f"; the method's: {default}" * differs, one.metadata.get("allowed", "")]
            line = f"{name}: {type(one.default).__name__} = {value}  # {' '.join(said).strip()}"
        lines.append(line)
    return "\n".join(lines)


def parameters_cell(notebook: Path) -> tuple[str, str]:
    """The parameters cell of a run notebook, as it stands and as its method's settings have it."""
    settings = importlib.import_module(f"inpaintlib.methods.{OF_NOTEBOOKS[notebook.stem]}").Settings
    [cell] = [
        cell for cell in json.loads(notebook.read_text())["cells"] if "parameters" in cell["metadata"].get("tags", [])
    ]
    return "".join(cell["source"]), declared(settings, "".join(cell["source"]))


def main() -> None:
    """Writes the parameters cells of all run notebooks."""
    for stem in OF_NOTEBOOKS:
        path = ROOT / "notebooks" / f"{stem}.ipynb"
        content = json.loads(path.read_text())
        for cell in content["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                cell["source"] = parameters_cell(path)[1].splitlines(keepends=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
