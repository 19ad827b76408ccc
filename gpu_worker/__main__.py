"""`python -m gpu_worker`: one worker per GPU of this machine, or one on its CPU."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from pydantic import ValidationError

from gpu_worker.devices import environment_of, gpus, supervise
from gpu_worker.logs import set_up_logs
from gpu_worker.main import run_worker
from gpu_worker.settings import WorkerSettings


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gpu_worker", description=__doc__)
    parser.add_argument(
        "--devices",
        metavar="all|0,1|cpu",
        help="one worker per GPU: all of them, or those with these numbers; cpu: none. Default: PORTRAIT_DEVICE",
    )
    chosen = parser.parse_args(arguments).devices
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        for each in error.errors(include_input=False):
            sys.stderr.write(f"PORTRAIT_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}\n")
        return 2
    set_up_logs(settings.log_format, settings.log_level)
    if chosen is None:
        return asyncio.run(run_worker(settings))
    numbers = [] if chosen == "cpu" else gpus() if chosen == "all" else chosen.split(",")
    if not numbers:
        logging.getLogger(__name__).info("no GPU: working on the CPU")
        return asyncio.run(run_worker(settings.model_copy(update={"device": "cpu"})))
    return supervise([environment_of(number) for number in numbers])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
