"""Classifiers on fixed vectors: cross-fitting, calibration, likely label errors, confidence intervals."""
