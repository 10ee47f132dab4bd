"""Meanings of the quantities in the report, by column of the tables of the run."""

from __future__ import annotations

from ...evaluation.measures import CLIP, DIVERSITY, REWARD, RIGHT

MEASURES = {
    REWARD: "what training raises: the score of a picture for its prompt, by the reward that stands under the tables",
    CLIP: "cosine of the CLIP embeddings of a picture and its prompt",
    RIGHT: "share of pictures that show what their prompt names, as a classifier sees it that is no reward",
    DIVERSITY: "1 - the mean cosine of the CLIP embeddings of a prompt's pictures; a model that has collapsed to one "
    "picture has none, so look at it beside every gain",
}
ALGORITHMS = {
    "dpo": "DPO: of two images the better one becomes more probable than the worse one (Eq. 6)",
    "ddpo": "DDPO: images become more probable by how far their reward is above the mean of their prompt (Eq. 8)",
    "dpok": "DPOK: as DDPO, and the model is kept near the one before the round (Eq. 9)",
}
CONSTRUCTIONS = {
    "dfusion": "dfusion pairs: the better image is a target, the worse image made again with keys and values of a "
    "well-aligned reference (Eq. 4 and 5)",
    "naive": "naive pairs: two sampled images, the better one as it is",
    "same_noise": "same_noise pairs: two images from the same first noise",
    "inversion": "inversion pairs: as dfusion, with trajectories of targets guessed back by DDIM inversion",
}
PAIRS = {
    "pairs": "pairs of two images of one prompt: a reference of high reward and a base of low reward "
    "(which is not the base model)",
    "adopted": "targets that are trained on as winners (Eq. 7); otherwise the reference is the winner",
    "adopted_share": "the same, as a share of all pairs",
    "reference_lead": "reward of the reference minus that of the base, on average",
    "target_gain": "reward of the target minus that of the base, on average",
    "fresh_gain": "what any other image of the prompt gains over the base: bases are chosen for a low reward, so only "
    "a target gain above this one is owed to the reference",
    "mask_coverage": "share of positions and timesteps at which keys and values are taken from the reference",
    "reference_distance": "mean absolute difference of the pixels of reference and base, 0 to 1",
    "target_distance": "the same for target and base: consistent pairs are well below the line above",
    "target_distance_outside": "the same where no mask ever was: next to nothing",
    "reference_similarity": "cosine of the CLIP embeddings of reference and base",
    "target_similarity": "cosine of the CLIP embeddings of target and base: consistent pairs are above the line above",
    "empty_masks": "references whose mask is empty: the target is the base and is not adopted",
    "ties": "pairs that are left out because both images have the same reward",
    "reward_gap": "reward of the winner minus that of the loser, on average",
    "pair_distance": "mean absolute difference of the pixels of both images, 0 to 1",
    "pair_similarity": "cosine of the CLIP embeddings of both images",
}
UPDATES = {
    "loss": "mean over pairs and timesteps; for DPO it stays near log 2 = 0.693, whatever is learned",
    "margin": "log-ratio of the winner minus that of the loser; a log-ratio is log p now - log p before the round, per "
    "latent element",
    "implicit_accuracy": "share of terms in which the winner's log-ratio is the larger one; 0.5 is chance",
    "winner_drift": "mean log-ratio of the winners: above 0 they have become more probable",
    "loser_drift": "mean log-ratio of the losers: below 0 they have become less probable",
    "largest_log_ratio": "the largest absolute log-ratio of all terms",
    "clip_fraction": "share of probability ratios beyond train.ratio_clip, which have no gradient",
    "gradient_norm": "norm of the gradient, before it is clipped",
    "epsilon_share_A": "epsilon's share in AdamW's denominator for the matrices A: near 1 gradients are so small that "
    "steps vanish",
    "epsilon_share_B": "the same for the matrices B",
    "gradient_share": "share of the timestep in the gradient of the update",
}


def name(column: str) -> str:
    """A column as words."""
    return column.replace("_", " ")
