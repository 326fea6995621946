"""More seeds for undecided claims: which, how many, and two looks at half the alpha each."""

import json

import numpy as np
import pytest
from scipy import stats

from inpaintlib import BadInput
from inpaintlib.__main__ import main
from inpaintlib.data import datasets
from inpaintlib.harness import claims, decide, engine, statistics, sweep
from inpaintlib.harness.tables import Results
from tests.conftest import meanwhile
from tests.test_claims import NOISE, A, B, claim
from tests.toy_study import PRESETS, Toy

C, OWN = {"arm": "c"}, {"source": "Paper 2018", "place": "Table 1"}
NEAR, FAR, SOME = claim("NEAR"), claim("FAR", above=0.2001), claim("SOME", a=A, b=C, above=1.15, **OWN)
DECIDED, ALONE = claim("DECIDED", a=B, b=C, above=0.5), claim("ALONE", a=C, b={"arm": "ratio", "ratio": 1})
TIMED = {name: preset | {"hours": 0.75} for name, preset in PRESETS.items()}  # 100 s for each of 27 runs


def measure(p):
    """Arm a is above b by .2, give or take the noise of its seed, half of it in added seeds; c is below b by 1."""
    noise = NOISE[p["seed"] % 6] * (1.0 if p["seed"] < 6 else 0.5)
    level = {"a": 10.2 + noise, "b": 10.0, "c": 9.0 + 0.1 * NOISE[p["seed"] % 6]}
    return {"psnr_hole": level.get(p["arm"], 0.0)}


def differences(n):
    return np.array([measure({"arm": "a", "seed": seed})["psnr_hole"] - 10 for seed in range(n)])


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A study whose preset quick is done, and a sweep that finishes at once what is due and notes it in ``made``."""
    found = Toy(tmp_path, monkeypatch, TIMED, [NEAR, FAR, DECIDED, SOME, ALONE])
    found.finish("quick", measure)
    found.made = []

    def execute(graph, needs, due, workers, **how):
        found.made += [(item.study, item.parameters["arm"], item.parameters["seed"]) for item in due]
        if due:
            found.finish("quick", measure, items=due)
        return engine.OK

    monkeypatch.setattr(engine, "sweep", execute)
    monkeypatch.setattr(datasets, "check", lambda *_: None)
    return found


def until_decided(capsys, *options):
    """The status of the command, the cells of its table by claim, and what it printed."""
    status = main(["sweep", "toy", "--until", "decided", "--workers", "1", *options])
    printed = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    return status, {row[1]: row[2:] for row in cells[2:]}, printed


def test_a_dry_run_says_which_seeds_would_decide_and_what_they_cost(toy, capsys):
    status, rows, printed = until_decided(capsys, "--budget", "1h", "--dry-run")
    assert status == 0
    assert statistics.seeds_needed(0.2, NOISE.std(ddof=1), 0.025 / 2) == 17  # half of alpha; Holm: two p's as large
    assert rows["NEAR"] == ["6", "17", "22", f"{22 * 100 / 3600:.2f}", "added"]
    assert rows["FAR"] == ["6", "over 1000", "0", "0", "stays open"]
    assert rows["SOME"][-1] == "stays open"  # its seeds would take longer than an hour
    assert "DECIDED" not in rows
    assert [printed.count(f"adds toy arm={arm},seed=") for arm in "abc"] == [11, 11, 0]
    assert "22 runs, 0.61 of 1 hours, 1 at a time" in printed
    assert until_decided(capsys, "--budget", "36m", "--dry-run")[1]["NEAR"][-1] == "stays open"
    assert (toy.made, list(toy.results.glob("*/more_seeds.json"))) == ([], [])


def test_added_seeds_count_in_tables_and_claims_which_are_judged_at_two_looks(toy, capsys):
    before = claims.build().set_index("id")
    assert before.loc["NEAR", ["verdict", "n_seeds", "why"]].tolist() == ["undecided", 6, ""]
    status, _, printed = until_decided(capsys, "--budget", "1h")
    assert status == 0
    assert toy.made == [("toy", arm, seed) for arm in "ab" for seed in range(6, 17)]
    assert "reproduced   toy NEAR: Two looks at half the alpha each, the second with more seeds" in printed
    assert "stays open   toy FAR" in printed
    recorded = json.loads((toy.results / "toy/more_seeds.json").read_text())
    assert {run.partition("-")[0]: seeds for run, seeds in recorded["quick"].items()} == {
        "arm=a,seed=5": [*range(6, 17)], "arm=b,seed=5": [*range(6, 17)]}  # fmt: skip

    row = claims.build().set_index("id").loc["NEAR"]
    looks = [stats.ttest_1samp(differences(n), 0).pvalue for n in (6, 17)]
    assert (row["n_seeds"], row["verdict"]) == (17, "reproduced")
    alone = claims.build().set_index("id").loc["ALONE"]  # got no seeds, since it was decided: two looks all the same
    values = [measure({"arm": "c", "seed": seed})["psnr_hole"] for seed in range(3)]
    assert alone["p"] == pytest.approx(2 * stats.ttest_1samp(values, 0).pvalue, rel=1e-5)
    assert before.loc["ALONE", "p"] == pytest.approx(alone["p"] / 2, rel=1e-5)
    assert "toy ALONE" not in printed
    assert row["p"] == pytest.approx(2 * min(looks), rel=1e-5)
    assert row["ours"] == pytest.approx(differences(17).mean(), rel=1e-5)
    assert (Results("toy", "quick").runs["arm"] == "a").sum() == 17
    assert (Results("toy", "quick").first_look.runs["arm"] == "a").sum() == 6

    _, _, printed = until_decided(capsys, "--budget", "9h")
    assert "toy: the seeds of the second look were chosen before; there is no third." in printed
    assert len(toy.made) == 22


def test_a_second_look_that_was_interrupted_goes_on_and_unfinished_seeds_do_not_count(toy, capsys, monkeypatch):
    def interrupted(graph, needs, due, workers, **how):
        toy.finish("quick", measure, items=due[:3])
        return engine.INTERRUPTED

    whole = engine.sweep
    monkeypatch.setattr(engine, "sweep", interrupted)
    assert until_decided(capsys, "--budget", "1h")[0] == engine.INTERRUPTED
    assert len(sweep.plan("toy", "quick")) == 27 + 3
    assert sweep.reported("toy") == "quick"  # still complete
    assert claims.build().set_index("id").loc["NEAR", "n_seeds"] == 6  # arm b has no pair for arm a's new seeds
    monkeypatch.setattr(engine, "sweep", whole)
    assert until_decided(capsys)[0] == 0
    assert len(toy.made) == 19
    assert claims.build().set_index("id").loc["NEAR", "n_seeds"] == 17


def test_seeds_that_two_add_at_once_are_both_there(toy):
    like, path = sweep.plan("toy", "quick")[0], toy.results / "toy" / "more_seeds.json"
    meanwhile(path, lambda: decide._record(like, "quick", 7), lambda: path.write_text('{"night": {"a": [8]}}'))
    assert json.loads(path.read_text()) == {"night": {"a": [8]}, "quick": {like.run_id: [7]}}


def test_runs_that_the_new_ones_need_come_with_the_same_seed(toy, capsys):
    toy.sweep_file(TIMED, study="base")
    toy.sweep_file(TIMED, [NEAR], needs=["base"])
    toy.finish("quick", measure, items=sweep.plan("base", "quick"))
    _, rows, printed = until_decided(capsys, "--budget", "9h")
    lacking = int(rows["NEAR"][1]) - 6
    assert rows["NEAR"][2] == str(lacking * (2 + 3))  # a and b; a, b and c, which have the seed 5, of the needed study
    assert printed.index("adds base arm=a,seed=6") < printed.index("adds toy arm=a,seed=6")
    assert {("base", arm, 6 + i) for arm in "abc" for i in range(lacking)} < set(toy.made)
    assert len(sweep.plan("base", "quick")) == 27 + 3 * lacking


def test_a_first_look_that_is_not_complete_other_options_and_a_foreign_record_are_one_sentence(toy, capsys):
    assert main(["sweep", "toy", "--until", "decided", "--preset", "night"]) == 2
    assert "night has 27 runs to do before a first look; make them with python -m inpaintlib sweep toy --preset night" \
        in capsys.readouterr().err  # fmt: skip
    assert main(["sweep", "toy", "--until", "decided", "--workers", "-1"]) == 2
    assert "workers must be at least 1, not -1" in capsys.readouterr().err
    assert main(["sweep", "toy", "--until", "decided", "--only", "seed=1"]) == 2
    assert "leave --set, --only and --rerun out" in capsys.readouterr().err
    name = sweep.plan("toy", "quick")[0].run_id
    for content in ({"quick": [1]}, {"quick": {name: 3}}, {"quick": {name: ["x"]}}, []):
        (toy.results / "toy/more_seeds.json").write_text(json.dumps(content))
        with pytest.raises(BadInput, match=r"more_seeds\.json must name runs of presets|seed must be a whole number"):
            sweep.plan("toy", "quick")
