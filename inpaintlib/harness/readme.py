"""The README says what results/claims.csv says: the text between its markers is made here, and nowhere by hand.

``<!-- results STUDY -->`` and ``<!-- /results -->`` enclose the table of a study's headline claims, ``findings STUDY``
a sentence for each published claim that was decided and has one, ``new STUDY`` for each of our own, ``scoreboard`` the
counted verdicts, ``contradicted`` the claims of the sources that the runs contradict, ``not tested`` why others were
not tested, ``scales`` what presets train.
"""

import re
from functools import partial
from pathlib import Path

import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import write_atomically
from inpaintlib.harness import claims, sweep

KINDS = "results|findings|new|scoreboard|contradicted|not tested|scales"
MARKED = re.compile(rf"(<!-- ({KINDS})(?: (\S+))? -->)(.*?)(<!-- /\2 -->)", re.DOTALL)


def update_readme(path: Path = inpaintlib.ROOT / "README.md") -> None:
    """Puts what claims.csv says between the markers of a Markdown file; a second time changes nothing.

    Raises BadInput for a marker that names a study without headline claims.
    """
    text = Path(path).read_text()
    if (new := rendered(text, claims.shown(claims.read()))) != text:
        write_atomically(path, new)


def rendered(text: str, rows: pd.DataFrame) -> str:
    """The text with what the shown rows of claims.csv say between its markers."""
    whole = {"scoreboard": claims.scoreboard_text, "contradicted": contradicted, "not tested": not_tested,
             "scales": scales}  # fmt: skip
    by_study = {"results": results, "findings": findings, "new": partial(findings, family="ours")}

    def fill(match: re.Match) -> str:
        begin, kind, study, _, end = match.groups()
        return f"{begin}\n{by_study[kind](study, rows) if kind in by_study else whole[kind](rows)}\n{end}"

    return MARKED.sub(fill, text)


def results(study: str, rows: pd.DataFrame) -> str:
    """The headline claims of a study that were tested as a table, and how many were not. BadInput: no such study."""
    headlines = rows[(rows["study"] == study) & (rows["headline"] == "True")]
    if headlines.empty:
        raise BadInput(f"README: the results of {study!r} are asked for, but no headline claim is of such a study")
    tested = headlines[headlines["verdict"] != claims.NOT_TESTED]
    cells = claims.cells(tested)
    table = pd.DataFrame({
        "claim": tested["id"] + ": " + tested["statement"],
        "paper": [claims.source(row) for row in tested.itertuples()],
        "published": cells["published"], "ours [95 % interval]": cells["ours [95 % interval]"], "seeds": cells["seeds"],
        "verdict": cells["verdict"], "command": [f"`sweep {study} --preset {preset}`" for preset in tested["preset"]],
    })  # fmt: skip
    left = len(headlines) - len(tested)
    return claims.table_text(table) + f"\n\nNot tested yet: {left} more." * bool(left)


def findings(study: str, rows: pd.DataFrame, family: str = "published") -> str:
    """A line for each claim of a study and family that was decided and has a sentence of prose."""
    some = rows[(rows["study"] == study) & (rows["family"] == family)]
    return claims.discussed(study, some, short=True) or "None was decided."


def contradicted(rows: pd.DataFrame) -> str:
    """A line for each claim of a source that the runs contradict."""
    found = rows[(rows["verdict"] == claims.CONTRADICTED) & (rows["family"] == "published")]
    return (
        "\n".join(
            f"* {row.id}: {claims.cited(row)}: {claims.measured(row)}, {row.n_seeds:g} seeds, preset {row.preset}"
            + ", arms below the mean colour" * (row.below_trivial == "True")
            + f" ({row.note})" * bool(row.note)
            for row in found.itertuples()
        )
        or "None."
    )


def not_tested(rows: pd.DataFrame) -> str:
    """Why claims were not tested, the commonest reason first, with the number of claims; reasons of one claim alone are
    only counted."""
    reasons = rows.loc[rows["verdict"] == claims.NOT_TESTED, "why"].str.split("[:;]", regex=True).str[0].str.rstrip(".")
    for pattern, why in ((r"^(?:incomplete grid|the preset \w+ has no finished run)", "their runs are still to do"),
                         (r"runs did not measure", "these runs did not measure their metric"),
                         (r"^it is about", "they are about photos that no run so far has seen")):  # fmt: skip
        reasons = reasons.where(~reasons.str.contains(pattern), why)
    counts = reasons.value_counts()
    said = [f"* {count} × {why}" for why, count in counts[counts > 1].items()]
    if own := (counts == 1).sum():
        said.append(f"* {own} × a reason of its own, in results/claims.md")
    return "\n".join(said) or "None."


def scales(rows: pd.DataFrame) -> str:
    """What the runs of each study train in the presets that need no GPU, as a table."""

    def cell(study: str, preset: str) -> str:
        items = [item.parameters for item in sweep.plan(study, preset)] if preset in sweep.load(study).presets else []
        kimg = sorted({given["kimg"] for given in items if "kimg" in given})
        length = f"{'-'.join(dict.fromkeys([f'{kimg[0]:g}', f'{kimg[-1]:g}']))} kimg" if kimg else ""
        sides = [f"{side} px" for side in sorted({given["size"] for given in items if "size" in given})]
        photos = sorted({given["dataset"] for given in items if "dataset" in given})
        runs = f"{len(items)} run{'s' * (len(items) > 1)}" if items else ""
        return ", ".join(filter(None, [*sides, length, *photos, runs]))

    lines = [(study, cell(study, "quick"), cell(study, "night")) for study in claims.studies()]
    return claims.table_text(pd.DataFrame(lines, columns=["study", "quick", "night"]))
