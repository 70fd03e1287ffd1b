"""Values of options of a model: trained part, engine, precision; imports nothing heavy."""

from typing import Literal

Part = Literal["head", "tail", "all"]
"""Trained part: the projections; also the image tower's last stage; or the whole model."""

EngineName = Literal["auto", "torch", "bf16", "onnx"]
"""Engine of a frozen image encoder; auto: on a CPU the fastest that agrees with torch, else torch.
onnx is for CPUs, bf16 also for CUDA."""

Precision = Literal["auto", "float32", "bf16", "fp16"]
"""Precision of the encoders while they are trained; weights, losses and outputs are float32 in any
case. auto: bfloat16 on a GPU that computes in it natively, else float32. fp16 scales the losses; it
is for GPUs without bfloat16 (T4, V100). On a CPU bf16 is twice as fast with AMX; on AMD's
processors with AVX-512 BF16 transformers gain nearly as much. Elsewhere it is slower."""
