"""Time of a training step of GET with cached views, compared with both encoders from pixels.

    python benchmarks/get_steps.py [--batch 16] [--device cuda] [--model ViT-B-32]

Plain: stage 1 runs the image and the text encoder; stage 2 runs the image encoder twice (frozen,
and with its last block trained) and the text encoder. Here: stage 1 starts from cached image
features, stage 2 from cached trunk outputs and the texts synthesised after stage 1; with new views
at each step (`--views 0`) it runs the trunk once, from pixels. The same shapes, 9 tokens on both
sides, random weights; forward, backward and SGD. Stage 1 also with `--precision bf16`, on
processors that gain by it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from side_by_side import main, side_by_side, step
from torch import Tensor

from anyclass.backbone import Backbone
from anyclass.backbone.engine import multiplies_bf16
from anyclass.methods.gcd_common import seeded
from anyclass.methods.get import Branches, Get
from anyclass.methods.get_equations import align, anchor_log_probs, consistency
from anyclass.methods.get_synthesizer import Synthesizer
from anyclass.methods.simgcd import branch_loss

RESULTS = Path(__file__).parent / "results" / "get_steps.json"
CLASSES = 200


def measure(
    batch: int = 16, device: str = "cpu", model: str = "ViT-B-32", repeat: int = 3
) -> list[dict[str, Any]]:
    """Rows of both stages, of the second also with new views at each step."""
    b = batch
    how = Get()
    encoders = open_clip.create_model(model).to(device)
    clip = Backbone.of(encoders, open_clip.get_tokenizer(model), model)
    tuned = clip.copy()
    x = torch.randn(2 * b, 3, *clip.preprocessing.size).to(device)
    labels = torch.where(torch.arange(b) % 2 == 0, torch.arange(b) % 7, -1).repeat(2)
    labels = labels.to(device)
    with torch.no_grad():
        hidden = clip.trunk(x, "tail")
        z = clip.projected(hidden, "tail")
        width = clip.pooled(hidden, "tail").shape[1]
    synthesizer = seeded(lambda: Synthesizer(clip, z.shape[1], how), 0).to(device)
    net = Branches(width, z.shape[1], CLASSES, how, 0).to(device)
    with torch.no_grad():
        z_hat = synthesizer(z)

    def stage_1(image: Callable[[], Tensor]) -> Tensor:
        with torch.no_grad():
            features = image()
        return align(features, synthesizer(features), 100.0)

    def stage_1_in_bf16() -> Callable[[], None]:
        rounded = Backbone.of(encoders, open_clip.get_tokenizer(model), model, precision="bf16")
        words_in_bf16 = seeded(lambda: Synthesizer(rounded, z.shape[1], how), 0)
        return step(lambda: align(z, words_in_bf16(z), 100.0), list(words_in_bf16.parameters()))

    def stage_2(visual: Callable[[], Tensor], text: Callable[[], Tensor]) -> Tensor:
        v = visual()
        t = net.ln_t(text())
        terms: list[Tensor] = []
        for f in (v, t):
            h, cosines = net.head(f)
            terms += branch_loss(h, cosines, labels, 0.07, how.objective).values()
        log_v = anchor_log_probs(v, labels, how.cico_temperature)
        log_t = anchor_log_probs(t, labels, how.cico_temperature)
        return torch.stack([*terms, consistency(log_v, log_t)]).sum()

    @torch.no_grad()
    def frozen() -> Tensor:
        texts: Tensor = synthesizer(clip.projected(x, "all"))
        return texts

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
    plain_1 = step(lambda: stage_1(lambda: clip.projected(x, "all")), words)
    here_1 = step(lambda: stage_1(lambda: z), words)
    plain_2 = step(lambda: stage_2(lambda: tuned.pooled(trunk(), "tail"), frozen), trained)
    here_2 = step(
        lambda: stage_2(lambda: tuned.pooled(hidden, "tail"), lambda: z_hat),
        trained,
    )
    pairs = {
        "GET, step of stage 1": (plain_1, here_1, torch.float32),
        "GET, step of stage 2, cached views": (plain_2, here_2, torch.float32),
        "GET, step of stage 2, new views": (plain_2, step(one_trunk, trained), torch.float32),
    }
    if device == "cpu" and multiplies_bf16():
        pairs["GET, step of stage 1, --precision bf16"] = (
            plain_1,
            stage_1_in_bf16(),
            torch.bfloat16,
        )
    on_gpu = torch.device(device).type == "cuda"
    card = torch.cuda.get_device_name(device) if on_gpu else device
    shape = {"model": model, "batch": b, "device": card, "threads": torch.get_num_threads()}
    return [
        {"what": what} | shape | side_by_side(plain, here, repeat, dtype, device).row()
        for what, (plain, here, dtype) in pairs.items()
    ]


if __name__ == "__main__":
    main(__doc__, measure, RESULTS, batch=16, model="ViT-B-32")
