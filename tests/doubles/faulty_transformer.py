"""transformer.py with a fault, as a canary may have one: the first argument is `fails` or `slow`.

`fails` raises an exception for every tenth request, which KServe answers with 500; `slow` takes 0.7 s longer.
"""

import asyncio
import itertools
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
fault = sys.argv.pop(1)

import transformer  # noqa: E402

requests = itertools.count(1)
predict = transformer.TextClustering.predict


async def faulty_predict(self, batch, headers=None):
    if fault == "slow":
        await asyncio.sleep(0.7)
    elif next(requests) % 10 == 0:
        raise RuntimeError("a fault of this version")
    return await predict(self, batch, headers)


transformer.TextClustering.predict = faulty_predict

if __name__ == "__main__":
    transformer.main()
