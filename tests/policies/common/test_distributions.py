"""Distributions: compared with PyTorch and SciPy, by integration and by sampling, from narrow to extreme."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from policies.common.distributions import ClippedGaussian, Gaussian, Softmax, SquashedGaussian, log_tanh_derivative

KINDS = [Gaussian, SquashedGaussian, ClippedGaussian]
SHAPES = [(0.0, 0.01), (0.3, 0.3), (-0.9, 0.1), (0.9, 0.5), (0.0, 2.0), (-3.0, 0.3), (2.5, 2.0)]  # mean and std
HEADS = (2, 5, 91)


def generator_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def doubles(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def gaussian(kind: Any, *shapes: tuple[float, float], rows: int = 1, dtype: torch.dtype = torch.float64) -> Any:
    """A distribution with an action for each mean and std, the same for all rows; both are leaves, (rows, actions)."""
    mean, std = (torch.tensor(values, dtype=dtype).repeat(rows, 1) for values in zip(*shapes, strict=True))
    return kind(mean.requires_grad_(), std.requires_grad_())


def softmax(rows: int, *, seed: int = 0, size: float = 2.0) -> Softmax:
    """A softmax with heads of different sizes; their logits are leaves and equal in all rows."""
    generator = torch.Generator().manual_seed(seed)
    parts = [size * torch.randn(values, generator=generator) for values in HEADS]
    return Softmax(tuple(part.repeat(rows, 1).requires_grad_() for part in parts))


def log_density(drawn: Any, choices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Log-densities of samples (count,) of a distribution of one action."""
    with torch.no_grad():
        values: np.ndarray[Any, Any] = drawn.log_prob(torch.from_numpy(choices)[:, None]).numpy()
    return values


def plain(mean: Tensor, std: Tensor, choice: Tensor) -> Any:
    normal: Any = Independent(Normal(mean, std), 1)
    return normal.log_prob(choice)


def squashed(mean: Tensor, std: Tensor, choice: Tensor) -> Any:
    transform = TanhTransform(cache_size=1)  # caches the sample, which the action does not determine where tanh is flat
    transformed: Any = TransformedDistribution(Independent(Normal(mean, std), 1), [transform])
    return transformed.log_prob(transform(choice))


def clipped(mean: Tensor, std: Tensor, choice: Tensor) -> Any:
    m, s, x = mean.numpy(), std.numpy(), choice.numpy()
    at_ends = np.where(x <= -1, norm.logcdf(-1, m, s), norm.logsf(1, m, s))
    return torch.from_numpy(np.sum(np.where(np.abs(x) < 1, norm.logpdf(x, m, s), at_ends), 1))


class TestLogProbabilities:
    """Log-probabilities, compared with PyTorch and closed forms."""

    @pytest.mark.parametrize(("kind", "reference"), [*zip(KINDS, [plain, squashed, clipped], strict=True)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_gaussians_equal_pytorch_and_scipy(
        self, kind: Any, reference: Callable[..., Any], dtype: torch.dtype
    ) -> None:
        """Summed log-probabilities equal PyTorch's Normal and tanh-transformed Normal, and SciPy's tails."""
        drawn = gaussian(kind, *SHAPES, rows=400, dtype=dtype)
        choice = drawn.sample(generator_of(0)).detach()
        beyond = (choice.abs() >= 1).double().mean()
        assert 0.2 < beyond < 0.8  # both sides of the ends
        wanted = reference(drawn.mean.detach().double(), drawn.std.detach().double(), choice.double())
        got = drawn.log_prob(choice)
        assert got.shape == (400,)
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)

    def test_softmax_equals_pytorch_summed_over_heads(self) -> None:
        """Log-probability, entropy and mode equal the sums over PyTorch's Categorical of each head."""
        generator = torch.Generator().manual_seed(0)
        logits = tuple(3.0 * torch.randn(50, values, generator=generator) for values in HEADS)
        choice = torch.stack([torch.randint(values, (50,), generator=generator) for values in HEADS], 1)
        each: list[Any] = [Categorical(logits=part) for part in logits]
        drawn = Softmax(logits)
        wanted = sum(head.log_prob(chosen) for head, chosen in zip(each, choice.unbind(1), strict=True))
        torch.testing.assert_close(drawn.log_prob(choice), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(drawn.entropy(), sum(head.entropy() for head in each), rtol=1e-5, atol=1e-5)
        largest = [[row.index(max(row)) for row in part.tolist()] for part in logits]
        assert drawn.mode().T.tolist() == largest
        assert torch.equal(drawn.action(choice), choice)

    def test_softmax_probabilities_by_hand(self) -> None:
        """Probabilities of two heads multiply (computed by hand)."""
        drawn = Softmax((torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([[math.log(2.0), 0.0, math.log(5.0)]])))
        for first, p in enumerate((0.25, 0.75)):
            for second, q in enumerate((0.25, 0.125, 0.625)):
                assert drawn.log_prob(torch.tensor([[first, second]])).exp().item() == pytest.approx(p * q)

    def test_samples_beyond_an_end_are_one_action(self) -> None:
        """All samples beyond an end are the same clipped action, with SciPy's probability of the tail."""
        drawn = ClippedGaussian(doubles(0.8), doubles(0.4))
        for end, probability in ((1.0, norm.sf(0.5)), (-1.0, norm.cdf(-4.5))):
            choices = end * torch.tensor([[1.0], [1.2], [50.0]], dtype=torch.float64)
            assert drawn.action(choices).tolist() == [[end]] * 3
            np.testing.assert_allclose(drawn.log_prob(choices).exp(), probability, rtol=1e-9)
        assert drawn.action(doubles(0.3)).item() == 0.3

    @pytest.mark.parametrize("x", [-1e4, -30.0, -5.0, -0.3, 0.0, 1e-3, 2.0, 9.0, 30.0, 1e4])
    def test_log_slope_of_tanh_is_exact_for_large_inputs(self, x: float) -> None:
        """log(1 - tanh^2 x) = -2 log cosh x, to 1e-6 for inputs up to 1e4."""
        wanted = -2.0 * (np.logaddexp(x, -x) - math.log(2.0))  # -2 log cosh
        assert log_tanh_derivative(torch.tensor(x)).item() == pytest.approx(wanted, rel=1e-6, abs=2e-7)


def cells(mean: float, std: float) -> tuple[np.ndarray[Any, Any], float]:
    """Midpoints of small cells that cover a normal distribution, and their width."""
    width = 24 * std / 20_000
    return mean - 12 * std + width * (np.arange(20_000) + 0.5), width


def inside_and_ends(drawn: Any) -> tuple[np.ndarray[Any, Any], float, np.ndarray[Any, Any]]:
    """A clipped one's log-densities at the midpoints of small cells, their width, and the ends' log-probabilities."""
    width = 2 / 40_000
    within = -1 + width * (np.arange(40_000) + 0.5)
    return log_density(drawn, within), width, log_density(drawn, np.array([-1.0, 1.0]))


def integrated_entropy(kind: Any, shape: tuple[float, float]) -> float:
    """-E[log p] of the action."""
    drawn = gaussian(kind, shape)
    if kind is ClippedGaussian:
        inside, width, ends = inside_and_ends(drawn)
        return float(-(np.exp(inside) * inside).sum() * width - (np.exp(ends) * ends).sum())
    choices, width = cells(*shape)
    return float(-(norm.pdf(choices, *shape) * log_density(drawn, choices)).sum() * width)


class TestIntegrals:
    """Densities and entropies, by numerical integration and by sampling."""

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_a_density_over_the_actions_integrates_to_1(self, shape: tuple[float, float]) -> None:
        """Densities over actions, the ends' probabilities included, integrate to 1."""
        choices, width = cells(*shape)
        assert np.exp(log_density(gaussian(Gaussian, shape), choices)).sum() * width == pytest.approx(1, abs=1e-6)
        drawn = gaussian(SquashedGaussian, shape)
        actions = drawn.action(torch.from_numpy(choices)).numpy()
        density = np.exp(log_density(drawn, choices))
        assert np.trapezoid(density, actions) == pytest.approx(1, abs=1e-4)
        inside, width, ends = inside_and_ends(gaussian(ClippedGaussian, shape))
        assert np.exp(inside).sum() * width + np.exp(ends).sum() == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shape", [*SHAPES, (0.0, 1.0), (0.5, 1.5), (30.0, 0.3), (-30.0, 2.0)], ids=str)
    def test_entropy_equals_numerical_integration(self, kind: Any, shape: tuple[float, float]) -> None:
        """The entropy equals -E[log p] by integration, to 3e-4 where 32 quadrature points are few, else 2e-5."""
        wanted = integrated_entropy(kind, shape)
        error = (
            3e-4 if kind is SquashedGaussian and shape[1] > 1 else 2e-5
        )  # where 32 quadrature points are few for tanh
        assert gaussian(kind, shape).entropy().item() == pytest.approx(wanted, abs=error)
        assert gaussian(kind, shape, dtype=torch.float32).entropy().item() == pytest.approx(wanted, abs=error)

    @pytest.mark.parametrize("kind", KINDS)
    def test_entropy_equals_the_mean_surprise_of_samples(self, kind: Any) -> None:
        """The mean of -log p over 20,000 samples is within 3.5 standard errors, and actions add up."""
        rows = 20_000
        drawn = gaussian(kind, *SHAPES, (30.0, 0.3), rows=rows)
        with torch.no_grad():
            surprise = -drawn.log_prob(drawn.sample(generator_of(3)))
        error = surprise.std() / math.sqrt(rows)
        assert 0 < error < 0.03
        assert drawn.entropy().shape == (rows,)
        assert abs(surprise.mean() - drawn.entropy()[0]) < 3.5 * error
        alone = sum(gaussian(kind, shape).entropy().item() for shape in (*SHAPES, (30.0, 0.3)))
        assert drawn.entropy()[0].item() == pytest.approx(alone, abs=1e-6)

    def test_softmax_entropy_equals_the_mean_surprise_of_samples(self) -> None:
        """The same for a softmax; a uniform one has the closed form log(2 x 5 x 91)."""
        rows = 20_000
        drawn = softmax(rows)
        with torch.no_grad():
            surprise = -drawn.log_prob(drawn.sample(generator_of(1)))
        assert abs(surprise.mean() - drawn.entropy()[0]) < 3.5 * surprise.std() / math.sqrt(rows)
        even = Softmax(tuple(torch.full((3, values), 7.0) for values in HEADS))
        torch.testing.assert_close(even.entropy(), torch.full((3,), math.log(2 * 5 * 91)))


def assert_zero_within(gradient: Tensor) -> None:
    """Assert that the mean gradient of each column is within 3.5 standard errors of zero."""
    error = gradient.double().std(0) / math.sqrt(len(gradient))
    assert (error > 0).all()
    assert (gradient.double().mean(0).abs() < 3.5 * error).all()


class TestGradients:
    """Gradients of log-probability and entropy."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradients_equal_finite_differences(self, kind: Any) -> None:
        """`gradcheck` passes for entropy and log-probability, inside and beyond both ends."""
        drawn = gaussian(kind, *SHAPES[1:])
        choices = [0.2, -1.3, 1.7, -0.4, 2.0, 0.9]  # inside and beyond both ends
        assert torch.autograd.gradcheck(lambda m, s: kind(m, s).entropy(), (drawn.mean, drawn.std))
        assert torch.autograd.gradcheck(lambda m, s: kind(m, s).log_prob(doubles(*choices)), (drawn.mean, drawn.std))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_score_has_mean_zero(self, kind: Any) -> None:
        """E[grad log p] = 0 over 40,000 samples, for mean and std."""
        drawn = gaussian(kind, (0.0, 0.3), (0.8, 0.4), (-0.9, 0.1), (-1.5, 1.0), (0.3, 2.0), rows=40_000)
        drawn.log_prob(drawn.sample(generator_of(2)).detach()).sum().backward()
        assert_zero_within(drawn.mean.grad)
        assert_zero_within(drawn.std.grad)

    def test_the_softmax_score_has_mean_zero(self) -> None:
        """E[grad log p] = 0 over 40,000 samples, for every logit."""
        drawn = softmax(40_000, size=0.5)
        log_prob: Any = drawn.log_prob(drawn.sample(generator_of(3)))
        log_prob.sum().backward()
        for part in drawn.logits:
            assert part.grad is not None
            assert_zero_within(part.grad)


class TestSampling:
    """Samples: moments, frequencies and reproducibility."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_samples_have_the_requested_mean_and_std(self, kind: Any) -> None:
        """Mean, std and independence are within 3.5 standard errors; actions are the transformed samples."""
        rows = 20_000
        drawn = gaussian(kind, *SHAPES, rows=rows, dtype=torch.float32)
        with torch.no_grad():
            choice = drawn.sample(generator_of(0))
            z = ((choice - drawn.mean) / drawn.std).double()
            action = drawn.action(choice)
        assert choice.dtype == torch.float32
        assert (z.mean(0).abs() < 3.5 / math.sqrt(rows)).all()
        assert ((z.std(0) - 1).abs() < 3.5 / math.sqrt(2 * rows)).all()
        other = torch.corrcoef(z.T) - torch.eye(len(SHAPES))
        assert (other.abs() < 4 / math.sqrt(rows)).all()  # each action has noise of its own, and each row
        assert abs(torch.corrcoef(torch.stack([z[1:, 0], z[:-1, 0]]))[0, 1]) < 3.5 / math.sqrt(rows)
        assert torch.equal(drawn.mode(), drawn.mean)
        wanted = {Gaussian: choice, SquashedGaussian: choice.tanh(), ClippedGaussian: choice.clip(-1, 1)}[kind]
        assert torch.equal(action, wanted)

    def test_clipped_ends_are_as_frequent_as_their_probability(self) -> None:
        """The frequency of each end is within 3.5 standard errors of its probability."""
        rows = 20_000
        drawn = gaussian(ClippedGaussian, (-0.9, 0.5), (0.2, 1.0), rows=rows)
        with torch.no_grad():
            action = drawn.action(drawn.sample(generator_of(4)))
            for end in (-1.0, 1.0):
                probability = drawn.log_prob(torch.full((1, 2), end))  # of both at once
                each = (action == end).double().mean(0)
                wanted = torch.stack(
                    [ClippedGaussian(drawn.mean[:1, [at]], drawn.std[:1, [at]]).log_prob(doubles(end)) for at in (0, 1)]
                )[:, 0]
                assert probability[0].item() == pytest.approx(wanted.sum().item())
                error = (wanted.exp() * (1 - wanted.exp()) / rows).sqrt()
                assert ((each - wanted.exp()).abs() < 3.5 * error).all()

    def test_softmax_frequencies_and_independence_of_heads(self) -> None:
        """Frequencies of values are within 4 standard errors, and heads are uncorrelated."""
        rows = 40_000
        drawn = softmax(rows)
        choice = drawn.sample(generator_of(0))
        assert (choice.shape, choice.dtype) == ((rows, 3), torch.int64)
        for chosen, part in zip(choice.unbind(1), drawn.logits, strict=True):
            wanted = torch.softmax(part[0].detach().double(), 0)
            frequency = torch.bincount(chosen, minlength=len(wanted)) / rows
            assert ((frequency - wanted).abs() < 4 * (wanted * (1 - wanted) / rows).sqrt() + 1e-12).all()
        assert (torch.corrcoef(choice.T.double()) - torch.eye(3)).abs().max() < 4 / math.sqrt(rows)

    @pytest.mark.parametrize("kind", [*KINDS, Softmax])
    def test_samples_depend_on_the_generator_alone(self, kind: Any) -> None:
        """Equal generators give equal samples, and PyTorch's global generator is neither read nor advanced."""
        drawn = softmax(10) if kind is Softmax else gaussian(kind, *SHAPES, rows=10)
        generator, draws = generator_of(7), []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for torch_seed, source in ((0, generator), (1, generator_of(7)), (0, generator)):
                torch.manual_seed(torch_seed)
                draws.append(drawn.sample(source))
            torch.manual_seed(0)
            before = torch.random.get_rng_state()
            drawn.sample(generator)
            assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])  # the same generator continues


class TestExtremeValues:
    """Numerical stability."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("mean", [-30.0, -1.0, 0.0, 1.0, 30.0])
    @pytest.mark.parametrize("std", [0.01, 2.0])
    def test_extreme_means_and_samples_stay_finite(self, kind: Any, mean: float, std: float) -> None:
        """Log-probabilities, entropies and gradients are finite for means and samples of up to 30."""
        choice = torch.tensor([[-30.0], [-1.0], [0.0], [1.0], [30.0]])
        drawn = gaussian(kind, (mean, std), rows=len(choice), dtype=torch.float32)
        for values in (drawn.log_prob(choice), drawn.entropy()):
            assert values.isfinite().all()
            gradients = torch.autograd.grad(
                values.sum(), (drawn.mean, drawn.std), materialize_grads=True, allow_unused=True
            )
            assert all(gradient.isfinite().all() for gradient in gradients)
        assert drawn.action(choice).isfinite().all()
        if kind is not Gaussian:
            assert (drawn.action(choice).abs() <= 1).all()

    def test_extreme_logits_stay_finite(self) -> None:
        """Logits of 1e4 give exact entropies, log-probabilities (computed by hand) and finite gradients."""
        logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], requires_grad=True)
        drawn = Softmax((logits,))
        entropy = drawn.entropy()
        torch.testing.assert_close(entropy, torch.tensor([0.0, math.log(3.0), math.log(2.0)]))
        log_prob = drawn.log_prob(torch.tensor([[1], [0], [2]]))
        torch.testing.assert_close(log_prob, torch.tensor([-2e4, -math.log(3.0), -2e4 - math.log(2.0)]))
        for values in (entropy, log_prob):
            assert torch.autograd.grad(values.sum(), logits, retain_graph=True)[0].isfinite().all()
        draws = torch.stack([drawn.sample(generator_of(seed))[:, 0] for seed in range(50)])
        assert (draws[:, 0] == 0).all()
        assert set(draws[:, 2].tolist()) == {0, 1}
