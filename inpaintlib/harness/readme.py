"""The README says what results/claims.csv says: the text between its markers is made here, and nowhere by hand.

``<!-- claim ID -->`` and ``<!-- /claim -->`` enclose one claim in a line; ``scoreboard`` the counted verdicts,
``contradicted`` the claims of the sources that the runs contradict, ``not tested`` why others were not tested.
"""

import re
from pathlib import Path

import pandas as pd

import inpaintlib
from inpaintlib.files import write_atomically
from inpaintlib.harness import claims

MARKED = re.compile(r"(<!-- (claim|scoreboard|contradicted|not tested)(?: (\S+))? -->)(.*?)(<!-- /\2 -->)", re.DOTALL)


def update_readme(path: Path = inpaintlib.ROOT / "README.md") -> None:
    """Puts what claims.csv says between the markers of a Markdown file; a second time changes nothing.

    Raises BadInput for a marker that names a claim which is not in claims.csv.
    """
    text = Path(path).read_text()
    if (new := rendered(text, claims.shown(claims.read()))) != text:
        write_atomically(path, new)


def rendered(text: str, rows: pd.DataFrame) -> str:
    """The text with what the shown rows of claims.csv say between its markers."""
    lists = {"scoreboard": claims.scoreboard_text, "contradicted": contradicted, "not tested": not_tested}

    def fill(match: re.Match) -> str:
        begin, kind, claim, _, end = match.groups()
        return begin + (finding(claim, rows) if kind == "claim" else f"\n{lists[kind](rows)}\n") + end

    return MARKED.sub(fill, text)


def finding(claim: str, rows: pd.DataFrame) -> str:
    """A claim in one line: what its source says, what was measured, the verdict. BadInput: there is no such claim."""
    measured = claims.value(claim, rows)
    row = rows[rows["id"] == claim].iloc[0]
    *numbers, verdict = measured.rsplit(", ", 1)
    scale = [f"preset {row['preset']}"] if numbers else []
    below = ["arms below the mean colour"] if row["below_trivial"] == "True" else []
    return f"{claims.cited(row)}: " + ", ".join([f"**{verdict}**", *numbers, *scale, *below])


def contradicted(rows: pd.DataFrame) -> str:
    """A line for each claim of a source that the runs contradict."""
    found = rows.loc[(rows["verdict"] == claims.CONTRADICTED) & (rows["family"] == "published"), "id"]
    return "\n".join(f"* {claim}: {finding(claim, rows)}" for claim in found) or "None."


def not_tested(rows: pd.DataFrame) -> str:
    """Why claims were not tested, each reason up to its first colon, the commonest first, with the number of claims.
    Runs that are still to do are one reason."""
    reasons = rows.loc[rows["verdict"] == claims.NOT_TESTED, "why"].str.split("[:;]", regex=True).str[0].str.rstrip(".")
    reasons = reasons.str.replace(r"^(the preset \w+ has no finished run).*", r"\1 of an arm that it needs", regex=True)
    return "\n".join(f"* {count} × {why}" for why, count in reasons.value_counts().items()) or "None."
