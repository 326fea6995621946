"""The README says what claims.csv says, and its commands, links and packages exist."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata

import pandas as pd
import pytest
import yaml

from inpaintlib import ROOT, BadInput
from inpaintlib.__main__ import parser
from inpaintlib.harness import claims, readme, sweep

TEXT = (ROOT / "README.md").read_text()
CODE = re.findall(r"```(?:\w*)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for line in "\n".join(CODE).splitlines() if "-m inpaintlib" in line]
SOURCES = ("Pathak", "Liu", "Yeh", "Radford", "Gielisse", "Meneust", "a student", "Halama", "Li")


def test_marked_text_is_what_claims_csv_says():
    assert readme.rendered(TEXT, claims.shown(claims.read())) == TEXT


def test_a_second_rendering_changes_nothing_and_only_marked_text_changes(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(re.sub(r"(<!-- results \S+ -->).*?(<!-- /results -->)", r"\1stale\2", TEXT, flags=re.DOTALL))
    readme.update_readme(path)
    assert path.read_text() == TEXT


def test_every_headline_claim_is_in_a_table_or_counted_as_not_tested():
    rows = claims.shown(claims.read())
    headlines = rows[rows["headline"] == "True"]
    for study, some in headlines.groupby("study"):
        tested = some["verdict"] != claims.NOT_TESTED
        if tested.any():
            [table] = re.findall(rf"<!-- results {study} -->(.*?)<!-- /results -->", TEXT, re.DOTALL)
            assert re.findall(r"^\| (\S+): ", table, re.MULTILINE) == list(some["id"][tested])
            assert sum(map(int, re.findall(r"Not tested yet: (\d+) more", table))) == (~tested).sum()
    with pytest.raises(BadInput, match="no headline claim is of such a study"):
        readme.rendered("<!-- results moon -->old<!-- /results -->", rows)


@pytest.mark.parametrize(("kind", "family"), [("findings", "published"), ("new", "ours")])
def test_findings_of_the_sources_and_our_own_stand_apart(kind, family):
    rows = claims.shown(claims.read())
    decided = rows[rows["verdict"].isin([claims.REPRODUCED, claims.CONTRADICTED]) & (rows["family"] == family)]
    for name, study, inside in re.findall(rf"<!-- ({kind}) (\S+) -->(.*?)<!-- /{kind} -->", TEXT, re.DOTALL):
        told = {claim["id"] for claim in sweep.load(study).claims if "prose" in claim}
        due = told & set(decided.loc[decided["study"] == study, "id"])
        assert set(re.findall(r"\((\S+): `", inside)) == due, name
        assert due, f"{name} {study} has nothing to say"


def test_no_figure_of_a_finding_stands_outside_the_markers():
    unmarked = readme.MARKED.sub("", TEXT)
    found = unmarked[unmarked.index("\n## What was found") :].split("\n## ")[1]
    prose = re.sub(r"\[notebook \d\d\]\([^)]*\)|\]\([^)]*\)|`[^`]*`", "", found)
    assert re.findall(r"\d", prose) == []
    figures = re.findall(r"[\d.]+ ?(?:%|dB|percent)|[×±]\d", unmarked)
    assert set(figures) <= {"5 %", "90 %"}  # of the rules, not of findings
    for word in ("reproduced", "contradicted", "undecided"):  # the scoreboard's words, never with a number
        assert not re.search(rf"\d+ (?:\w+ )?{word}|{word}:? \d", unmarked)


def test_commands_are_understood_by_the_command_line():
    assert len(COMMANDS) >= 9
    for line in COMMANDS:
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "inpaintlib"], line
        options = vars(parser().parse_args(words[3:]))
        named = options.get("study") or []
        studies = [named] if isinstance(named, str) else named
        studies = claims.studies() if studies == ["all"] else studies
        for study in studies:
            assert options.get("preset", "quick") in sweep.load(study).presets, line


def test_commands_stand_behind_the_activation_of_the_environment_and_make_knows_its_targets():
    assert TEXT.index("source .venv/bin/activate") < TEXT.index("python -m inpaintlib")
    assert "\n.venv/installed:" in (ROOT / "Makefile").read_text()  # makes .venv
    targets = re.findall(r"^make (\w+)", "\n".join(CODE), re.MULTILINE)
    assert set(targets) >= {"study", "test"}
    for target in targets:
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()


def test_links_to_files_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("http")]
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_source_is_linked_or_named_in_the_readme_and_cited():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license", "references"} <= set(cited)
    first = [reference["authors"][0] for reference in cited["references"]]
    names = [author.get("family-names", author.get("name", "")) for author in first]
    assert [source for source in SOURCES if not any(name.startswith(source) for name in names)] == []
    for reference in cited["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)
        for key in ("url", "repository-code"):
            assert reference.get(key, "https://").startswith("https://")
            assert reference.get(key, "") in TEXT, reference["title"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_requirements_name_what_is_installed():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    for line in filter(None, lines):
        name, version = re.sub(r"\[.*?\]", "", line).split("==")
        assert metadata.version(name) == version or metadata.version(name).startswith(f"{version}+"), name


ROW = {"id": "X-1", "source": "Liu 2018", "place": "Table 1", "statement": "more is better", "study": "s",
       "verdict": "contradicted", "family": "published", "direction": "greater", "ours": -1.25, "ci_low": -1.5,
       "ci_high": -1.0, "p_adjusted": 0.02, "n_seeds": 6.0, "preset": "night",
       "below_trivial": "", "why": "", "unit": "", "note": ""}  # fmt: skip
UNTESTED = {"verdict": "not tested", "ours": float("nan"), "preset": ""}


def test_lists_of_contradicted_and_untested_claims():
    rows = pd.DataFrame([
        ROW | {"id": "X-0", "verdict": "reproduced"}, ROW, ROW | {"id": "X-2", "family": "ours"},
        ROW | {"id": "X-3", "place": "", "below_trivial": "True", "note": "at 64 px"},
        ROW | UNTESTED | {"id": "X-4", "why": "it needs a GPU."},
        ROW | UNTESTED | {"id": "X-5", "why": "incomplete grid: 2 of 3 runs missing."},
        ROW | UNTESTED | {"id": "X-6", "why": "the preset night has no finished run of arm = l1"},
    ])  # fmt: skip
    said = "−1.25 [−1.5, −1], p = .020, 6 seeds, preset night"
    assert readme.contradicted(rows).splitlines() == [
        f"* X-1: more is better (Liu 2018, Table 1): {said}",
        f"* X-3: more is better (Liu 2018): {said}, arms below the mean colour (at 64 px)",
    ]
    assert readme.contradicted(rows[:1]) == "None."
    listed = "* 2 × their runs are still to do\n* 1 × a reason of its own, in results/claims.md"
    assert readme.not_tested(rows) == listed
    text = "a\n<!-- not tested -->old<!-- /not tested -->\n"
    assert readme.rendered(text, rows) == f"a\n<!-- not tested -->\n{listed}\n<!-- /not tested -->\n"


@pytest.mark.notebooks
def test_the_claims_page_says_what_claims_csv_says(tmp_path):
    """Four rows of real claims; a notebook's text, by the headings that it stands under."""
    row = dict.fromkeys(claims.COLUMNS, "") | ROW | {
        "study": "context_encoder_ratios", "metric": "psnr_hole", "detectable": 0.5, "n_photos": 64, "n_pictures": 32,
        "test_set": "12345678", "dataset": "demo", "command": "python -m inpaintlib sweep it",
        "why": "It is narrower."}  # fmt: skip
    ids = [claim["id"] for claim in sweep.load("context_encoder_ratios").claims]
    pd.DataFrame([
        row | {"id": ids[0], "below_trivial": "True"}, row | {"id": ids[1], "verdict": "reproduced", "why": ""},
        row | {"id": ids[2], "verdict": "undecided", "seeds_needed": 23, "why": ""},
        row | UNTESTED | {"id": ids[3], "n_seeds": 0, "why": "It needs ImageNet."},
    ])[claims.COLUMNS].to_csv(tmp_path / "claims.csv", index=False)  # fmt: skip
    (tmp_path / "context_encoder_ratios").mkdir()
    (tmp_path / "context_encoder_ratios" / "times.csv").write_text("preset,training_seconds\nnight,360\nquick,1\n")
    done = tmp_path / "91.ipynb"
    command = [sys.executable, "-m", "papermill", "91_claims.ipynb", str(done), "-k", "python3"]
    env = os.environ | {"INPAINT_RESULTS": str(tmp_path)}
    subprocess.run(command, check=True, cwd=ROOT / "notebooks", env=env, capture_output=True)
    text, heading = {}, ""
    for cell in json.loads(done.read_text())["cells"]:
        heading = cell["source"][0].strip("# \n") if cell["cell_type"] == "markdown" else heading
        for output in cell.get("outputs", []):
            text[heading] = text.get(heading, "") + "".join(output.get("data", {}).get("text/markdown", []))
    page = text["Context Encoders"]
    assert (
        f"**Contradicted: {ids[0]}.** Liu 2018, Table 1: *more is better*. Measured: −1.25 [−1.5, −1], p = .020, "
        in page
    )
    assert "so this is no finding. It is narrower.\n\n    python -m inpaintlib sweep it" in page
    assert page.count("**Contradicted") == 1
    (undecided,) = [
        line for line in text["What stays undecided, and what it would cost"].splitlines() if ids[2] in line
    ]
    assert [cell.strip() for cell in undecided.strip("|").split("|")][2:] == ["night", "6", "23", "−1.25", "0.5", "3.4"]
    assert "It needs ImageNet." in text["What is not tested, and why"]
    assert ids[0] in text["What learned nothing"]
    assert ids[1] not in text["What learned nothing"]
    assert (tmp_path / "context_encoder_ratios/figures/claims.png").exists()
