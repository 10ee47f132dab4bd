"""The policy and its mathematics: DDIM, log-probs, denoising."""
