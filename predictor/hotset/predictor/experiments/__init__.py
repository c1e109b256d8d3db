"""The experiments behind docs/experiments.md: models trained on some traces, judged by replay on others.

python -m hotset.predictor.experiments eviction TRACE... --folds 4 --out FOLDER
python -m hotset.predictor.experiments lookahead TRACE... --out FOLDER
python -m hotset.predictor.experiments transfer --train TRACE... --judge TRACE... --out FOLDER
"""
