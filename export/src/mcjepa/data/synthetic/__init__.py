"""What known-motion pairs are composed of: motions, outlines, layers, light; in batches, on any device."""
