"""What takes a run to other tools: ONNX, the hub, open_clip, labelling tools."""
