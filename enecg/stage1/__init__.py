"""Stage 1: features of frozen backbones, and training of heads and backbones, expert by expert."""
