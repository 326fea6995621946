"""Pictures that reports are made of: comparison grids, curves with intervals, and GIFs.

Every function returns a Matplotlib figure or writes a GIF; notebooks show them and :func:`save` puts them beside
the tables. One look for all: :func:`style`.
"""

import ast
import inspect
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import display, get_ipython
from matplotlib import font_manager
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image, ImageDraw, ImageFont

PALETTE = ["#3b6fb6", "#e0803a", "#4f9d69", "#b5484f", "#8268ac", "#8a6d5b", "#d17fb2", "#6e6e6e"]
DASHES = ("-", (0, (4, 4)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
UNITS = {"psnr": "PSNR, dB", "psnr_hole": "PSNR of the hole, dB", "l1": "L1, fraction of the range",
         "l1_hole": "L1 of the hole,\nfraction of the range"}  # fmt: skip
"""Labels of what a training's history holds beside its losses."""
VERDICTS = {"reproduced": ("#0072B2", "o"), "contradicted": ("#D55E00", "X"), "undecided": ("#7a7a7a", "s"),
            "by construction": ("#CC79A7", "^")}  # fmt: skip
"""Colour (Okabe and Ito's, told apart by the colour-blind) and marker of each verdict that has a value."""


QUALITY, FILE_DPI = 78, 160  # of JPEGs in notebooks; of figures in files


def style() -> None:
    """The look of every figure of the study; in a notebook as JPEG, a tenth of the size where photos are shown."""
    if get_ipython():
        set_matplotlib_formats("jpeg", pil_kwargs={"quality": QUALITY})
    plt.rcParams.update({
        "figure.dpi": 110, "savefig.dpi": FILE_DPI, "savefig.bbox": "tight", "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
        "axes.prop_cycle": plt.cycler(color=PALETTE), "legend.frameon": False,
    })  # fmt: skip


def subplots(*shape: int, **options) -> tuple[plt.Figure, plt.Axes | np.ndarray]:
    """plt.subplots whose figure no notebook shows by itself, only where a cell ends in it."""
    figure, axes = plt.subplots(*shape, **options)
    plt.close(figure)
    return figure, axes


def bare(ax: plt.Axes) -> None:
    """An axes that shows a picture: no ticks, no grid, no frame."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)


def legend(ax: plt.Axes) -> None:
    """The legend beside the panel, where it hides nothing."""
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def ends(rows: pd.DataFrame, scale: float = 1.0) -> list[pd.Series]:
    """How far each interval of rows of a tidy table reaches below and above its value; 0 where there is none."""
    reach = rows["value"] - rows["ci_low"], rows["ci_high"] - rows["value"]
    return [scale * each.fillna(0).clip(0) for each in reach]


def save(figure: plt.Figure, path: Path) -> plt.Figure:
    """Writes the figure (.png; .jpg for photos; folders are made) and hands it on, so that a notebook shows it too.

    A PNG without photos has a palette of 64 colours, a fifth of the size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        figure.savefig(path, pil_kwargs={"quality": 88})
        return figure
    figure.savefig(path, metadata={"Software": None})
    if not any(ax.images for ax in figure.axes):
        with Image.open(path) as picture:
            _with_palette(picture).save(path, optimize=True)
    return figure


def split_strip(path: Path) -> list[np.ndarray]:
    """The square photos (H,W,3) uint8 of a picture that :func:`inpaintlib.training.strip` wrote."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    size = picture.shape[0]
    return [picture[:, i : i + size] for i in range(0, picture.shape[1], size)]


def arrays(photos) -> list[np.ndarray]:
    """Photos (n,3,H,W), float in [0,1] or uint8, as pictures (H,W,3) uint8."""
    photos = photos.detach().cpu()
    photos = photos if not photos.is_floating_point() else (photos.float() * 255).round().clamp(0, 255).byte()
    return list(photos.permute(0, 2, 3, 1).numpy())


def grid(rows: dict[str, Sequence[np.ndarray]], columns: int | None = None, zoom: float = 1.0) -> plt.Figure:
    """Labelled rows of photos: input, each arm, ground truth; column by column the same photo, ``zoom`` inches wide."""
    columns = min(columns or 99, *(len(row) for row in rows.values()))
    left = 0.1 + 0.07 * max(len(line) for label in rows for line in label.split("\n"))
    lines = {label: _side_by_side(row[:columns]) for label, row in rows.items()}
    heights = [zoom * columns * line.shape[0] / line.shape[1] for line in lines.values()]
    size = (left + zoom * columns, sum(heights))
    figure, axes = subplots(
        len(rows), 1, squeeze=False, figsize=size, layout="none", height_ratios=heights,
        gridspec_kw={"left": left / size[0], "right": 1, "bottom": 0, "top": 1, "hspace": 0.03},
    )  # fmt: skip
    for (label, line), ax in zip(lines.items(), axes[:, 0], strict=True):
        ax.imshow(line, interpolation="nearest")
        bare(ax)
        ax.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def _side_by_side(photos: Sequence[np.ndarray]) -> np.ndarray:
    """Photos (H,W,3) uint8 as one picture, a thin white line between each two."""
    gap = np.full((photos[0].shape[0], max(1, photos[0].shape[1] // 40), 3), 255, np.uint8)
    return np.concatenate([part for photo in photos for part in (photo, gap)][:-1], 1)


def curves(
    histories: dict[str, Sequence[pd.DataFrame]],
    column: str,
    *,
    label: str = "",
    colours: Sequence | None = None,
    ax: plt.Axes | None = None,
    x: str = "kimg",
) -> plt.Axes:
    """One line an arm against kimg (or another column ``x``): the mean over its seeds, with their range as a band.

    Lines take turns in four dashes, so that one that lies on another is seen; the legend stands beside the panel.
    """
    ax = ax or subplots(figsize=(6.4, 3.6))[1]
    for i, (arm, runs) in enumerate(histories.items()):
        wide = pd.concat([run.set_index(x)[column].dropna() for run in runs], axis=1).dropna()
        turn, place = divmod(i, len(colours or PALETTE))
        colour = (colours or PALETTE)[place]
        ax.plot(wide.index, wide.mean(axis=1), label=arm, color=colour, marker="." if len(wide) < 30 else None,
                ls=DASHES[(i + turn) % len(DASHES)])  # fmt: skip
        ax.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.15, lw=0)
    ax.set(xlabel="training length, kimg" if x == "kimg" else x, ylabel=label or column)
    legend(ax)
    return ax


def losses(history: pd.DataFrame, columns: Sequence[str] | None = None, mean_over: int = 1) -> plt.Figure:
    """The losses of one training, each in its own panel, at most four in a line, with a running mean over so many rows
    (of many)."""
    known = ("kimg", "step", "seconds")
    columns = columns or [c for c in history if c not in known and not c.startswith("test_")]
    lines = -(-len(columns) // 4)
    wide = -(-len(columns) // lines)
    figure, axes = subplots(lines, wide, figsize=(2.8 * wide, 2.3 * lines), squeeze=False)
    for ax in axes.flat[len(columns) :]:
        ax.remove()
    for i, (ax, column) in enumerate(zip(axes.flat[: len(columns)], columns, strict=True)):
        line = history.dropna(subset=[column])
        smooth = mean_over > 1 and len(line) > 4 * mean_over
        colour = PALETTE[i % len(PALETTE)]
        ax.plot(line["kimg"], line[column], color=colour, alpha=0.35 if smooth else 1, lw=1)
        if smooth:
            ax.plot(line["kimg"], line[column].rolling(mean_over, min_periods=1).mean(), color=colour)
        label = UNITS.get(column.removeprefix("test_"), f"{column}, loss")
        ax.set(xlabel="training length, kimg", ylabel=label)
    return figure


def panels(table: pd.DataFrame, metrics: dict[str, str], by: str, name: Callable = str, xlabel: str = "") -> plt.Figure:
    """Mean and interval of metrics (name -> label) side by side, those that the table has, for each value of ``by`` in
    the table's order; rows of a tidy table. More than eight values make a :func:`forest`."""
    metrics = {metric: label for metric, label in metrics.items() if metric in set(table["metric"])}
    if table[by].nunique() > 8:
        return forest(table, metrics, by, name)
    figure, axes = subplots(1, len(metrics), figsize=(3.1 * len(metrics), 3.2), squeeze=False)
    for ax, (metric, label) in zip(axes[0], metrics.items(), strict=True):
        rows = table[table["metric"] == metric]
        ax.errorbar(range(len(rows)), rows["value"], yerr=ends(rows), fmt="o", capsize=4, color=PALETTE[0])
        labels = [name(value) for value in rows[by]]
        turned = {} if max(map(len, labels)) < 4 else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(rows)), labels, **turned)
        ax.set(title=label, xlabel=xlabel, xlim=(-0.5, len(rows) - 0.5))
    return figure


def forest(table: pd.DataFrame, metrics: dict[str, str], by: str, name: Callable = str) -> plt.Figure:
    """Means and intervals of metrics (name -> label) side by side, a line for each value of ``by``, named once."""
    names = list(dict.fromkeys(table[by]))
    figure, axes = subplots(1, len(metrics), figsize=(2.1 * len(metrics) + 1.6, 0.3 * len(names) + 0.9), sharey=True,
                            squeeze=False)  # fmt: skip
    for ax, (metric, label) in zip(axes[0], metrics.items(), strict=True):
        rows = table[table["metric"] == metric].set_index(by).reindex(names)
        ax.errorbar(rows["value"], range(len(names)), xerr=ends(rows), fmt="o", capsize=3, color=PALETTE[0])
        ax.set(title=label)
    axes[0, 0].set_yticks(range(len(names)), [name(value) for value in names])
    axes[0, 0].invert_yaxis()
    return figure


END = 40.0  # of the scale of claims_forest


def claims_forest(rows: pd.DataFrame) -> plt.Figure:
    """One line a claim with a value, study by study: what was measured, with its interval.

    ``rows`` of claims.csv, with a column ``limit``: what the claim says is exceeded, or its margin of equality. Above,
    differences and trends: how far beyond the limit, over the smallest distance that these seeds could have seen
    (``detectable``), turned so that the right is as claimed. Below, equality: the difference from what is claimed over
    the margin. Colour and marker: the verdict; hollow: ``below_trivial``; black diamond: the published value. Half the
    interval stands for a detectable distance that is missing, and 1 where there is none. The scale is linear to 2 and
    ends at 40; what lies further out stands there beside an arrow.
    """
    rows = rows[rows["ours"].notna() & rows["verdict"].isin(VERDICTS)]
    rows = rows.assign(label=[_wrapped(f"{row.id}  {row.statement}") for row in rows.itertuples()])
    equal = rows["direction"] == "equal"
    parts = [part for part in (rows[~equal], rows[equal]) if len(part)]
    heights = [_claims_height(part) for part in parts]
    figure, axes = subplots(len(parts), 1, squeeze=False, figsize=(9.5, 0.115 * sum(heights) + 1.2),
                            height_ratios=heights)  # fmt: skip
    for ax, part in zip(axes[:, 0], parts, strict=True):
        _claims_panel(ax, part)
    marks = {verdict: {"color": colour, "marker": marker} for verdict, (colour, marker) in VERDICTS.items()}
    marks |= {"hollow: arms below the mean colour": {"color": "0.4", "marker": "o", "mfc": "white"},
              "published": {"color": "black", "marker": "d", "ms": 5}}  # fmt: skip
    handles = [plt.Line2D([], [], ls="", label=label, **look) for label, look in marks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _wrapped(text: str, width: int = 68) -> str:
    """Lines of about the same length, at most so wide."""
    lines = -(-len(text) // width)
    return textwrap.fill(text, min(width, len(text) // lines + 8))


def _claims_height(rows: pd.DataFrame) -> float:
    """Of a panel of :func:`claims_forest`, in lines of text."""
    return (rows["label"].str.count("\n") + 1.8).sum() + 2.2 * rows["study"].nunique() + 4


def _claims_panel(ax: plt.Axes, rows: pd.DataFrame) -> None:
    """Claims of :func:`claims_forest` that share a scale; y counts lines of text."""
    equal, y, ticks = rows["direction"].iloc[0] == "equal", 0.0, []
    if equal:
        ax.axvspan(-1, 1, color="0.93", lw=0, zorder=0)
    for study, group in rows.groupby("study", sort=False):
        ax.text(0.005, y, study, transform=ax.get_yaxis_transform(), weight="bold", fontsize=8, va="center")
        y += 0.6
        for row in group.itertuples():
            lines = 1.8 + row.label.count("\n")
            y += lines / 2
            ticks.append((y, row.label))
            found = _standardised(row)
            value, low, high, published = np.clip(found, -END, END)
            colour, marker = VERDICTS[row.verdict]
            ax.plot([low, high], [y, y], color=colour, lw=1.5)
            ax.plot(value, y, marker, color=colour, ms=6, mfc="white" if str(row.below_trivial) == "True" else colour)
            ax.plot(published, y, "d", color="black", ms=4, zorder=3)
            for x, of_mark in ((found[0], colour), (found[3], "black")):
                if abs(x) > END:
                    ax.plot(1.3 * np.clip(x, -END, END), y, "<>"[int(x > 0)], color=of_mark, ms=4)
            y += lines / 2
        y += 1.6
    ax.axvline(0, color="0.3", lw=1, zorder=0)
    ax.set_xscale("symlog", linthresh=2)
    reach = max(3.0, *np.abs(ax.dataLim.intervalx) * 1.25)
    steps = [step for step in (-30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30) if abs(step) < reach]
    ax.set_xticks(steps, [f"{step:g}" for step in steps], minor=False)
    ax.set_xlim(-reach, reach)
    ax.set_yticks(*zip(*ticks, strict=True), fontsize=7)
    ax.set_ylim(y - 1.2, -1.2)
    ax.set_xlabel("difference from what is claimed / margin" if equal else
                  "against the claim  ←  beyond the limit / detectable  →  as claimed")  # fmt: skip


def _standardised(row) -> list[float]:
    """Value, ends of the interval and published value of a claim, on the scale of :func:`claims_forest`."""
    found, half = (row.ours, row.ci_low, row.ci_high, row.published), (row.ci_high - row.ci_low) / 2
    equal = row.direction == "equal"
    unit = next(x for x in (row.limit if equal else row.detectable, half, 1.0) if x > 0)
    if equal:
        centre = 0.0 if np.isnan(row.published) else row.published
        return [(x - centre) / unit for x in found]
    sign = -1 if row.direction in ("less", "decreasing") else 1
    return [(sign * x - (0.0 if np.isnan(row.limit) else row.limit)) / unit for x in found]


def live(history: pd.DataFrame) -> None:
    """Redraws the losses and the test PSNR in the notebook's output while it trains."""
    columns = [c for c in history if c not in ("kimg", "step", "seconds") and "test_" not in c]
    shown = columns + [c for c in ("test_psnr_hole",) if c in history]
    figure = losses(history, shown)
    live.handle = getattr(live, "handle", None) if history["step"].max() else None
    if live.handle is None:
        live.handle = display.display(figure, display_id=True)
    else:
        live.handle.update(figure)
    plt.close(figure)


def caption(picture: np.ndarray, text: str, zoom: int = 1) -> Image.Image:
    """A photo or strip (H,W,3) uint8, enlarged without smoothing, with one line of text above it, as small as it must
    be to fit."""
    photo = Image.fromarray(picture)
    photo = photo.resize((photo.width * zoom, photo.height * zoom), Image.Resampling.NEAREST)
    return stacked([_line(text, photo.width), photo])


def _line(text: str, width: int) -> Image.Image:
    """One line of text on white, ``width`` px wide."""
    canvas = Image.new("RGB", (width, 18), "white")
    path = font_manager.findfont("DejaVu Sans")  # Matplotlib brings it
    sizes = [ImageFont.truetype(path, size) for size in range(12, 5, -1)]
    font = next((font for font in sizes if font.getlength(text) <= width - 6), sizes[-1])
    ImageDraw.Draw(canvas).text((4, 14), text, fill="black", font=font, anchor="ls")
    return canvas


def gif(frames: Sequence[Image.Image], path: Path, milliseconds: int = 250, hold: int = 6) -> Path:
    """Writes frames as a looping GIF that rests on the last one; each frame has a palette of its own, undithered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = [frame.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for frame in frames]
    durations = [milliseconds] * (len(small) - 1) + [milliseconds * hold]
    small[0].save(path, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=False)
    return path


def from_runs(path: Path, folders: Iterable[Path], make: Callable[[], plt.Figure | Path]):
    """The figure or GIF that ``make`` draws of the pictures in these run folders, kept at ``path``. Where the runs were
    not made on this machine (a clone has their numbers alone), the one that is kept there already."""
    if all(map(has_pictures, folders)):
        made = make()
        return show(made) if isinstance(made, Path) else save(made, path)
    if path.exists():
        return show(path)
    return display.Markdown("*The pictures of these runs are not on this machine; make them with `--rerun done`.*")


def pictured(folders: dict, path: Path) -> dict:
    """Of run folders by name those whose pictures are on this machine, where ``path`` is not kept yet: a figure of some
    is better than none. All of them where it is kept, which then stays, or where none has pictures."""
    there = {name: folder for name, folder in folders.items() if has_pictures(folder)}
    return folders if path.exists() or not there else there


def has_pictures(run_folder: Path) -> bool:
    """Whether the run was made on this machine: the repository has its records alone."""
    return (run_folder / "notebook.ipynb").exists()


def show(path: Path) -> display.Image:
    """A picture's file as a cell's output, as small as one that is drawn there. A GIF is labelled PNG, which
    GitHub and nbconvert pass on where they drop GIFs; browsers look at the bytes and play it."""
    if path.suffix == ".gif":
        return display.Image(data=path.read_bytes(), format="png")
    with Image.open(path) as picture:
        sides = [round(side * plt.rcParams["figure.dpi"] / FILE_DPI) for side in picture.size]
        small, smaller = picture.convert("RGB").resize(sides), io.BytesIO()
    kind, drawn = ("jpeg", small) if path.suffix == ".jpg" else ("png", _with_palette(small))
    drawn.save(smaller, kind, quality=QUALITY, optimize=True)
    return display.Image(data=smaller.getvalue(), format=kind)


def _with_palette(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").quantize(64, Image.Quantize.FASTOCTREE)


def frames(run_folder: Path) -> list[Path]:
    """The frames that training left, in order; each stem is its kimg."""
    return sorted((run_folder / "frames").glob("*.png"))


def evolution(run_folder: Path, path: Path, zoom: int = 1, columns: int = 6) -> Path:
    """The GIF of one training: its frames, the ground truth below."""
    return evolution_of({"": run_folder}, path, zoom, columns)


def evolution_of(runs: dict[str, Path], path: Path, zoom: int = 1, columns: int = 6, unit: str = "kimg") -> Path:
    """The GIF of several trainings in rows: how long they trained, their frames at equal kimg, the ground truth below.

    ``unit``: what the frames' names count, where that is not kimg.
    """
    last = next(iter(runs.values()))
    truth = np.concatenate(split_strip(last / "truth.png")[:columns], 1)
    common = set.intersection(*({file.name for file in frames(folder)} for folder in runs.values()))
    pictures = []
    for name in sorted(common):
        length = f"{round(float(Path(name).stem), 1):g} {unit}"
        rows = {
            label: np.concatenate(split_strip(folder / "frames" / name)[:columns], 1) for label, folder in runs.items()
        }
        stack = [caption(row, label or length, zoom) for label, row in rows.items()]
        if "" not in rows:
            stack.insert(0, _line(length, stack[0].width))
        pictures.append(stacked([*stack, caption(truth, "ground truth", zoom)]))
    return gif(pictures, path, 400)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width below each other."""
    canvas = Image.new("RGB", (pictures[0].width, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def source(function: Callable) -> display.Markdown:
    """A function's code without its docstring, for a notebook to show."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    body = next(node for node in ast.parse("\n".join(lines)).body).body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        del lines[body[0].lineno - 1 : body[0].end_lineno]
    return display.Markdown("\n".join(["```python", *lines, "```"]))
