"""The visual and the text tower: what images and texts are turned into before they are fused."""
