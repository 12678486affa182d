"""Stage 1: where the 25 keypoints are, found as peaks of Gaussian heatmaps."""
