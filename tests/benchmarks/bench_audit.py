"""The audit of one source at the published size, and how its time grows.

    python tests/benchmarks/bench_audit.py

Made-up scenes (`tests/exposures.py`) with as many placebos: 16,384 train scenes of 3 to 13 options
and 4,000 test scenes of five, then a quarter of them. Told: seconds and largest memory of a process
of its own, the share that learning takes, and the ratio of the two sizes, which on one machine does
not depend on how fast it is.
Bars: two minutes on two cores; four times the scenes take at most six times as long.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

TRAIN, TEST = 16_384, 4_000
_BAR_SECONDS, _BAR_RATIO = 120, 6


def measured(train: int, test: int) -> dict[str, float]:
    """Audit made-up scenes in this process."""
    from tests import exposures
    from usermirrorer.builders.audit import learned
    from usermirrorer.builders.audit.report import audit

    tables = [exposures.splits(train, test, placebo=placebo) for placebo in (False, True)]
    audit(*[{s: t.slice(0, 200) for s, t in made.items()} for made in tables])  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    fitting, fit = [0.0], learned.fit

    def timed(x, lists):
        begun = time.perf_counter()
        model = fit(x, lists)
        fitting.append(time.perf_counter() - begun)
        return model

    learned.fit = timed
    begun = time.perf_counter()
    found = audit(*tables)
    seconds = time.perf_counter() - begun
    assert found["verdict"] == "holds", found["sources"]["movielens"]["why"]
    return {
        "scenes": train + test,
        "audit_s": round(seconds, 2),
        "of_which_fitting_s_of_all_threads": round(sum(fitting), 2),
        "scenes_per_s": round(2 * (train + test) / seconds),
        "memory_before_gb": round(before, 2),
        "largest_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Measure both sizes, each in a process of its own, and hold them against the bars."""
    if len(sys.argv) == 3:
        print(json.dumps(measured(int(sys.argv[1]), int(sys.argv[2]))))
        return
    told = {}
    for name, part in (("a_quarter", 4), ("whole", 1)):
        command = [sys.executable, __file__, str(TRAIN // part), str(TEST // part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        told[name] = json.loads(done.stdout)
    ratio = told["whole"]["audit_s"] / told["a_quarter"]["audit_s"]
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({**told, "ratio": round(ratio, 2), "cores": cores}, indent=2))
    if told["whole"]["audit_s"] > _BAR_SECONDS or ratio > _BAR_RATIO:
        sys.exit("slower than the bar")


if __name__ == "__main__":
    main()
