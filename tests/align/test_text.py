"""Centring and whitening of texts, and the adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpt4image import Moments, TextAdapter, TextTransform
from gpt4image.core.errors import ConfigError
from support.tensors import draw_vectors


def correlated_vectors(count=200, width=6):
    found = draw_vectors(0, count, width, torch.float32) * torch.arange(1, width + 1) + 3
    return found @ draw_vectors(1, width, width, torch.float32)


def test_moments_of_chunks_equal_those_of_all_vectors():
    found = Moments.of(correlated_vectors().half().split(33))
    whole = correlated_vectors().half().double().numpy()
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(found.covariance, np.cov(whole.T, bias=True), atol=1e-8)
    assert found.count == 200
    for nothing in ([], [torch.zeros(0, 3)]):
        with pytest.raises(ConfigError, match="no texts"):
            Moments.of(nothing)


def test_centred_texts_have_mean_0_and_whitened_ones_no_correlation():
    moments = Moments.of([correlated_vectors()])
    raw, centred = (TextTransform(space, moments) for space in ("raw", "centred"))
    assert torch.equal(raw(correlated_vectors()), correlated_vectors())
    torch.testing.assert_close(centred(correlated_vectors()), correlated_vectors() - correlated_vectors().mean(dim=0))
    white = TextTransform("whitened", moments, shrinkage=0.0)(correlated_vectors())
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-3)
    assert white.mean(dim=0).abs().max() < 1e-3
    with pytest.raises(ConfigError, match="Did you mean 'centred'"):
        TextTransform("centered", moments)


def test_whitening_matrix_equals_the_formula():
    moments = Moments.of([correlated_vectors()])
    found = TextTransform("whitened", moments, shrinkage=0.5).matrix.double().numpy()
    covariance = moments.covariance.numpy()
    inverse = np.linalg.inv(covariance + 0.5 * np.trace(covariance) / 6 * np.eye(6))
    np.testing.assert_allclose(found @ found, inverse, rtol=1e-4, atol=1e-6)


def test_whitening_works_with_fewer_texts_than_dimensions():
    white = TextTransform("whitened", Moments.of([correlated_vectors(3)]))(correlated_vectors())
    assert white.isfinite().all()


def test_adapter_starts_as_the_identity():
    adapter = TextAdapter(6)
    assert torch.equal(adapter(correlated_vectors()), correlated_vectors())
    assert adapter.down.out_features == 1
    adapter(correlated_vectors()).sum().backward()
    assert adapter.up.weight.grad.abs().max() > 0
    assert sum(parameter.numel() for parameter in TextAdapter(8, 2).parameters()) == 8 * 2 + 2 + 2 * 8 + 8
