"""The command line: ``python -m inpaintlib fetch | prepare | sweep | status | report | bench``.

Bad input ends in one sentence and exit status 2, Ctrl-C in 130; a sweep with failed runs ends in 1.
"""

import argparse
import sys

from inpaintlib import ROOT, BadInput


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
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

    sub = command("sweep", sweep, "Execute the runs of a study; finished ones are skipped, unfinished ones resume.")
    sub.add_argument("study")
    sub.add_argument("--preset", default="quick", help="smoke | quick | night | full | exact (default: quick)")
    sub.add_argument("--workers", type=int, help="notebooks at a time")
    sub.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="override notebook parameters")

    sub = command("status", status, "List runs: done, running, failed, stale, diverged or unfinished.")
    sub.add_argument("study", nargs="?")

    sub = command("report", report, "Execute a study's report notebook: tables, figures, GIFs, claims.")
    sub.add_argument("study")
    sub.add_argument("--preset", default="quick")

    sub = command("bench", bench, "Measure training speed beside a plain baseline; writes results/bench.csv.")
    sub.add_argument("name", help="context_encoder | partial_conv | latent_search")
    return top


def fetch(options) -> None:
    from inpaintlib import pretrained
    from inpaintlib.data import datasets

    if options.list:
        from tabulate import tabulate

        print(tabulate(datasets.listing(), headers="keys", intfmt=",", missingval=""))
    elif options.name is None:
        raise BadInput("fetch: name a dataset (python -m inpaintlib fetch --list shows them), or pretrained")
    elif options.name in ("pretrained", "inception_fc"):
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


def sweep(options) -> int:
    import yaml

    from inpaintlib.harness import sweep as sweeps

    overrides = {}
    for pair in options.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"--set: {pair!r} is not NAME=VALUE")
        overrides[name] = yaml.safe_load(value)
    return sweeps.run(options.study, options.preset, options.workers, overrides)


def status(options) -> None:
    from inpaintlib.harness import sweep as sweeps

    table = sweeps.status(options.study)
    print("no runs yet" if table.empty else table.to_markdown(index=False))


def report(options) -> None:
    from inpaintlib.harness import report as reports

    print(reports.execute(options.study, options.preset) or f"{options.study} has no report of its own")


def bench(options) -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks import speed as benches

    print(benches.run(options.name).to_markdown(index=False))


if __name__ == "__main__":
    sys.exit(main())
