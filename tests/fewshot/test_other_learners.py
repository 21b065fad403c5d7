"""Metric, memory, optimiser, latent and Bayesian learners against obvious code."""

import math

import numpy as np
import pytest
import torch
from fewshot_tasks import CLASSIFICATION, REGRESSION, SINGLE, double_params, tasks_of
from scipy.spatial.distance import cdist
from scipy.special import expit, softmax
from scipy.stats import multivariate_normal

from metarl.fewshot.learners import bmaml
from metarl.fewshot.learners.bmaml import BayesianMaml
from metarl.fewshot.learners.gp import GaussianProcess
from metarl.fewshot.learners.gradient import GradientLearner
from metarl.fewshot.learners.leo import Leo
from metarl.fewshot.learners.mann import Mann
from metarl.fewshot.learners.meta_lstm import OWN, MetaLstm
from metarl.fewshot.learners.prototypical import Prototypical
from metarl.fewshot.learners.siamese import Siamese
from metarl.learners.maml.adaptations.learned_optimiser import encode


def slow_embed(params, x):
    for i in range(3):
        x = x @ params[f"weight{i}"].numpy() + params[f"bias{i}"].numpy()
        x = np.maximum(x, 0) if i < 2 else x
    return x


def arrays(tasks, i):
    return [v[i].numpy() for v in (tasks.support_x, tasks.support_y, tasks.query_x)]


def test_prototypes_are_class_means():
    learner = Prototypical(CLASSIFICATION, embedding_size=3)
    params, tasks = double_params(learner), tasks_of(CLASSIFICATION)
    (logits,) = learner.predict(params, tasks, 0)
    for i in range(len(tasks)):
        x, y, query = arrays(tasks, i)
        way = y.argmax(axis=1)
        centres = np.stack([slow_embed(params, x[way == k]).mean(axis=0) for k in range(3)])
        square = cdist(slow_embed(params, query), centres, "sqeuclidean")
        assert np.allclose(logits[i].numpy(), -square)


def test_siamese_probability_of_every_pair():
    learner = Siamese(CLASSIFICATION, embedding_size=3)
    params, tasks = double_params(learner), tasks_of(CLASSIFICATION)
    (found,) = learner.predict(params, tasks, 0)
    losses, weights = [], []
    for i in range(len(tasks)):
        x, y, query = arrays(tasks, i)
        way, truth = y.argmax(axis=1), tasks.query_y[i].numpy().argmax(axis=1)
        for q in range(len(query)):
            sums = np.zeros(3)
            for m in range(len(x)):
                ends = [expit(slow_embed(params, v)) for v in (x[m], query[q])]
                logit = np.abs(ends[0] - ends[1]) @ params["similarity"].numpy()
                p = expit(logit + params["offset"].numpy())
                sums[way[m]] += p / 2  # two examples of each class
                is_same = way[m] == truth[q]
                losses.append(-np.log(p if is_same else 1 - p))
                weights.append(2.0 if is_same else 1.0)
            assert np.allclose(found[i, q].numpy(), sums)
    loss = learner.loss(params, tasks, np.random.default_rng(0))
    assert np.isclose(loss.item(), np.average(losses, weights=weights))


def slow_mann(learner, params, examples, query):
    """Runs one task, slot by slot; returns the outputs (Q, A)."""
    own = {n: v.numpy() for n, v in params.items()}
    size, heads, width = learner.num_slots, learner.num_heads, learner.width

    def step(state, inputs):
        h, c, memory, usage, weights, read = state
        gates = np.concatenate([inputs, read, h]) @ own["control"] + own["control_bias"]
        entry, keep, new, out = np.split(gates, 4)
        c = expit(keep) * c + expit(entry) * np.tanh(new)
        h = expit(out) * np.tanh(c)
        each = (h @ own["heads"] + own["heads_bias"]).reshape(heads, width + 2)
        free = sorted(range(size), key=lambda slot: usage[slot])[:heads]
        memory, new_usage = memory.copy(), learner.decay * usage
        memory[free] = 0.0
        for r in range(heads):
            write = expit(each[r, width]) * weights[r]
            write[free[r]] += 1.0 - expit(each[r, width])
            memory += np.outer(write, np.tanh(each[r, :width]))
            new_usage = new_usage + write
        reads, new_weights = [], []
        for r in range(heads):
            key = np.tanh(each[r, :width])
            cosine = [m @ key / max(np.linalg.norm(m), 1e-6) / np.linalg.norm(key) for m in memory]
            weight = softmax((1.0 + np.log1p(np.exp(each[r, width + 1]))) * np.array(cosine))
            reads.append(weight @ memory)
            new_weights.append(weight)
            new_usage = new_usage + weight
        read = np.concatenate(reads)
        output = np.concatenate([h, read]) @ own["answer"] + own["answer_bias"]
        return (h, c, memory, new_usage, new_weights, read), output

    zeros = np.zeros(learner.num_hidden)
    first = [np.eye(size)[0]] * heads
    state = (zeros, zeros, np.full((size, width), 1e-3), np.zeros(size), first)
    state = (*state, np.zeros(heads * width))
    for example in examples:
        state, _ = step(state, example)
    return np.stack([step(state, row)[1] for row in query])


@pytest.mark.parametrize("problem", [REGRESSION, CLASSIFICATION])
def test_memory_equals_a_loop_over_heads_and_slots(problem):
    learner = Mann(problem, num_hidden=6, num_slots=5, width=3)
    params, tasks = double_params(learner), tasks_of(problem)
    before, after = learner.predict(params, tasks, 0)
    for i in range(len(tasks)):
        x, y, query = arrays(tasks, i)
        rows = np.concatenate([query, np.zeros((len(query), y.shape[1]))], axis=1)
        examples = np.concatenate([x, y], axis=1)
        assert np.allclose(after[i].numpy(), slow_mann(learner, params, examples, rows))
        assert np.allclose(before[i].numpy(), slow_mann(learner, params, [], rows))


def test_examples_are_written_to_different_slots():
    learner = Mann(CLASSIFICATION, num_hidden=6, num_slots=8, width=3, num_heads=1)
    params, tasks = double_params(learner), tasks_of(CLASSIFICATION)
    params["heads_bias"][3] = -50.0  # every write goes to the least used slot
    state, written = learner.begin(len(tasks), tasks.support_x), []
    for m in range(4):
        example = torch.cat([tasks.support_x[:, m], tasks.support_y[:, m]], dim=1)
        before, (state, _) = state.slots.memory, learner.step(params, state, example)
        changed = (state.slots.memory != before).any(dim=2)
        assert (changed.sum(dim=1) == 1).all()
        written.append(changed.int().argmax(dim=1))
    for row in torch.stack(written, dim=1).tolist():
        assert len(set(row)) == 4


def with_gates(params, forget, step_size):
    """Returns parameters of a meta-LSTM whose gates are constants."""
    params[OWN + "gates"] = torch.zeros_like(params[OWN + "gates"])
    logits = [math.log(p / (1 - p)) for p in (forget, step_size)]
    params[OWN + "gates_bias"] = torch.tensor(logits, dtype=torch.float64)
    return params


def test_meta_lstm_with_constant_gates_is_gradient_descent():
    learner = MetaLstm(REGRESSION, 0.3)
    params, tasks = with_gates(double_params(learner), 1 - 1e-13, 0.3), tasks_of(REGRESSION)
    plain = GradientLearner(REGRESSION, 0.3)
    own = {n: v for n, v in params.items() if not n.startswith(OWN)}
    expected = plain.predict(own, tasks, 3)
    for found, output in zip(learner.predict(params, tasks, 3), expected, strict=True):
        assert torch.allclose(found, output, rtol=1e-8)


def test_meta_lstm_step_equals_a_loop_over_numbers():
    learner = MetaLstm(REGRESSION, 0.3, num_hidden=2)
    params, tasks = double_params(learner), tasks_of(REGRESSION, num_tasks=1)
    own = {n: v.numpy() for n, v in params.items()}
    points = learner.adapt(params, tasks, 2)
    names = [n for n in params if not n.startswith(OWN)]
    size = sum(own[n].size for n in names)
    hidden, cell = np.zeros((size, 2)), np.zeros((size, 2))
    gates = np.tile([1.0, 0.0], (size, 1))
    for k in range(2):
        theta = np.concatenate([points[k][n].numpy().reshape(-1) for n in names])
        gradient, value = (v[0].numpy() for v in learner._gradient(points[k], tasks))
        reads = [encode(torch.tensor(v)).numpy() for v in (gradient, value[0])]
        after = np.concatenate([points[k + 1][n].numpy().reshape(-1) for n in names])
        for p in range(size):
            row = np.concatenate([reads[0][p], reads[1], hidden[p]])
            a, b, c, d = np.split(row @ own[OWN + "lstm"] + own[OWN + "lstm_bias"], 4)
            cell[p] = expit(b + 1.0) * cell[p] + expit(a) * np.tanh(c)
            hidden[p] = expit(d) * np.tanh(cell[p])
            row = np.concatenate([hidden[p], [theta[p]], gates[p]])
            gates[p] = expit(row @ own[OWN + "gates"] + own[OWN + "gates_bias"])
            expected = gates[p, 0] * theta[p] - gates[p, 1] * gradient[p]
            assert np.isclose(after[p], expected, rtol=1e-10)


def test_encoded_gradients_have_moderate_size():
    found = encode(torch.tensor([math.exp(5.0), -math.exp(-20.0)], dtype=torch.float64))
    expected = [[0.5, 1.0], [-1.0, -math.exp(-10.0)]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


def test_leo_steps_are_gradient_descent_in_the_latent_space():
    learner = Leo(REGRESSION, latent_size=3, num_related=4)
    params, tasks = double_params(learner), tasks_of(REGRESSION)
    features, _ = learner._features(params, tasks)
    latent, _ = learner.encode(params, features, tasks.support_y)
    latents, _ = learner.heads(params, latent, features, tasks, 0)
    decode, bias = params["decode"], params["decode_bias"]
    wide = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
    for i in range(len(tasks)):
        # the output is linear in z, so the gradient of the squared error has a closed form
        z = latents[0][i]
        for k in range(2):
            error = wide[i] @ (z @ decode + bias).T - tasks.support_y[i]
            gradient = 2.0 / error.numel() * error.T @ wide[i] @ decode.T
            z = z - params["rate/latent"] * gradient
            assert torch.allclose(latents[k + 1][i], z)


def test_leo_code_is_a_mean_over_pairs():
    learner = Leo(CLASSIFICATION, latent_size=3, num_related=4)
    params, tasks = double_params(learner), tasks_of(CLASSIFICATION)
    features, _ = learner._features(params, tasks)
    mean, log_deviation = learner.encode(params, features, tasks.support_y)
    for i in range(len(tasks)):
        way = tasks.support_y[i].argmax(dim=1)
        for k in range(3):
            pairs = [
                (torch.cat([one, other]) @ params["relate"] + params["relate_bias"]).relu()
                for one in features[i][way == k]
                for other in features[i]
            ]
            code = torch.stack(pairs).mean(dim=0) @ params["latent"]
            assert torch.allclose(torch.cat([mean[i, k], log_deviation[i, k]]), code)


def gp_tasks():
    learner, tasks = GaussianProcess(SINGLE, jitter=0.0), tasks_of(SINGLE)
    logs = {"log_amplitude": 0.4, "log_length": 0.7, "log_noise": -1.0}
    return learner, {n: torch.tensor(v, dtype=torch.float64) for n, v in logs.items()}, tasks


def test_gp_likelihood_is_that_of_a_normal_vector():
    learner, params, tasks = gp_tasks()
    found = learner.log_likelihood(params, tasks.support_x, tasks.support_y)
    for i in range(len(tasks)):
        x, y, _ = arrays(tasks, i)
        square = cdist(x, x, "sqeuclidean")
        covariance = np.exp(0.8 - 0.5 * square / np.exp(1.4)) + np.exp(-2.0) * np.eye(len(x))
        assert np.isclose(found[i], multivariate_normal.logpdf(y[:, 0], cov=covariance))


def test_gp_posterior_is_that_of_scikit_learn():
    process = pytest.importorskip("sklearn.gaussian_process")
    learner, params, tasks = gp_tasks()
    before, after = learner.predict(params, tasks, 0)
    assert (before == 0).all()
    kernel = process.kernels.ConstantKernel(np.exp(0.8)) * process.kernels.RBF(np.exp(0.7))
    for i in range(len(tasks)):
        x, y, query = arrays(tasks, i)
        other = process.GaussianProcessRegressor(kernel, alpha=np.exp(-2.0), optimizer=None)
        assert np.allclose(after[i, :, 0].numpy(), other.fit(x, y[:, 0]).predict(query))


def test_gp_posterior_is_the_conditional_mean():
    learner, params, tasks = gp_tasks()
    _, after = learner.predict(params, tasks, 0)
    x, y, query = arrays(tasks, 0)

    def kernel(left, right):
        return np.exp(0.8 - 0.5 * cdist(left, right, "sqeuclidean") / np.exp(1.4))

    inverse = np.linalg.inv(kernel(x, x) + np.exp(-2.0) * np.eye(len(x)))
    assert np.allclose(after[0].numpy(), kernel(query, x) @ inverse @ y)


def test_one_particle_adapts_as_maml():
    learner = BayesianMaml(REGRESSION, 0.3, num_particles=1)
    params, tasks = double_params(learner), tasks_of(REGRESSION)
    single = {n: v[0] for n, v in params.items()}
    expected = GradientLearner(REGRESSION, 0.3).predict(single, tasks, 3)
    for found, output in zip(learner.predict(params, tasks, 3), expected, strict=True):
        assert torch.allclose(found, output, rtol=1e-9)


def test_particles_predict_their_mean_probability():
    learner = BayesianMaml(CLASSIFICATION, 0.3, num_particles=3)
    params, tasks = double_params(learner), tasks_of(CLASSIFICATION)
    found = learner.predict(params, tasks, 0)[0].exp()
    each = [{n: v[p] for n, v in params.items()} for p in range(3)]
    network = bmaml.ReluMLP.of(CLASSIFICATION)
    probabilities = [network.embed(own, tasks.query_x).softmax(dim=-1) for own in each]
    assert torch.allclose(found, torch.stack(probabilities).mean(dim=0))
