"""The process that asks is killed in the middle: no answer that was kept is asked for again."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from anyclass.captioning import CaptionContext

KILLS, AT_ONCE, VARIANTS = 10, 4, 15
ASK = """if True:
    import json, sys
    from pathlib import Path
    import torch
    from anyclass.data import ImageDataset
    from anyclass.captioning import CaptionContext, CaptionRequest, Endpoint

    folder, url, variants, at_once = sys.argv[1:]
    dataset = ImageDataset.of(sorted(Path(folder).iterdir()))
    rows = range(len(dataset))
    asked = [(i, f"What, for the {v}th time?", v) for v in range(int(variants)) for i in rows]
    requests = [CaptionRequest((i,), question, "object", v) for i, question, v in asked]
    endpoint = Endpoint(url=url, model="llava", concurrency=int(at_once))
    context = CaptionContext(dataset, None, torch.zeros(len(dataset), 3))
    print(json.dumps(endpoint.describe(requests, context, lambda **numbers: None)))
"""


def start(context: CaptionContext, server: Any, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ASK, context.dataset.root, server.url, VARIANTS, AT_ONCE]
    environment = os.environ | {"ANYCLASS_CACHE": str(cache)}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, env=environment
    )


def sound(cache: Path) -> str:
    database = sqlite3.connect(cache)
    (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
    database.close()
    return verdict


@pytest.mark.slow
def test_endpoint__killed_anywhere_goes_on(
    server: Any, context: CaptionContext, tmp_path: Path
) -> None:
    server.seconds = 0.02
    total = len(context.dataset) * VARIANTS
    for point in sorted(random.sample(range(1, total), KILLS)):
        with start(context, server, tmp_path / "killed") as asking:
            while len(server.questions) < point and asking.poll() is None:
                time.sleep(0.001)
            asking.kill()
        assert asking.returncode == -9, "it had ended before it was killed"
        assert sound(tmp_path / "killed" / "answers" / "journal.sqlite") == "ok"
    said = json.loads(start(context, server, tmp_path / "killed").communicate()[0])
    assert total <= len(server.questions) <= total + KILLS * AT_ONCE
    unbroken = json.loads(start(context, server, tmp_path / "whole").communicate()[0])
    assert said == unbroken
    assert len(said) == total
    assert None not in said
