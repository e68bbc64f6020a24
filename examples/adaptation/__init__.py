"""Parts of `study_adaptation.py`: what is encoded, and the rows of its table."""
