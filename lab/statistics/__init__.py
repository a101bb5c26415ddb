"""What scores of repeated runs show: intervals, comparisons, sequential tests, equivalence. Does not import torch."""
