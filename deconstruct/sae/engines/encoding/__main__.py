"""The check of the fused selection, for `check.wrong_elsewhere`: prints what it finds as JSON.

python -m deconstruct.sae.engines.encoding DEVICE [D_IN,D_SAE,K]
"""

from __future__ import annotations

import json
import sys

from deconstruct.common.showing import say
from deconstruct.sae.engines.encoding.check import drawn_fault

device, sizes = sys.argv[1:]
say(json.dumps(drawn_fault(device, *json.loads(sizes))))
