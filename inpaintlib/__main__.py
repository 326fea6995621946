"""The command line: ``python -m inpaintlib fetch | prepare | sweep | full | pack | unpack | status |
report | inpaint | keep | bench``.

Bad input ends in one sentence and exit status 2, Ctrl-C in 130; a sweep with failed runs ends in 1.
"""

import argparse
import re
import sys
import time

import inpaintlib
from inpaintlib import ROOT, BadInput


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        if inpaintlib.RESULTS.is_file():
            raise BadInput(f"INPAINT_RESULTS must name a folder, or not be set: {inpaintlib.RESULTS} is a file")
        return options.run(options) or 0
    except BadInput as error:
        print(f"inpaintlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\ninpaintlib: interrupted {error}".rstrip(), file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m inpaintlib", description="A reproducibility study of image inpainting."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "fetch", fetch, "Get a dataset, the masks, or the pretrained networks; what is there is used in place."
    )
    sub.add_argument("name", nargs="?", help="a name from --list, `pretrained`, or `inception_fc`")
    sub.add_argument("--source", metavar="PATH", help="an archive or folder that you have already")
    sub.add_argument("--list", action="store_true", help="what there is, and what is here")

    sub = command("prepare", prepare, "Decode a dataset once into a memory-mapped uint8 array.")
    sub.add_argument("dataset", help="a fetched dataset's name, or a folder or zip of photos")
    sub.add_argument("size", type=int, help="side in px")
    sub.add_argument(
        "--resize", help="crop (short side, then the centre) | squash | multiscale; default: the dataset's"
    )
    sub.add_argument("--limit", type=int, help="only so many photos of each split")
    sub.add_argument("--skip-bad", action="store_true", help="leave unreadable photos out instead of stopping")
    sub.add_argument("--structures", action="store_true", help="also MEDFE's structure images of the training photos")

    sub = command("sweep", sweep, "Execute the runs of studies; finished ones are skipped, unfinished ones resume.")
    sub.add_argument("study", nargs="+", help="names of studies, paths of sweep files, or all")
    sub.add_argument("--preset", default="quick", help="smoke | quick | night | full | exact (default: quick)")
    sub.add_argument("--workers", type=int, help="runs at a time on this machine")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="use the workers of a running Dask scheduler instead")
    pairs = {"nargs": "+", "action": "extend", "default": []}
    sub.add_argument("--set", **pairs, metavar="NAME=VALUE[,VALUE]", help="override notebook parameters")
    sub.add_argument("--only", **pairs, metavar="NAME=VALUE[,VALUE]", help="leave out the runs with other values")
    sub.add_argument("--rerun", choices=("failed", "damaged", "diverged", "done"), metavar="STATUS",
                     help="only runs that failed (are damaged, diverged, done), from their beginning")  # fmt: skip
    sub.add_argument("--dry-run", action="store_true", help="only say which runs are to do and how long they take")
    sub.add_argument("--time-limit", type=duration, metavar="9m", help="stop at checkpoints before that; s, m, h or d")
    sub.add_argument("--until", choices=("decided",), help="add seeds to claims that the preset leaves undecided")
    sub.add_argument("--budget", type=duration, metavar="3h", default=10800.0, help="time for them (default: 3h)")
    sub.add_argument("--run-time-limit", type=duration, metavar="2h", help="a run that takes longer fails")

    sub = command("full", full, "Make the runs of the preset full in order of worth: an hour of one GPU, in pieces.")
    sub.add_argument("--dry-run", action="store_true", help="only say what is to do and how many minutes it takes")
    sub.add_argument("--time-limit", type=duration, metavar="9m", help="stop at checkpoints before that (default: 60m)")
    sub.add_argument("--workers", type=int, help="runs that share the GPU (default: as `bench share` found, or 1)")
    sub.add_argument("--rehearse", action="store_true", help="a thousandth of the training, in results-rehearsal")

    sub = command("pack", pack, "Put photos, networks and masks of a preset into parts for a machine without network.")
    sub.add_argument("preset", help="smoke | quick | night | full | exact")
    sub.add_argument("folder", help="where the parts go")
    sub.add_argument("--study", nargs="+", default=["all"], help="names of studies, or paths of sweep files")

    sub = command("unpack", unpack, "Check the parts that `pack` made and put what is in them in place.")
    sub.add_argument("folder", help="where the parts are")

    sub = command("keep", keep, "Keep a method's network in results/networks, small, with a card; inpaint takes it.")
    sub.add_argument("method", help="such as partial_conv")
    sub.add_argument("--run", dest="of", metavar="STUDY/RUN", help="whose network; default: of the preset night")

    sub = command("status", status, "List runs: done, running, failed, damaged, stale, diverged or unfinished.")
    sub.add_argument("study", nargs="?")
    sub.add_argument("--watch", action="store_true", help="again every two seconds, until Ctrl-C")

    sub = command("report", report, "Execute a study's report notebook: tables, figures, GIFs, claims.")
    sub.add_argument("study", nargs="?", help="the name of a study, the path of a sweep file, or all")
    sub.add_argument("--html", action="store_true", help="write all that there is as one page, results/report.html")
    sub.add_argument(
        "--preset",
        default="auto",
        help="auto (the largest that is complete), or a name, such as quick+ratio=10,50",
    )

    sub = command("inpaint", fill, "Fill holes of your own photos, of any size; known pixels keep their bytes.")
    sub.add_argument("photo", nargs="+", help="photos, or folders of them")
    sub.add_argument(
        "--mask",
        required=True,
        help="a PNG of the photo's size, white = hole; a folder of such PNGs, "
        "named as photos are; alpha (what is not opaque is hole); or centre (half the short side)",
    )
    sub.add_argument("--method", required=True, metavar="NAME[,NAME...]", help="such as partial_conv,telea")
    sub.add_argument("--checkpoint", metavar="FILE", help="the weights, not those of the largest finished preset")
    sub.add_argument("--out", required=True, metavar="DIR", help="gets PHOTO_METHOD.png, and contact_sheet.png of all")
    sub.add_argument("--blend", action="store_true", help="let each fill meet the known pixels (Poisson blending)")
    sub.add_argument("--device", default="auto", help="auto | cpu | cuda")

    sub = command("bench", bench, "Measure training speed beside a plain baseline; writes results/bench.csv.")
    sub.add_argument("name", help="context_encoder | partial_conv | latent_search | medfe | share | study")
    return top


def fetch(options) -> None:
    from inpaintlib.data import datasets

    if options.list:
        from tabulate import tabulate

        print(tabulate(datasets.listing(), headers="keys", intfmt=",", missingval=""))
    elif options.name is None:
        raise BadInput("fetch: name a dataset (python -m inpaintlib fetch --list shows them), or pretrained")
    elif options.name in ("pretrained", "inception_fc"):
        from inpaintlib import pretrained

        print(*pretrained.fetch(None if options.name == "pretrained" else options.name), sep="\n")
    else:
        print(datasets.fetch(options.name, options.source))


def prepare(options) -> None:
    from inpaintlib.data import photos

    prepared = photos.prepare(
        options.dataset, options.size, options.resize, limit=options.limit, skip_bad=options.skip_bad
    )
    counts = ", ".join(f"{name} {prepared.meta[name]:,}" for name in ("train", "test", "duplicates", "small"))
    print(f"{prepared.folder}: {counts}, unreadable {len(prepared.meta['bad']):,}")
    if options.structures:
        from inpaintlib.studies.autoencoder import with_structures

        made = with_structures(photos.load(options.dataset, options.size, "train", options.resize, options.limit))
        print(f"{made.array.filename}: {len(made):,} photos with their structure images")


def sweep(options) -> int:
    from inpaintlib.harness import decide
    from inpaintlib.harness import sweep as sweeps

    studies = sweeps.names() if options.study == ["all"] else options.study
    how = {"workers": options.workers, "dry": options.dry_run, "scheduler": options.scheduler,
           "time_limit": options.time_limit, "run_time_limit": options.run_time_limit}  # fmt: skip
    if options.until:
        if options.set or options.only or options.rerun:
            raise BadInput("--until decided chooses the runs itself; leave --set, --only and --rerun out")
        return decide.run(studies, options.preset, options.budget, **how)
    over, only = (sweeps.parse_pairs(name, pairs) for name, pairs in (("--set", options.set), ("--only", options.only)))
    return sweeps.run(studies, options.preset, overrides=over, only=only, rerun=options.rerun, **how)


def full(options) -> int:
    from inpaintlib.harness import full as plan

    return plan.run(options.time_limit, options.workers, options.dry_run, options.rehearse)


def pack(options) -> None:
    from inpaintlib.harness import pack as packing

    print(packing.pack(options.preset, options.folder, options.study))


def unpack(options) -> None:
    from inpaintlib.harness import pack as packing

    print(packing.unpack(options.folder))


def status(options) -> None:
    from inpaintlib.harness import sweep as sweeps

    while True:
        table = sweeps.status(options.study)
        counts = ", ".join(f"{n} {state}" for state, n in table["status"].value_counts().items())
        print("\033[2J\033[H" if options.watch else "", end="")
        print(f"{table.to_markdown(index=False)}\n\n{counts}" if len(table) else "no runs yet")
        if not options.watch:
            return
        time.sleep(2.0)


def report(options) -> None:
    from inpaintlib.harness import report as reports

    if options.study is None and not options.html:
        raise BadInput("report: name a study, or all; --html writes one page of all that was reported")
    if options.study == "all":
        reports.execute_all(options.preset)
    elif options.study:
        print(reports.execute(options.study, options.preset) or f"{options.study} has no report of its own")
    if options.html:
        print(reports.html_page())


def fill(options) -> int:
    from pathlib import Path

    from inpaintlib import inpaint

    return inpaint.run(options.photo, options.mask, options.method.split(","), Path(options.out), options.checkpoint,
                       options.blend, options.device)  # fmt: skip


def keep(options) -> None:
    from inpaintlib.harness.runs import Run
    from inpaintlib.studies import all_methods

    print(all_methods.keep(options.method, Run(*options.of.strip("/").split("/")[-2:]) if options.of else None))


def duration(text: str) -> float:
    """Seconds from 90, 90s, 9m, 1.5h or 1d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"must be a number and s, m, h or d, such as 9m, not {text!r}")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def bench(options) -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks import speed as benches

    print(benches.run(options.name).to_markdown(index=False))


if __name__ == "__main__":
    sys.exit(main())
