"""One HTML page of all that results/ says: verdicts, claims, tables, figures and GIFs by study, within one file.

It refers to nothing outside itself and needs no JavaScript. Pictures stand where the report notebooks make them, under
the words that introduce them there.
"""

import base64
import io
import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import pandas as pd
from PIL import Image

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import write_atomically
from inpaintlib.harness import claims, sweep
from inpaintlib.harness.figures import VERDICTS

LIMIT = 14_500_000  # bytes of the page
SPARE = 500_000  # of them for the page's words beside claims, tables and figures
KINDS = {".gif", ".png", ".jpg"}
LABELS = ("claim", "published", "ours [95 % interval]", "p", "seeds", "verdict")  # the columns of claims
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;margin:0 auto;padding:1rem;max-width:68rem}
h1,h2,h3{line-height:1.2}h2{margin-top:3rem;border-top:2px solid #ddd;padding-top:1rem}
a{color:#0b5394}nav li{margin:.3rem 0}small,figcaption{color:#666;font-size:.8rem}code{overflow-wrap:anywhere}
img{max-width:100%;height:auto;display:block}figure{margin:1rem 0 1.5rem}p{max-width:46rem}
table{border-collapse:collapse;font-size:.85rem}th,td{padding:.3rem .6rem;border-bottom:1px solid #ddd;
text-align:left;vertical-align:top}.scroll{overflow-x:auto;margin:1rem 0}.scroll td,.scroll th{white-space:nowrap}
.claims{width:100%}.claims td:first-child{max-width:24rem}summary{cursor:pointer;margin:1rem 0}
@media(max-width:45rem){.claims thead{display:none}
.claims tr{display:block;padding:.6rem 0;border-bottom:2px solid #ddd}
.claims td{display:block;border:0;padding:.1rem 0}.claims td:empty{display:none}
""" + "".join(f'.claims td:nth-child({i})::before{{content:"{name}: ";color:#666}}'
              for i, name in enumerate(LABELS[1:], 2)) + "}" + "".join(
    f'\n.{name.replace(" ", "-")} b{{color:{colour}}}' for name, (colour, _) in VERDICTS.items())  # fmt: skip


def write() -> Path:
    """Writes ``results/report.html``, below 15 MB: where all pictures would be more, the largest are named instead.

    Raises BadInput where results/ has no claims, tables and figures.
    """
    there = inpaintlib.RESULTS / "claims.csv"
    rows = claims.shown(claims.read()) if there.exists() else pd.DataFrame(columns=claims.COLUMNS)
    sections = {title: parts for title, study, notebook in _studies()
                if (parts := list(_section(study, notebook, rows[rows["study"] == study])))}  # fmt: skip
    if not sections:
        raise BadInput(f"{inpaintlib.RESULTS}: there is nothing to report yet; make it with make study, or "
                       "python -m inpaintlib sweep all, then python -m inpaintlib report all")  # fmt: skip
    room = LIMIT - SPARE - sum(len(part) for parts in sections.values() for part in parts if isinstance(part, str))
    pictures = {part: _picture(part) for parts in sections.values() for part in parts if isinstance(part, Path)}
    for path in sorted(pictures, key=lambda path: -len(pictures[path])):
        if sum(map(len, pictures.values())) > room:
            name = escape(path.relative_to(inpaintlib.RESULTS).as_posix())
            pictures[path] = f"<p><em>This page has no room for the picture {name}.</em></p>"
    contents, body = ['<li><a href="#verdicts">Verdicts</a></li>'], []
    for i, (title, parts) in enumerate(sections.items()):
        contents.append(f'<li><a href="#s{i}">{escape(title)}</a></li>')
        body += [f'<h2 id="s{i}">{escape(title)}</h2>', *(pictures.get(part, part) for part in parts)]
    verdicts = _html(claims.scoreboard_text(rows)) if len(rows) else "<p>No claims were judged yet.</p>"
    target = inpaintlib.RESULTS / "report.html"
    write_atomically(target, f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Image inpainting: a reproducibility study</title><style>{STYLE}</style></head><body>
<h1>Image inpainting: a reproducibility study</h1>
<nav><ul>{"".join(contents)}</ul></nav>
<h2 id="verdicts">Verdicts</h2>
{verdicts}
<p>An undecided claim says what distance from its limit these seeds would have shown with 80 % power, and how many
seeds would decide. p is adjusted by Holm within a study's family of claims.</p>
{"".join(body)}</body></html>
""")  # fmt: skip
    return target


def _studies() -> Iterator[tuple[str, str, Path]]:
    """Title, study and report notebook of what may have something to show, in the notebooks' order."""
    folder = inpaintlib.ROOT / "notebooks"
    found = [(path.stem[3:], path) for path in folder.glob("00_*.ipynb")]
    plans = [sweep.load(study) for study in claims.studies()]
    for study, notebook in found + [(plan.study, plan.report or plan.notebook) for plan in plans]:
        first = next((text for kind, text in _cells(notebook) if kind == "markdown"), "")
        title = re.match(r"# (?:\d+ · )?(.+)", first)
        yield f"{title[1]} ({study})" if title else study, study, notebook


def _cells(notebook: Path) -> list[tuple[str, str]]:
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(notebook.read_text())["cells"]]


def _section(study: str, notebook: Path, rows: pd.DataFrame) -> Iterator[str | Path]:
    """HTML, and the pictures between it, of a study: nothing where it has nothing to show."""
    folder = inpaintlib.RESULTS / study
    presets = {path.name for path in (folder / "figures").glob("*/")}
    table = (folder / "table.md").read_text() if (folder / "table.md").exists() else ""
    sections = dict(re.findall(r"^## Preset `(.+?)`\n(.*?)(?=^## |\Z)", table, re.M | re.S))
    preset = max({*presets, *sections}, key=sweep.preset_rank, default="")
    if (folder / "runs").exists() and (wanted := sweep.reported(study)) in {*presets, *sections}:
        preset = wanted
    if len(rows):
        yield _claims(rows)
    if preset in sections:
        yield f"<h3>Table</h3><p>Preset <code>{escape(preset)}</code>.</p>{_html(sections[preset])}"
    files = sorted([*(folder / "figures").glob("*.*"), *(folder / "figures" / preset).glob("*.*")])
    yield from _figures({path.name: path for path in files if path.suffix in KINDS}, _cells(notebook))


def _figures(files: dict[str, Path], cells: list[tuple[str, str]]) -> Iterator[str | Path]:
    """Pictures in the order in which the notebook makes them, each after the prose before it; others come first."""
    made = [name for kind, source in cells if kind == "code" for name in _made(source, files)]
    yield from (path for name, path in files.items() if name not in made)
    left, prose = set(made), ""
    for kind, source in cells:
        prose = source if kind == "markdown" else prose
        here = [name for name in _made(source, files) if name in left] if kind == "code" else []
        if here:
            yield _html(re.sub(r"^#+ (.+)", r"**\1**", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose), flags=re.M))
            yield from (files[name] for name in here)
            left, prose = left.difference(here), ""


def _made(source: str, files: Iterable[str]) -> list[str]:
    """Those of the files that a cell's code names, in its order; {...} in a name stands for anything."""
    texts = (re.sub(r"\\{.*?\\}", ".+", re.escape(text)) for text in re.findall(r'"([^"\n]+\.\w+)"', source))
    return list(dict.fromkeys(name for text in texts for name in files if re.fullmatch(text, name)))


def _claims(rows: pd.DataFrame) -> str:
    """Rows of claims.csv: those that were decided, and the others folded away."""
    decided = rows["verdict"].isin([claims.REPRODUCED, claims.CONTRADICTED])
    parts = ["<h3>Claims</h3>", _claims_table(rows[decided]) if decided.any() else "<p>None was decided.</p>"]
    if not decided.all():
        counts = rows.loc[~decided, "verdict"].value_counts()
        names = ", ".join(f"{counts[name]} {name}" for name in claims.VERDICTS if name in counts)
        parts.append(f"<details><summary>{names}</summary>{_claims_table(rows[~decided])}</details>")
    return "".join(parts)


def _claims_table(rows: pd.DataFrame) -> str:
    cells, lines = claims.cells(rows), []
    for row, verdict in zip(cells.map(escape).to_dict("records"), rows["verdict"], strict=True):
        seeds = ", ".join(filter(None, [row["seeds"], row["preset"], row["photos"]]))
        said = re.sub(r"\*\*(.+?)\*\*|^(not tested|undecided|by construction)", r"<b>\1\2</b>", row["verdict"])
        columns = [f"<b>{row['id']}</b> {row['claim']}", row["published"], row["ours [95 % interval]"], row["p"], seeds,
                   f"{said}<br><small>{row['why']}</small>"]  # fmt: skip
        opening = f'<tr class="{verdict.replace(" ", "-")}">'
        lines.append(opening + "".join(f"<td>{column}</td>" for column in columns) + "</tr>")
    heads = "".join(f"<th>{name}</th>" for name in LABELS)
    return f'<table class="claims"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _html(markdown: str) -> str:
    """Markdown as HTML, its tables in boxes that scroll."""
    from nbconvert.filters.markdown import markdown2html  # takes a second

    text = re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html(markdown))
    return text.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")


def _picture(path: Path) -> str:
    """A figure that holds the picture; a still one as WebP where that is smaller."""
    data, kind = path.read_bytes(), "jpeg" if path.suffix == ".jpg" else path.suffix[1:]
    with Image.open(path) as picture:
        width, height = picture.size
        if kind != "gif":
            picture.convert("RGB").save(smaller := io.BytesIO(), "webp", quality=85, lossless=kind == "png", method=2)
            data, kind = min((data, kind), (smaller.getvalue(), "webp"), key=lambda pair: len(pair[0]))
    text, name = base64.b64encode(data).decode(), path.stem.replace("_", " ")
    return (f'<figure><img src="data:image/{kind};base64,{text}" alt="{escape(name)}" width="{width}" '
            f'height="{height}" loading="lazy"><figcaption>{escape(name)}</figcaption></figure>\n')  # fmt: skip
