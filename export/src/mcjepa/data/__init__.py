"""Readers for images, videos and benchmarks, and the augmentations of training (numpy and OpenCV, no torch).

Every picture is uint8 RGB (H, W, 3), and every reader is random access: what a training step reads is a pure
function of (seed, step), which makes an exact resume possible.
"""
