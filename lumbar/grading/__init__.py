"""Stage 2: how severe each condition is, graded from regions of interest around the keypoints."""
