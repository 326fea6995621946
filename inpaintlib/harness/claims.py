"""What the sources claim and what this study says of it: ``results/claims.csv``, and ``claims.md`` rendered from it.

A study's sweep file lists its claims. Each has ``id``, ``source``, ``place`` (section, figure or table; not needed for
our own), ``statement``, ``metric``, ``test`` with the test's own keys (see verdicts.py), and may have ``published`` (a
number), ``headline``, ``by_construction`` (why it cannot fail), ``note`` (said where the verdict contradicts the
source), ``prose`` (two sentences for discussions: where it is reproduced, and where it is contradicted) and ``family``
(``published``, or ``ours``: claims of our own, a family apart for Holm's correction).

A verdict takes p < .05 after Holm's correction within its family (study, preset, data set): ``reproduced`` on the
claimed side, ``contradicted`` on the other, else ``undecided``, with the smallest distance that so many seeds would
have shown (``detectable``) and how many would decide. Claims that wait for planned runs count as tested, so that none
of them takes a verdict away once it is. ``by construction`` is not counted, and ``not tested`` says why.
"""

import contextlib
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd

import inpaintlib
from inpaintlib import BadInput
from inpaintlib.files import lock, write_atomically
from inpaintlib.harness import statistics, sweep, tables
from inpaintlib.harness.parameters import did_you_mean
from inpaintlib.harness.tables import Results
from inpaintlib.harness.verdicts import (
    BY_CONSTRUCTION,
    CONTRADICTED,
    FAMILIES,
    HEADLINE_SEEDS,
    NOT_TESTED,
    REPRODUCED,
    UNDECIDED,
    VERDICTS,
    NotTested,
    Outcome,
    absent,
    arms,
    check,
    divided,
    family,
    rows_of_arm,  # fmt: skip
    test,
)

COLUMNS = ["id", "source", "place", "statement", "metric", "direction", "unit", "published", "ours", "ci_low",
           "ci_high", "p", "p_adjusted", "detectable", "seeds_needed", "published_inside", "wins", "cells",
           "below_trivial", "family", "headline", "n_seeds", "n_photos", "n_pictures", "test_set", "dataset", "preset",
           "study", "verdict", "why", "note", "computed", "command"]  # fmt: skip
NUMBERS = ["published", "ours", "ci_low", "ci_high", "p", "p_adjusted", "detectable", "seeds_needed", "wins", "n_seeds",
           "n_photos", "n_pictures"]  # fmt: skip
TWO_LOOKS = "Two looks at half the alpha each, the second with more seeds: p is twice the smaller one"
SENTENCE_END = re.compile(r"(?<=\.) (?=[A-Z])")
WAITING = "claims of the same family that wait for runs count as tested in the correction; here these are {}"
CLOCK = ("training_photos_per_second", "training_seconds")  # of runs of one processor alone these may be compared
UNIT = {"increasing": "rho", "decreasing": "rho", "correlates": "rho", "wins": "of photos"}  # else the metric's
DIRECTION = {"figure": "equal", "untestable": ""}  # of tests that are no direction themselves; else greater


# Rows -----------------------------------------------------------------------------------------------------------------


def study_rows(study: str, presets: list[str]) -> pd.DataFrame:
    """All rows of a study's claims in these presets, as claims.csv has them."""
    return tables.as_text(judged(study, presets))[COLUMNS]


def judged(study: str, presets: list[str], looks: int = 1) -> pd.DataFrame:
    """``study_rows`` before they are text, with ``used``, the planned runs that each is about, an arm a list. A claim
    that no preset can say anything about, and one that is malformed, has one row without a preset. ``looks`` 2: as at
    the first of two looks. Once seeds were added to a preset, all claims of it have had two: which of them got seeds
    depends on their p-values."""
    rows, seen, results = [], set(), {}
    for preset in presets:
        with contextlib.suppress(tables.NoRuns):
            results[preset] = Results(study, preset)
    commands = {preset: command(study, preset) for preset in results}
    for claim in sweep.load(study).claims:
        try:
            check(study, claim)
            if claim["id"] in seen:
                raise BadInput(f"notebooks/sweeps/{study}.yaml: the claim {claim['id']} is there twice.")
        except BadInput as error:
            rows.append(_row(study, claim if isinstance(claim, dict) else {}, Outcome(why=str(error))))
            continue
        seen.add(claim["id"])
        if claim["test"] == "untestable" or not results:
            rows.append(_row(study, claim, Outcome(why=claim.get("why", "no preset has finished runs."))))
            continue
        rows += [row | {"command": commands[preset]} for preset in results
                 for row in _rows_of(claim, results[preset], looks)]  # fmt: skip
    return _judged(pd.DataFrame(rows, columns=[*COLUMNS, "outcome", "looks", "used", "waits"]))


def _rows_of(claim: dict, results: Results, looks: int) -> list[dict]:
    """A claim's rows of one preset, one for each data set among its runs."""
    try:
        parted = divided(claim, results)
        groups = _used(claim, parted)
    except NotTested as reason:
        return [_row(results.study, claim, Outcome(why=str(reason)), results)]
    used = list({item.run_id: item for group in groups for item in group}.values())
    there = [item.parameters.get("dataset") for item in used] or list(parted.runs.get("dataset", [None]))
    datasets = [claim["dataset"]] if "dataset" in claim else list(dict.fromkeys(there))
    rows, looks = [], 2 if any(item.added for item in results.plan) else looks
    for dataset in datasets:
        some = [item for item in used if item.parameters.get("dataset") == dataset]
        of = {key: claim.get(key, {}) | {"dataset": dataset} for key in (("a", "b") if "a" in claim else ("where",))}
        if "dataset" in claim and dataset not in there:
            saw = ", ".join(map(str, dict.fromkeys(there)))
            outcome = Outcome(why=f"it is about {dataset}; the runs of {results.preset} saw {saw}.")
        else:
            why = _incomplete(some, results.states)
            outcome = Outcome(why=why) if why else test(claim | of, results)
            if any(item.added for item in some):
                outcome = _of_two_looks(test(claim | of, results.first_look), outcome)
        own = [[item for item in group if item.parameters.get("dataset") == dataset] for group in groups]
        row = _row(results.study, claim | of, outcome, parted, dataset)
        waits = bool(_missing(some, results.states)) and "by_construction" not in claim
        rows.append(row | {"looks": looks, "p": min(looks * outcome.p, 1.0), "used": own, "waits": waits})
    return rows


def _of_two_looks(first: Outcome, second: Outcome) -> Outcome:
    """The second look, with the smaller p of both; the first one where it decided for the other side."""
    if math.isnan(second.p) or not first.p < second.p:
        return second
    return replace(second, p=first.p) if first.side == second.side else first


def _used(claim: dict, results: Results) -> list[list[sweep.Planned]]:
    """The planned runs of each arm that a claim is about."""
    used = []
    for arm in arms(claim):
        if "fill" in arm:
            continue
        known = {n: v for n, v in arm.items() if n in results.parameters}

        def fit(names: list[str], known: dict = known) -> list[sweep.Planned]:
            return [item for item in results.plan if all(item.parameters[n] == known[n] for n in names)]

        names = [n for n in known if n not in results.parts or fit([n])]
        if not fit(names):  # one restart, say, of an arm that has 16: parts tell them apart, not runs
            names = [n for n in names if n not in results.parts]
        found = fit(names)
        if len(names) < len(known):  # some values are those of parts of runs
            made = set(rows_of_arm(results, arm, single=False)["run_id"])
            kinds = {but_seed(item) for item in found if item.run_id in made}
            found = [item for item in found if but_seed(item) in kinds]
        if results.plan and not found:
            raise NotTested(absent(results, arm, ", ".join(f"{name} = {value}" for name, value in arm.items())))
        used.append(found)
    return used


def but_seed(item: sweep.Planned) -> tuple:
    """A planned run's parameters, without its seed."""
    return tuple((name, value) for name, value in item.parameters.items() if name != "seed")


def _incomplete(used: list[sweep.Planned], states: dict[str, str]) -> str:
    """Why a grid cannot be judged: runs that diverged or are missing; "" where all are done."""
    diverged, missing = sum(states.get(item.run_id) == "diverged" for item in used), _missing(used, states)
    said = [f"{n} of {len(used)} runs {what}" for n, what in ((missing, "missing"), (diverged, "diverged")) if n]
    return f"incomplete grid: {' and '.join(said)}." if said else ""


def _missing(used: list[sweep.Planned], states: dict[str, str]) -> int:
    """How many of the runs are still to do."""
    return sum(states.get(item.run_id) not in ("done", "diverged") for item in used)


def _row(study: str, claim: dict, outcome: Outcome, results: Results | None = None, dataset: str = "") -> dict:
    """A row of claims.csv but for what needs the whole family."""
    published, kind = claim.get("published", math.nan), claim.get("test", "")
    row = dict.fromkeys(COLUMNS) | {n: claim.get(n) for n in ("id", "source", "place", "statement", "metric", "note")}
    direction = kind if kind in ("less", "equal", "increasing", "decreasing") else DIRECTION.get(kind, "greater")
    row |= {"direction": "less" if claim.get("sign") == -1 else direction, "published": published,
            "unit": UNIT.get(kind, "" if not claim.get("relative") else "of the mean" if kind == "spread" else "%"),
            "ours": outcome.ours, "ci_low": outcome.low, "ci_high": outcome.high, "p": outcome.p, "wins": outcome.wins,
            "cells": outcome.cells, "family": family(claim), "headline": bool(claim.get("headline")),
            "n_seeds": outcome.seeds, "study": study, "dataset": dataset, "why": outcome.why, "outcome": outcome,
            "waits": False,
            "preset": results.preset if results else ""}  # fmt: skip
    if not (math.isnan(outcome.low) or math.isnan(published)):
        row["published_inside"] = outcome.low <= published <= outcome.high
    if claim.get("by_construction") and not math.isnan(outcome.ours):
        row |= {"verdict": BY_CONSTRUCTION, "why": str(claim["by_construction"])}
    if results:
        row |= _where_from(claim, results, outcome.ours)
        machines, mixed = row.pop("machines", ()), row.pop("mixed", "")
        made = not math.isnan(outcome.ours) and row.get("verdict") != BY_CONSTRUCTION
        if row["computed"] == "several" and made:
            row["why"] = _sentences(row["why"], "the runs come from several versions of the code")
        if len(machines) > 1 and made:
            row["why"] = _sentences(
                row["why"], f"the runs were made on several processors ({'; '.join(machines)}){mixed}"
            )
            if row["metric"] in CLOCK:
                why = _sentences(row["why"], "times are compared on one processor alone")
                row |= {"p": math.nan, "verdict": NOT_TESTED, "why": why}
    return row


def _where_from(claim: dict, results: Results, ours: float) -> dict:
    """The test set, photos and code of a claim's own runs, and whether all its arms stay below the mean colour."""
    found = []
    for arm in arms(claim):
        with contextlib.suppress(NotTested):
            found.append((arm, rows_of_arm(results, arm, single=False)))
    own = [rows for arm, rows in found if "fill" not in arm]  # trivial fills are there for every test set
    if not any(map(len, own)):
        return {"computed": ""}
    rows = pd.concat(own)
    hashes = {str(value)[:8] for value in rows["test_set"]}
    codes = {tables.version(results.study, name) for name in rows["run_id"]}
    counts = {"n_photos": int(rows["n_photos"].iloc[0]), "n_pictures": tables.n_pictures(rows.iloc[0], results)}
    counts |= {"test_set": hashes.pop() if len(hashes) == 1 else "several"}
    return counts | {"computed": tables.short(codes.pop(), 10) if len(codes) == 1 else "several",
                     "machines": sorted({tables.machine(results.study, name) for name in rows["run_id"]}),
                     "mixed": _mixed(own, results.study) if len(own) == len(found) == 2 else "",
                     "below_trivial": None if math.isnan(ours) else _below_trivial(found, results)}  # fmt: skip


def _mixed(pair: list[pd.DataFrame], study: str) -> str:
    """In how many seeds the two arms of a comparison were made on different processors, as the end of a sentence."""
    of_seed = [{row.seed: tables.machine(study, row.run_id) for row in arm.itertuples()} for arm in pair]
    both = of_seed[0].keys() & of_seed[1].keys()
    differing = sum(of_seed[0][seed] != of_seed[1][seed] for seed in both)
    return f", and in {differing} of {len(both)} seeds the two arms on different ones" if differing else ""


def _below_trivial(found: list[tuple[dict, pd.DataFrame]], results: Results) -> bool | None:
    """Whether the PSNR of the hole of every arm, a mean over seeds, is below the mean colour's on the same photos."""
    below = []
    for arm, rows in found:
        parts = {name: value for name, value in arm.items() if name in results.parts and name not in results.parameters}
        fills = results.where(fill=tables.MEAN_COLOUR, **parts) if "psnr_hole" in rows else pd.DataFrame()
        fills = fills[fills["test_set"].isin(rows["test_set"])] if len(fills) else fills
        if fills.empty:
            return None
        below.append(bool(rows["psnr_hole"].mean() < fills["psnr_hole"].mean()))
    return all(below)


def _judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with Holm's p-values within their families, verdicts, and what their seeds could have seen."""
    for _, some in rows.groupby(["study", "preset", "dataset", "family"], sort=False, dropna=False):
        tested, waiting = some[some["verdict"].isna() & some["p"].notna()], int(some["waits"].sum())
        p = np.append(tested["p"].to_numpy(float), np.ones(waiting))
        for i, adjusted, level in zip(tested.index, statistics.holm(p), statistics.holm_levels(p), strict=False):
            outcome: Outcome = rows.at[i, "outcome"]
            detectable, needed = outcome.power(level / rows.at[i, "looks"])
            verdict = outcome.judge(adjusted)
            rows.loc[i, ["p_adjusted", "detectable", "verdict"]] = [adjusted, detectable, verdict]
            said = [rows.at[i, "why"], TWO_LOOKS if rows.at[i, "looks"] == 2 else "",
                    WAITING.format(waiting) if waiting else ""]  # fmt: skip
            if verdict == UNDECIDED:
                rows.at[i, "seeds_needed"] = needed
            elif outcome.wins == outcome.wins and statistics.sign_flip_minimum(outcome.seeds) >= statistics.ALPHA:
                said.append(f"An exact sign-flip test of {outcome.seeds} seeds cannot go below p = "
                            f"{statistics.sign_flip_minimum(outcome.seeds):.3g}.")  # fmt: skip
            if verdict in (REPRODUCED, CONTRADICTED) and rows.at[i, "headline"] and outcome.seeds < HEADLINE_SEEDS:
                said.append(f"A headline claim should have {HEADLINE_SEEDS} seeds; this one has {outcome.seeds}")
            if verdict == CONTRADICTED and isinstance(rows.at[i, "note"], str):
                said.append(rows.at[i, "note"])
            rows.at[i, "why"] = _sentences(*said)
    return rows.assign(verdict=rows["verdict"].fillna(NOT_TESTED))


def _sentences(*said: str) -> str:
    return " ".join(f"{part[0].upper()}{part[1:].rstrip('. ')}." for part in said if part)


def command(study: str, preset: str) -> str:
    """What makes a row again: the sweeps that the study needs, its own, and its report."""
    base, *changed = preset.split("+")
    needed = [one.study for one in sweep.in_order([study]) if base in one.presets]
    options = " ".join([f"--preset {base}", *(["--set", *changed] if changed else [])])
    steps = [f"sweep {name} {options if name == study else f'--preset {base}'}" for name in needed]
    return " && ".join(f"python -m inpaintlib {step}" for step in [*steps, f"report {study} --preset {preset}"])


# Files ----------------------------------------------------------------------------------------------------------------


def studies() -> list[str]:
    """The studies with a sweep file, in the order of their notebooks."""
    return [plan.study for plan in sorted(map(sweep.load, sweep.names()), key=lambda plan: plan.notebook.name)]


def build() -> pd.DataFrame:
    """Makes claims.csv and claims.md from all runs in results/; returns the rows."""
    with lock(inpaintlib.RESULTS / "claims.csv"):
        found = {study: study_rows(study, presets_of(study)) for study in studies()}
        return _save(pd.concat(found.values(), ignore_index=True))


def presets_of(study: str) -> list[str]:
    """The presets of a sweep file that verdicts come from, by size: ``smoke`` shows that all runs, not what is true."""
    return [name for name in sweep.PRESETS[1:] if name in sweep.load(study).presets]


def table(results: Results) -> pd.DataFrame:
    """The rows of one preset of a study, with numbers as numbers."""
    return _typed(study_rows(results.study, [results.preset]))


def write(results: Results) -> pd.DataFrame:
    """Puts the rows of one preset of a study into claims.csv and claims.md in place of its former ones; returns them.

    ``smoke`` and presets that ``--set`` changed are returned and not written.
    """
    new = study_rows(results.study, [results.preset])
    if results.preset in presets_of(results.study):
        with lock(inpaintlib.RESULTS / "claims.csv"):
            _save(_merged(new, results))
    return _typed(new)


def _merged(new: pd.DataFrame, results: Results) -> pd.DataFrame:
    """claims.csv with the new rows of one preset of a study: studies by notebook, claims as their file lists them."""
    path, order = inpaintlib.RESULTS / "claims.csv", {study: i for i, study in enumerate(studies())}
    there = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else new.iloc[:0]
    there = there if set(COLUMNS) <= set(there) else new.iloc[:0]  # written by an earlier version
    ids = {name: i for i, name in enumerate(dict.fromkeys(new["id"]))}
    kept = (there["study"] != results.study) | (~there["preset"].isin(["", results.preset]) & there["id"].isin(ids))
    rows = pd.concat([there[kept], new], ignore_index=True)
    keys = [
        (order.get(row.study, len(order)), *((ids[row.id], sweep.preset_rank(row.preset)) if row.study == results.study
                                             else (row.Index, 0)))
        for row in rows.itertuples()
    ]  # fmt: skip
    return rows.iloc[sorted(range(len(rows)), key=keys.__getitem__)][COLUMNS]


def _save(rows: pd.DataFrame) -> pd.DataFrame:
    path = inpaintlib.RESULTS / "claims.csv"
    write_atomically(path, rows.to_csv(index=False, lineterminator="\n"))
    rows = read()
    write_atomically(path.with_suffix(".md"), page(rows))
    return rows


def read() -> pd.DataFrame:
    """claims.csv, numbers as numbers and missing text as ""."""
    return _typed(pd.read_csv(inpaintlib.RESULTS / "claims.csv", dtype=str, keep_default_na=False))


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(**{name: pd.to_numeric(rows[name]) for name in NUMBERS if name in rows})


# Reading --------------------------------------------------------------------------------------------------------------


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: of the largest preset that tested it (of the largest at all where none did), its first data
    set."""
    rows = rows.reset_index(drop=True)
    rank = (rows["verdict"] != NOT_TESTED) * 100 + rows["preset"].map(sweep.preset_rank)
    best = rank.groupby([rows["study"], rows["id"]], sort=False).idxmax()
    return rows.loc[best].reset_index(drop=True)


def scoreboard(rows: pd.DataFrame) -> pd.DataFrame:
    """How many claims have each verdict: a row a verdict, a column a family, and all; of ``shown`` rows."""
    rows = shown(rows)
    counts = pd.crosstab(rows["verdict"], rows["family"]).reindex(index=VERDICTS, columns=FAMILIES, fill_value=0)
    return counts.assign(all=counts.sum(axis=1)).rename_axis(index="verdict", columns=None)


def scoreboard_text(rows: pd.DataFrame) -> str:
    """The scoreboard in Markdown, and how many of the decided rows are no finding."""
    rows = shown(rows)
    decided = rows["verdict"].isin([REPRODUCED, CONTRADICTED])
    below = (decided & (rows["below_trivial"] == "True")).sum()
    return (f"{scoreboard(rows).to_markdown()}\n\n{below} of the {decided.sum()} decided rows compare networks that "
            "fill worse than the mean known colour; such a row is marked, and is no finding.")  # fmt: skip


def page(rows: pd.DataFrame) -> str:
    """claims.md: the scoreboard and the shown row of each claim, by study."""
    note = ("Made from claims.csv, which has every preset. p is adjusted by Holm within a study's family of claims. An "
            "undecided claim says what distance from its limit these seeds would have shown with 80 % power, and how "
            "many seeds would decide. A claim about every cell shows the cell that its verdict rests on: the surest of "
            "those against it, else the least sure. Sources: \"ours\" are claims of this study, \"audit\" those "
            "about what MEDFE's released code does.")  # fmt: skip
    return "\n\n".join(["# Claims", note, scoreboard_text(rows), markdown(shown(rows))]) + "\n"


def markdown(rows: pd.DataFrame) -> str:
    """Rows of claims.csv for reading, a table for each study."""
    return "\n\n".join(f"## {study}\n\n{_markdown(some)}" for study, some in rows.groupby("study", sort=False))


def _markdown(rows: pd.DataFrame) -> str:
    rows, notes = noted(rows)
    listed = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1))
    return "\n\n".join(filter(None, [table_text(cells(rows)), listed]))


def table_text(table: pd.DataFrame) -> str:
    """A table of text in Markdown, its cells not padded: with padding one longer cell would change every line."""
    padded = table.map(lambda text: text.replace("|", "\\|")).to_markdown(index=False, disable_numparse=True)
    return re.sub(r" +\|", " |", re.sub(r"-{3,}", "---", padded))


def noted(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows of claims.csv, and the long sentences that three of them or more share; ``why`` names those by number."""
    sentences = rows["why"].str.split(SENTENCE_END, regex=True)
    counts = sentences.explode().value_counts(sort=False)
    numbers = {text: i for i, text in enumerate(counts.index[(counts > 2) & (counts.index.str.len() > 40)], 1)}

    def short(said: list[str]) -> str:
        shared = [str(numbers[text]) for text in said if text in numbers]
        names = f"Note{'s' * (len(shared) > 1)} {', '.join(shared)}." if shared else ""
        return " ".join(filter(None, [*(text for text in said if text not in numbers), names]))

    return rows.assign(why=sentences.map(short)), list(numbers)


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of claims.csv as text, a column for each thing that a reader is told."""
    return pd.DataFrame({
        "id": rows["id"], "claim": [cited(row) for row in rows.itertuples()], "metric": rows["metric"],
        "published": [number(row.published, row.direction, row.unit) for row in rows.itertuples()],
        "ours [95 % interval]": [_interval(row) for row in rows.itertuples()],
        "p": [p_value(row.p_adjusted)[2:].removeprefix("= ") for row in rows.itertuples()],
        "seeds": [f"{row.n_seeds:g}" if row.n_seeds else "" for row in rows.itertuples()],
        "preset": rows["preset"], "photos": [f"{row.dataset} {row.test_set}".strip() for row in rows.itertuples()],
        "verdict": [_verdict(row) for row in rows.itertuples()], "why": rows["why"],
    }).map(str)  # fmt: skip


def cited(row) -> str:
    """A claim's statement with its source and place in brackets."""
    return f"{row.statement} ({source(row)})"


def source(row) -> str:
    return ", ".join(filter(None, [row.source, row.place]))


def _verdict(row) -> str:
    said = [f"**{row.verdict}**" if row.verdict in (REPRODUCED, CONTRADICTED) else row.verdict]
    if row.cells:
        said.append(f"{row.cells} cells")
    if row.verdict == UNDECIDED:
        said.append(f"could have seen {number(row.detectable, unit=row.unit).removeprefix('+')}")
        said.append(f"{'over 1000' if math.isinf(row.seeds_needed) else f'{row.seeds_needed:g}'} seeds would decide")
    if row.below_trivial == "True":
        said.append("below the mean colour")
    return ", ".join(said)


def value(claim: str, rows: pd.DataFrame | None = None) -> str:
    """A claim's shown row in words, for prose: "−0.17 [−0.21, −0.12], p = .003, 5 seeds, reproduced".

    Raises BadInput where claims.csv has no such claim.
    """
    rows = shown(read() if rows is None else rows)
    if not (rows["id"] == claim).any():
        raise BadInput(f"results/claims.csv has no claim {claim!r}{did_you_mean(claim, rows['id'])}")
    row = rows[rows["id"] == claim].iloc[0]
    return row["verdict"] if math.isnan(row["ours"]) else f"{measured(row)}, {row['n_seeds']:g} seeds, {row['verdict']}"


def discussed(study: str, rows: pd.DataFrame, short: bool = False) -> str:
    """A Markdown list for a discussion: a sentence, with what was measured, for each claim of the study that has
    ``prose``: the first of its two where ``rows`` reproduce it, the second where they contradict it, and that
    it is open, or why it was not tested, elsewhere. ``short``: of the decided claims alone, each with its metric and
    preset."""
    rows, lines = shown(rows).set_index("id"), []
    for claim in sweep.load(study).claims:
        if "prose" not in claim or claim["id"] not in rows.index:
            continue
        row = rows.loc[claim["id"]]
        decided = row["verdict"] in (REPRODUCED, CONTRADICTED)
        if short and not decided:
            continue
        sentence = claim["prose"][row["verdict"] == CONTRADICTED]
        sentence = sentence if decided else f"*{row['verdict'].capitalize()}*: {row['statement']}"
        found = row["why"].strip(".") if row["verdict"] == NOT_TESTED else f"{measured(row)}, {row['n_seeds']:g} seeds"
        found = f"`{row['metric']}` {found}, {row['preset']}" if short else found
        mark = ", networks below the mean colour" if decided and row["below_trivial"] == "True" else ""
        lines.append(f"* {sentence} ({claim['id']}: {found}{mark}).")
    return "\n".join(lines)


def said(rows: pd.DataFrame, *names: str, dataset: str = "") -> str:
    """Rows of these claims as a Markdown list, for a report; claims whose arms the preset does not have share one line,
    unless they were tested on another data set.

    ``dataset``: that of the report; a row on another one says so. Names without a row are left out.
    """
    lines, absent_ones, tested = [], [], set(rows.loc[rows["verdict"] != NOT_TESTED, "id"])
    for row in pd.concat([rows[rows["id"] == name] for name in names]).itertuples():
        if row.verdict == NOT_TESTED and row.why.startswith(f"the preset {row.preset} has no"):
            absent_ones += [f"**{row.id}** {row.statement}"] if row.id not in tested else []
            continue
        found = [row.why] if row.verdict == NOT_TESTED else [measured(row)]
        found += [_sentences(row.why)] if row.verdict in (CONTRADICTED, BY_CONSTRUCTION) and row.why else []
        beside = f" on {row.dataset}" if dataset and row.dataset not in ("", dataset) else ""
        cells = f", {row.cells} cells" if row.cells else ""
        lines.append(f"* **{row.id}** {cited(row)}. **{row.verdict}**{beside}{cells}: {'. '.join(found)}")
    lines += [f"* Not among the runs of this preset: {'; '.join(absent_ones)}."] if absent_ones else []
    return "\n".join(lines)


def turned(*studies: str) -> str:
    """The claims that one preset answers one way and another the other way, as a Markdown list: one reproduces what the
    other contradicts, or their intervals lie on opposite sides of 0."""
    rows = read() if (inpaintlib.RESULTS / "claims.csv").exists() else pd.DataFrame(columns=COLUMNS)
    rows, lines, several = rows[rows["study"].isin(studies) & (rows["verdict"] != NOT_TESTED)], [], 0
    for name, some in rows.groupby("id", sort=False):
        several += len(some := some.drop_duplicates("preset")) > 1
        opposite = (some["ci_low"] > 0).any() and (some["ci_high"] < 0).any()
        if opposite or {REPRODUCED, CONTRADICTED} <= set(some["verdict"]):
            answers = [f"{row.preset} {measured(row)}, {row.verdict}" for row in some.itertuples()]
            lines.append(f"* **{name}** {cited(some.iloc[0])}: {'; '.join(answers)}.")
    counted = f"{several} claims were tested by two presets or more"
    return "\n".join([*lines, "", f"{counted}."]) if lines else f"{counted}; none turned."


def measured(row) -> str:
    """What a row measured: "−0.17 [−0.21, −0.12], p = .003"; p is the adjusted one, where there is one."""
    return ", ".join(filter(None, [_interval(row), p_value(row.p_adjusted)]))


def _interval(row) -> str:
    value, *ends = (number(x, row.direction, row.unit) for x in (row.ours, row.ci_low, row.ci_high))
    text = f"{value} [{', '.join(ends)}]" if all(ends) else value
    return f"rho {text}" if row.unit == "rho" and text else f"{text} {row.unit}" if row.unit[:2] == "of" else text


def number(value: float, direction: str = "equal", unit: str = "") -> str:
    """Three digits (four of a figure), with a sign where the claim has a direction; shares and differences in % where
    the unit is such."""
    if math.isnan(value):
        return ""
    if unit in ("", "rho"):
        return (f"{value:.4g}" if direction == "equal" else f"{value:+.3g}").replace("-", "−")
    return f"{100 * value:{'+' if unit == '%' else ''}.3g} %".replace("-", "−")


def p_value(p: float) -> str:
    """As it is printed: p = .003, p < .001, p = 1; nothing for NaN."""
    if math.isnan(p):
        return ""
    return "p < .001" if p < 0.001 else f"p = {f'{p:.3f}'.lstrip('0')}" if p < 0.9995 else "p = 1"
