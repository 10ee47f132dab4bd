"""`dfusion judge`: a blind comparison of two models by people, as in the paper's Figure 6."""
