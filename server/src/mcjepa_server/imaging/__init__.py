"""Sizes of frames, resizing, limits and occlusion."""
