"""MC-JEPA: joint self-supervised training of optical flow and image embeddings, evaluation and export."""

__version__ = "0.1.0"
