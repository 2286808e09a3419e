"""``python -m benchmarks``: lists the benchmarks and runs them.

A benchmark is a module here with a ``run(out, quick)`` and one line in `BENCHMARKS`. Its docstring's first line is what
the list shows. Nothing here passes or fails: figures are for people, and for the next who measures.
"""

import argparse
from pathlib import Path

from benchmarks import first_frame, frames_load, h2, index, index_far, metadata, qido, register, stow

BENCHMARKS = {
    "first-frame": first_frame,
    "frames-load": frames_load,
    "h2": h2,
    "index": index,
    "index-far": index_far,
    "metadata": metadata,
    "qido": qido,
    "register": register,
    "stow": stow,
}


def main() -> None:
    width = max(map(len, BENCHMARKS))
    told = {name: (m.__doc__ or "").splitlines()[0].removeprefix(f"{name}: ") for name, m in BENCHMARKS.items()}
    listed = "\n".join(f"  {name:{width}}  {text}" for name, text in told.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure multiframe.\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="which; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats: does it run?")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where results go (default: benchmarks/results)")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and leave")
    asked = parser.parse_args()
    if asked.list:
        print(listed)
        return
    if unknown := set(asked.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are:\n{listed}")
    # A quick look never takes the place of figures that were taken with care.
    out = asked.out or Path(__file__).parent / ("results/quick" if asked.quick else "results")
    out.mkdir(parents=True, exist_ok=True)
    for name in asked.names or BENCHMARKS:
        BENCHMARKS[name].run(out, quick=asked.quick)


if __name__ == "__main__":
    main()
