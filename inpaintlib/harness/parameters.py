"""A notebook's parameters: declared once, in its cell tagged ``parameters``, one annotated scalar a line.

The comment gives the unit or meaning, and may end in what is allowed::

    ratio: float = 1000.0  # lambda_rec / lambda_adv [0, inf]
    lr: float = 0.0002  # learning rate of the generator (0, 1)
    norm: str = "l2"  # reconstruction loss {l1, l2}
    tensorboard: bool = True  # write logs to watch (cosmetic)

A square bracket includes the bound and a round one excludes it; braces list the choices; ``a power of two`` is asked
for where the meaning says so; ``(cosmetic)`` marks what cannot change the result and so stays out of the run's
identity, as do ``study`` and ``run_id``, its address.
"""

import ast
import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inpaintlib import BadInput

Scalar = bool | int | float | str

ADDRESS = ("study", "run_id")  # parameters that say where a run is kept, not what it is
TYPES = {"bool": bool, "int": int, "float": float, "str": str}
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
BOUND = r"\s*-?(?:inf|\.?\d[\d.e+-]*)\s*"
RANGE = re.compile(rf"[\[(]{BOUND},{BOUND}[\])]")
CHOICES = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell. ``range`` is the text "[0, inf]", ``choices`` empty for any."""

    name: str
    type: type
    default: Scalar
    help: str = ""
    range: str = ""
    choices: tuple[str, ...] = ()
    cosmetic: bool = False

    def check(self, value: Any) -> Scalar:
        """``value`` in the parameter's type: an int may become a float, "inf" is infinity. Raises BadInput
        for another type, NaN, an integer of more than 64 bits, a value outside the range or not among the choices."""
        if self.type is float and (value in ("inf", "-inf") or (type(value) is int and abs(value) < 2**63)):
            value = float(value)
        if type(value) is not self.type:
            raise BadInput(f"{self.name} must be {WORDS[self.type]}, not {value!r}.")
        if self.type is float and math.isnan(value):
            raise BadInput(f"{self.name} must be a number, not NaN.")
        if self.type is int and not -(2**63) <= value < 2**63:
            raise BadInput(f"{self.name} must fit into 64 bits, not be {value}.")
        if self.range and not _within(value, self.range):
            raise BadInput(f"{self.name} must be {_bounds(self.range)}, not {show(value)}.")
        if "a power of two" in self.help and value & (value - 1):
            raise BadInput(f"{self.name} must be a power of two, not {value}.")
        if self.choices and show(value) not in self.choices:
            raise BadInput(f"{self.name} must be one of {', '.join(self.choices)}, not {show(value)!r}.")
        return value


def remembered(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """``read`` of a file, whose answer is kept for as long as the file does not change."""
    kept = functools.lru_cache(maxsize=8192)(lambda path, changed: read(path))
    return functools.wraps(read)(lambda path: kept(path, path.stat().st_mtime_ns))


def notebook_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, by name and in order.

    Raises BadInput when the file is missing or not a notebook, has no cell tagged ``parameters``, or that cell holds
    anything but annotated scalars, each declared once.
    """
    try:
        return dict(_declared(Path(notebook)))
    except OSError as error:
        raise BadInput(f"there is no notebook {notebook}.") from error


def check(notebook: str | Path, parameters: dict[str, Any]) -> dict[str, Scalar]:
    """All of the notebook's parameters: those given, checked against its declarations, and the others' defaults.

    Raises BadInput for a name that the notebook does not declare (with the nearest that it does), a wrong type
    (a bool is not an int) and a value outside the declared range or choices.
    """
    declared = notebook_parameters(notebook)
    for name in parameters:
        if name not in declared:
            raise BadInput(f"{Path(notebook).name} has no parameter {name!r}{did_you_mean(name, declared)}.")
    return {n: one.check(parameters[n]) if n in parameters else one.default for n, one in declared.items()}


def run_id(notebook: str | Path, parameters: dict[str, Scalar], swept: Iterable[str]) -> str:
    """A readable, file-name-safe name such as ``ratio=100,seed=0-3fa2c1``.

    It shows the ``swept`` parameters in order; its end is the ``digest`` of all.
    """
    shown = ",".join(f"{name}={show(parameters[name])}" for name in swept) or "defaults"
    return f"{re.sub('[^A-Za-z0-9.,=+_-]', '_', shown)[:120]}-{digest(notebook, parameters)}"


def digest(notebook: str | Path, parameters: dict[str, Scalar]) -> str:
    """The ``fingerprint`` of a notebook's complete parameters."""
    return fingerprint(Path(notebook).name, parameters, cosmetics(notebook))


def cosmetics(notebook: str | Path) -> list[str]:
    """Names of the parameters that cannot change the result."""
    return [parameter.name for parameter in notebook_parameters(notebook).values() if parameter.cosmetic]


def fingerprint(notebook: str, parameters: dict[str, Scalar], cosmetic: Iterable[str]) -> str:
    """Six hexadecimal digits that identify a run: SHA-256 over the notebook's name and the parameters, without its
    address and the ``cosmetic`` ones, as canonical JSON."""
    left_out = {*ADDRESS, *cosmetic}
    what = {name: str(v) if v in (math.inf, -math.inf) else v for name, v in parameters.items() if name not in left_out}
    canonical = json.dumps({"notebook": notebook, "parameters": what}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:6]


def show(value: Any) -> str:
    """A value as a reader writes it: 100 for 100.0, inf, true; the values of a list with commas between them."""
    if isinstance(value, list):
        return ",".join(map(show, value))
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def check_folder_name(what: str, name: str) -> str:
    """``name``; raises BadInput where it could not name a folder everywhere."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9=+_-][A-Za-z0-9.,=+_-]*", name):
        raise BadInput(f"{what} must be made of letters, digits and . , = + _ - to name a folder, not {name!r}.")
    return name


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f" (there are: {', '.join(known) or 'none'})"


def _bounds(interval: str) -> str:
    """A range in words: "above 0", "at least 0 and below 1"."""
    low, high = (bound.strip() for bound in interval[1:-1].split(","))
    least = f"{'at least' if interval[0] == '[' else 'above'} {low}" if low != "-inf" else ""
    most = f"{'at most' if interval[-1] == ']' else 'below'} {high}" if high != "inf" else ""
    return " and ".join(filter(None, [least, most])) or "finite"


def _within(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    return (low < value < high) or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")


@remembered
def _declared(notebook: Path) -> dict[str, Parameter]:
    source = _parameters_cell(notebook)
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise BadInput(f"{notebook}: the cell tagged parameters is not valid Python ({error}).") from error
    found = {}
    for node in statements:
        rest_of_line = source.splitlines()[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        parameter = _parameter(notebook, node, rest_of_line.lstrip("# "))
        if parameter.name in found:
            raise BadInput(f"{notebook}: the cell tagged parameters declares {parameter.name} twice; keep one.")
        found[parameter.name] = parameter
    return found


def _parameters_cell(notebook: Path) -> str:
    try:
        for cell in json.loads(notebook.read_bytes())["cells"]:
            if "parameters" in ((cell.get("metadata") or {}).get("tags") or []):
                return "".join(cell["source"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{notebook} is not a Jupyter notebook (JSON with cells).") from error
    raise BadInput(f"{notebook} has no cell tagged parameters.")


def _parameter(notebook: Path, node: ast.stmt, comment: str) -> Parameter:
    simple = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    kind = TYPES.get(ast.unparse(node.annotation)) if simple else None
    if kind is None:
        raise BadInput(f"{notebook}: {ast.unparse(node).splitlines()[0]!r} in the cell tagged parameters must read "
                       "'name: type = value  # meaning', with type one of bool, int, float, str.")  # fmt: skip
    try:
        text = ast.unparse(node.value)
        default = float("inf") if text in ("float('inf')", "math.inf") else ast.literal_eval(node.value)
    except ValueError as error:
        raise BadInput(f"{notebook}: the default of {node.target.id} must be a plain value, not {text}.") from error
    interval, choices = RANGE.search(comment), CHOICES.search(comment)
    allowed = tuple(choice.strip() for choice in choices[1].split(",")) if choices else ()
    parameter = Parameter(node.target.id, kind, default, comment, interval[0] if interval else "", allowed,
                          "(cosmetic)" in comment)  # fmt: skip
    try:
        return replace(parameter, default=parameter.check(default))
    except BadInput as error:
        raise BadInput(f"{notebook}: the default of {error}") from error
