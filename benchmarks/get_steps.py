"""Time of a training step of GET with cached views, compared with both encoders from pixels.

    python benchmarks/get_steps.py [--batch 16] [--device cuda] [--model ViT-B-32]

Plain: stage 1 runs the image and the text encoder; stage 2 runs the image encoder twice (frozen,
and with its last block trained) and the text encoder. Here: stage 1 starts from cached image
features, stage 2 from cached trunk outputs and the texts synthesised after stage 1; with new views
at each step (`--views 0`) it runs the trunk once, from pixels. The same shapes, 9 tokens on both
sides, random weights; forward, backward and SGD. Lines of other models, devices and batches stay in
`results/get_steps.json`.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.methods.gcd_common import seeded
from anyclass.methods.get import Branches, Get, Synthesizer, align, anchor_log_probs, consistency
from anyclass.methods.simgcd import branch_loss

RESULTS = Path(__file__).parent / "results" / "get_steps.json"
CLASSES = 200


def seconds(loss: Callable[[], Tensor], parameters: list[Tensor]) -> float:
    """Time of the fastest of three steps, after one warm-up step."""
    sgd = torch.optim.SGD(parameters, 0.001, 0.9)
    found = []
    for _ in range(4):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        sgd.zero_grad()
        loss().backward(inputs=parameters)
        sgd.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def main() -> None:
    """Measure both stages in all variants."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=16, help="pairs of views")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--model", default="ViT-B-32", help="open_clip architecture")
    asked = parser.parse_args()
    b = asked.batch
    how = Get()
    model = open_clip.create_model(asked.model).to(asked.device)
    clip = Backbone(model, open_clip.get_tokenizer(asked.model), asked.model)
    tuned = clip.copy()
    x = torch.randn(2 * b, 3, *clip.preprocessing.size).to(asked.device)
    labels = torch.where(torch.arange(b) % 2 == 0, torch.arange(b) % 7, -1).repeat(2)
    labels = labels.to(asked.device)
    with torch.no_grad():
        hidden = clip.trunk(x, "tail")
        z = clip.projected(hidden, "tail")
        width = clip.pooled(hidden, "tail").shape[1]
    synthesizer = seeded(lambda: Synthesizer(clip, z.shape[1], how), 0).to(asked.device)
    net = Branches(width, z.shape[1], CLASSES, how, 0).to(asked.device)
    with torch.no_grad():
        z_hat = synthesizer(z)

    def stage_1(image: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad():
            features = image()
        return align(features, synthesizer(features), 100.0)

    def stage_2(visual: Callable[[], Tensor], text: Callable[[], Tensor]) -> Tensor:
        v = visual()
        t = net.ln_t(text())
        branches = [branch_loss(*net.head(f), labels, 0.07, how.objective) for f in (v, t)]
        terms = [term for branch in branches for term in branch.values()]
        both = consistency(*(anchor_log_probs(f, labels, how.cico_temperature) for f in (v, t)))
        return torch.stack([*terms, both]).sum()

    @torch.no_grad()
    def frozen() -> Tensor:
        return synthesizer(clip.projected(x, "all"))

    @torch.no_grad()
    def trunk() -> Tensor:
        return tuned.trunk(x, "tail")

    def one_trunk() -> Tensor:
        outputs = trunk()
        with torch.no_grad():
            texts = synthesizer(clip.projected(outputs, "tail"))
        return stage_2(lambda: tuned.pooled(outputs, "tail"), lambda: texts)

    words = list(synthesizer.parameters())
    trained = [*tuned.last_stage().values(), *net.parameters()]
    times = {
        "stage_1_plain": seconds(lambda: stage_1(lambda: clip.projected(x, "all")), words),
        "stage_1_here": seconds(lambda: stage_1(lambda: z), words),
        "stage_2_plain": seconds(
            lambda: stage_2(lambda: tuned.pooled(trunk(), "tail"), frozen), trained
        ),
        "stage_2_here": seconds(
            lambda: stage_2(lambda: tuned.pooled(hidden, "tail"), lambda: z_hat), trained
        ),
        "stage_2_pixels": seconds(one_trunk, trained),
    }
    on_gpu = torch.device(asked.device).type == "cuda"
    card = torch.cuda.get_device_name(asked.device) if on_gpu else asked.device
    key = {"model": asked.model, "batch": b, "device": card}
    row = key | {"threads": torch.get_num_threads()}
    row |= {name: round(value, 3) for name, value in times.items()}
    for name in ("stage_1_here", "stage_2_here", "stage_2_pixels"):
        row[f"{name}_times_faster"] = round(times[f"{name[:7]}_plain"] / times[name], 1)
    print(json.dumps(row))
    lines = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    lines = [line for line in lines if any(line[name] != key[name] for name in key)] + [row]
    RESULTS.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
