"""Whole videos: frames, clips that overlap by one, results in order, and what is written of them."""
