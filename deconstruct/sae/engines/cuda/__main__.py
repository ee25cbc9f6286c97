"""The self-check, for `elsewhere`: prints what it finds as JSON.

python -m deconstruct.sae.engines.cuda DEVICE SPEC
"""

from __future__ import annotations

import json
import sys

from deconstruct.common.showing import say
from deconstruct.sae.engines.cuda.check import disagreement
from deconstruct.sae.engines.cuda.topk import FusedTopK
from deconstruct.sae.spec import StepSpec

device, told = sys.argv[1:]
fields = json.loads(told)
for name in ("betas", "prefixes"):
    fields[name] = tuple(fields[name])
say(json.dumps(disagreement(FusedTopK, StepSpec(**fields), device)))
