"""Statistics of arrays; nothing of ours."""
