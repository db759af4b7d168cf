"""Networks: backbones, where they can be cut, and the four strategies."""
