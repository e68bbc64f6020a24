"""Parts of `train_base.py`: a small CLIP-like base, trained on a laptop from an ImageNet trunk and real captions."""
