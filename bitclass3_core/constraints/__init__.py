"""What an allocation must keep: rules, limits, the GPU's share, and the problem that they leave."""
