"""`dfusion thresholds`: a proposal for each item's thr_o of Eq. 4, from a few sampled images."""
