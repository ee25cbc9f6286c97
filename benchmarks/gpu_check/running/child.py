"""One part of the check, in this process: ``python -m benchmarks.gpu_check.running.child JOB``."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

from benchmarks.gpu_check.running.job import DONE, Job, Missing, Record, failed, skipped


def main() -> int:
    """Measure, and leave how that ended in the job's file; 1 where the part raises."""
    job = Job.of_words(sys.argv[1])
    record = Record(job.results)
    try:
        import_module(job.module).measure(job, record)
        record["state"] = DONE
    except Missing as reason:
        record |= skipped(reason)
    except Exception as error:
        traceback.print_exc()
        record |= failed(error)
        return 1
    finally:
        record.keep()
    return 0


if __name__ == "__main__":
    sys.exit(main())
