"""Gaussian processes against normal vectors, scikit-learn and gpytorch, in double precision."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from metarl.functional import gaussian_process

LENGTHS = np.array([0.5, 2.0])
PARAMS = {
    "log_amplitude": torch.tensor(0.3).double(),
    "log_length": torch.tensor(np.log(LENGTHS)),
    "log_noise": torch.tensor(-1.2).double(),
}


def drawn():
    rng = np.random.default_rng(0)
    inputs, queries, targets = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 5, 2)), None
    targets, more = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4))
    return inputs, targets, queries, more


def slow_kernel(left, right):
    found = np.empty((len(left), len(right)))
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            apart = (one - other) / LENGTHS
            found[i, j] = np.exp(2 * 0.3) * np.exp(-0.5 * (apart @ apart))
    return found


def test_likelihood_is_that_of_a_normal_vector():
    inputs, targets, _, more = drawn()
    tensors = torch.tensor(inputs), torch.tensor(targets), torch.tensor(more)
    found = gaussian_process.log_likelihood(PARAMS, *tensors)
    for n in range(3):
        covariance = slow_kernel(inputs[n], inputs[n]) + np.diag(np.exp(-2.4) + more[n])
        assert np.isclose(found[n], multivariate_normal.logpdf(targets[n], cov=covariance))


def test_posterior_is_the_conditional_distribution():
    inputs, targets, queries, more = drawn()
    tensors = map(torch.tensor, (inputs, targets, queries, more))
    found = gaussian_process.posterior(PARAMS, *tensors)
    for n in range(3):
        noisy = slow_kernel(inputs[n], inputs[n]) + np.diag(np.exp(-2.4) + more[n])
        cross = slow_kernel(queries[n], inputs[n]) @ np.linalg.inv(noisy)
        assert np.allclose(found.mean[n], cross @ targets[n])
        explained = cross @ slow_kernel(inputs[n], queries[n])
        assert np.allclose(found.covariance[n], slow_kernel(queries[n], queries[n]) - explained)


def test_posterior_is_that_of_scikit_learn():
    process = pytest.importorskip("sklearn.gaussian_process")
    inputs, targets, queries, _ = drawn()
    kernels = process.kernels
    form = kernels.ConstantKernel(np.exp(0.6)) * kernels.RBF(LENGTHS)
    found = gaussian_process.posterior(PARAMS, *map(torch.tensor, (inputs, targets, queries)))
    for n in range(3):
        other = process.GaussianProcessRegressor(form, alpha=np.exp(-2.4), optimizer=None)
        mean, covariance = other.fit(inputs[n], targets[n]).predict(queries[n], return_cov=True)
        assert np.allclose(found.mean[n], mean) and np.allclose(found.covariance[n], covariance)


def gpytorch_model(gpytorch, inputs, targets, noise):
    """A process of gpytorch with the kernel and the noise of PARAMS, for all tasks at once."""

    class Model(gpytorch.models.ExactGP):
        def __init__(self):
            likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise=noise)
            super().__init__(inputs, targets, likelihood)
            self.mean = gpytorch.means.ZeroMean()
            kernel = gpytorch.kernels.RBFKernel(ard_num_dims=len(LENGTHS))
            self.kernel = gpytorch.kernels.ScaleKernel(kernel)

        def forward(self, inputs):
            own = self.mean(inputs), self.kernel(inputs)
            return gpytorch.distributions.MultivariateNormal(*own)

    model = Model().double()
    model.kernel.outputscale = (2.0 * PARAMS["log_amplitude"]).exp()
    model.kernel.base_kernel.lengthscale = torch.tensor(LENGTHS)
    return model


def test_posterior_and_likelihood_are_those_of_gpytorch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it uses torch.jit.script
        gpytorch = pytest.importorskip("gpytorch")
    inputs, targets, queries, more = map(torch.tensor, drawn())
    noise = (2.0 * PARAMS["log_noise"]).exp() + more
    model = gpytorch_model(gpytorch, inputs, targets, noise)
    mean_likelihood = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    expected = mean_likelihood(model(inputs), targets) * targets.shape[1]
    likelihood = gaussian_process.log_likelihood(PARAMS, inputs, targets, more)
    torch.testing.assert_close(likelihood, expected.detach(), rtol=0, atol=1e-12)
    other = model.eval()(queries)
    found = gaussian_process.posterior(PARAMS, inputs, targets, queries, more)
    torch.testing.assert_close(found.mean, other.mean.detach(), rtol=0, atol=1e-12)
    covariance = other.covariance_matrix.detach()
    torch.testing.assert_close(found.covariance, covariance, rtol=0, atol=1e-12)


def test_samples_have_the_mean_and_the_covariance():
    inputs, targets, queries, _ = drawn()
    found = gaussian_process.posterior(PARAMS, *map(torch.tensor, (inputs, targets, queries)))
    noise = torch.randn(3, 20_000, 5, generator=torch.Generator().manual_seed(0)).double()
    samples = found.sample(noise, 1e-9)
    assert torch.allclose(samples.mean(dim=1), found.mean, atol=0.03)
    for n in range(3):
        assert torch.allclose(torch.cov(samples[n].mT), found.covariance[n], atol=0.05)


def test_covariance_that_is_not_finite_is_an_error_of_numbers():
    inputs = torch.full((1, 3, 2), float("nan"), dtype=torch.float64)
    with pytest.raises(FloatingPointError, match="a covariance is not positive definite, or not"):
        gaussian_process.factor(PARAMS, inputs)
