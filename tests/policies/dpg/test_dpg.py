"""DPG: its theory on tasks with closed forms, each critic's update by hand, and tasks that the agent must solve."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import assert_equal, random_observation
from numpy.typing import NDArray
from scipy.linalg import solve_discrete_are, solve_discrete_lyapunov
from torch import Tensor, nn

from arm_control.runs.checkpoint import load_checkpoint, save_checkpoint
from policies.agent import FloatArray, Observation, Spec, Transition
from policies.common.averaging import PolicyAverage
from policies.common.distributions import Gaussian
from policies.common.rollout import Steps
from policies.dpg import agent as dpg
from policies.dpg.agent import DPG, CompatibleCritic
from policies.dpg.settings import DPGSettings

CRITICS = ("compatible", "q", "sarsa")
DEGREES = 180.0 / math.pi
ARM = Spec(5, 2, (0.0, 10.0), (90.0, 60.0), measured_columns=(1, 2), measured_unit=DEGREES, max_step=(9.0, 5.0))
PLAIN = Spec(1, 2, (-2.0, 3.0), (2.0, 5.0))
Matrix = NDArray[np.float64]


def small(critic: str, **changes: Any) -> DPGSettings:
    values = {"fourier_octaves": 0, "critic_units": 16, "learning_starts": 64, "slowing_distance": 0.0, **changes}
    return DPGSettings(critic=critic, **values)  # type: ignore[arg-type]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def jacobian(actor: nn.Module, s: Tensor) -> Tensor:
    """grad mu(s), (batch, actions, parameters): row by row, output by output."""
    rows = [
        [
            flat(torch.autograd.grad(output, list(actor.parameters()), retain_graph=True))
            for output in actor(row[None])[0].unbind()
        ]
        for row in s
    ]
    return torch.stack([torch.stack(row) for row in rows])


def flat(parts: Any) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def gradient_of(module: nn.Module) -> Tensor:
    return flat(parameter.grad for parameter in module.parameters())


def fill(parts: Any, values: Tensor) -> None:
    """Put a flat vector into parameters."""
    start = 0
    for part in parts:
        part.data.copy_(values[start : start + part.numel()].view(part.shape))
        start += part.numel()


@dataclass(frozen=True)
class LQR:
    """x' = A x + B u + noise, reward -(x'Qx + u'Ru), discounted; policies are u = -K x."""

    a: Matrix
    b: Matrix
    q: Matrix
    r: Matrix
    noise: Matrix  # its covariance
    discount: float = 0.9

    def best(self) -> Matrix:
        """The gain K of the Riccati equation."""
        root = math.sqrt(self.discount)
        p = solve_discrete_are(root * self.a, root * self.b, self.q, self.r)
        return np.linalg.solve(self.r + self.discount * self.b.T @ p @ self.b, self.discount * self.b.T @ p @ self.a)

    def cost(self, k: Matrix) -> Matrix:
        """P: V(x) = -x'Px - the cost of the noise."""
        closed = math.sqrt(self.discount) * (self.a - self.b @ k)
        return solve_discrete_lyapunov(closed.T, self.q + k.T @ self.r @ k)

    def of_noise(self, k: Matrix) -> float:
        """The discounted cost of all future noise."""
        return self.discount / (1.0 - self.discount) * float(np.trace(self.cost(k) @ self.noise))

    def visits(self, k: Matrix) -> Matrix:
        """The sum over t of gamma^t E[x x'], from x ~ N(0, 1)."""
        closed = math.sqrt(self.discount) * (self.a - self.b @ k)
        return solve_discrete_lyapunov(closed, np.eye(len(self.a)) + self.discount / (1.0 - self.discount) * self.noise)

    def return_(self, k: Matrix) -> float:
        """J(K), from x ~ N(0, 1)."""
        return -float(np.trace(self.cost(k))) - self.of_noise(k)

    def gradient(self, k: Matrix) -> Matrix:
        """dJ/dK in closed form (Fazel et al. 2018, lemma 1, with a discount)."""
        p, discount = self.cost(k), self.discount
        away = (self.r + discount * self.b.T @ p @ self.b) @ k - discount * self.b.T @ p @ self.a
        return -2.0 * away @ self.visits(k)

    def q_matrix(self, k: Matrix) -> Matrix:
        """H: Q(x, u) = (x, u, 1)' H (x, u, 1)."""
        size = len(self.a) + self.b.shape[1]
        both, p = np.hstack([self.a, self.b]), self.cost(k)
        h = np.zeros((size + 1, size + 1))
        h[:size, :size] = -self.discount * both.T @ p @ both
        h[: len(self.a), : len(self.a)] -= self.q
        h[len(self.a) : size, len(self.a) : size] -= self.r
        h[size, size] = -self.of_noise(k)
        return h

    def reward(self, x: Matrix, u: Matrix) -> Matrix:
        return -np.einsum("bi,ij,bj->b", x, self.q, x) - np.einsum("bi,ij,bj->b", u, self.r, u)

    def step(self, x: Matrix, u: Matrix, generator: np.random.Generator | None = None) -> Matrix:
        """The next x, (batch, n); without a generator, without noise."""
        following = x @ self.a.T + u @ self.b.T
        if generator is None:
            return following
        return following + generator.normal(size=x.shape) @ np.linalg.cholesky(self.noise).T


class Quadratic(nn.Module):
    """V(s) = (s, 1)'H(s, 1), (batch, 1), or Q(s, a) = (s, u, 1)'H(s, u, 1), (batch,), where a = tanh(u) or u."""

    def __init__(self, size: int, *, squashed: bool = False) -> None:
        super().__init__()
        self.h = nn.Parameter(torch.zeros(size + 1, size + 1))
        self.squashed = squashed

    def forward(self, s: Tensor, a: Tensor | None = None) -> Tensor:
        u = s[:, :0] if a is None else torch.atanh(a) if self.squashed else a
        z = torch.cat([s, u, torch.ones_like(s[:, :1])], -1)
        value = ((z @ self.h) * z).sum(-1)
        return value[:, None] if a is None else value


def system(seed: int) -> LQR:
    """A random stable system of three states and two controls."""
    generator = np.random.default_rng(seed)
    a = generator.normal(size=(3, 3))
    a *= 0.9 / np.abs(np.linalg.eigvals(a)).max()
    noise = generator.normal(size=(3, 3))
    return LQR(a, generator.normal(size=(3, 2)), np.eye(3), np.diag([0.5, 2.0]), 0.1 * noise @ noise.T)


def some_gain(lqr: LQR, seed: int) -> Matrix:
    """A stable gain close to the optimal one."""
    return lqr.best() + 0.1 * np.random.default_rng(seed).normal(size=lqr.best().shape)


def linear_agent(lqr: LQR, critic: str, *, squashed: bool = False, seed: int = 0, **changes: Any) -> DPG:
    """An agent whose actor is linear, below its tanh, and whose critic is quadratic; its weights start at zero."""
    states, controls = lqr.b.shape
    settings = small(critic, discount=lqr.discount, **changes)
    agent = DPG(Spec(states, 0, (-1.0,) * controls, (1.0,) * controls), settings, seed)
    agent._policy.net = nn.Linear(states, controls, bias=False)  # type: ignore[assignment]
    nn.init.zeros_(agent._policy.net.weight)  # type: ignore[arg-type]
    agent._average = PolicyAverage(agent._policy)
    agent._actor = nn.Sequential(agent._policy.net, nn.Tanh())
    if critic == "compatible":
        agent._critic = CompatibleCritic(agent._actor, states, 1)
        agent._critic.value = Quadratic(states)  # type: ignore[assignment]
    else:
        agent._critic = Quadratic(states + controls, squashed=squashed)
    agent._actor_optimizer = torch.optim.Adam(agent._actor.parameters(), settings.learning_rate)
    agent._critic_optimizer = torch.optim.Adam(agent._critic.parameters(), settings.critic_learning_rate)
    agent._normalizer_fitted = True  # to nothing: features are the states themselves
    return agent


def steps_of(
    lqr: LQR, x: Matrix, u: Matrix, next_u: Callable[[Matrix], Matrix], generator: np.random.Generator | None = None
) -> Steps:
    """Two steps of each environment from x (num_envs, n), by u (num_envs, m), then by next_u; choices are tanh(u)."""
    following = lqr.step(x, u, generator)
    second = next_u(following)
    reward = np.stack([lqr.reward(x, u), lqr.reward(following, second)])
    seen, after = np.stack([x, following]), np.stack([following, lqr.step(following, second, generator)])
    empty, no = torch.zeros(2, len(x), 0, dtype=torch.float64), torch.zeros(2, len(x), dtype=torch.float64)
    observation, next_observation = ((torch.from_numpy(part), empty, empty) for part in (seen, after))
    choice = torch.from_numpy(np.tanh(np.stack([u, second])))
    return Steps(observation, next_observation, choice, torch.from_numpy(reward), no, no, no)


def exact(lqr: LQR, k: Matrix, critic: str) -> DPG:
    """An agent in double precision with u = -K x before the tanh, and with the true Q."""
    agent = linear_agent(lqr, critic, squashed=True)
    agent._policy.double()
    agent._average.policy.double()
    agent._critic.double()
    agent._policy.net.weight.data.copy_(torch.from_numpy(-k))  # type: ignore[union-attr,operator]
    if critic != "compatible":
        agent._critic.h.data.copy_(torch.from_numpy(lqr.q_matrix(k)))  # type: ignore[union-attr,operator]
    return agent


def as_visited(lqr: LQR, k: Matrix) -> Matrix:
    """A few states with the second moments of all visited states, on which the gradient depends alone."""
    root = np.linalg.cholesky((1.0 - lqr.discount) * lqr.visits(k)) * math.sqrt(len(lqr.a))
    turned = root @ np.linalg.qr(np.random.default_rng(0).normal(size=lqr.a.shape))[0]
    return np.hstack([root, -root, turned, -turned]).T


SCALAR = LQR(*(np.array([[value]]) for value in (0.8, 4.0, 0.1, 1.0, 0.02)))


def learned_gain(critic: str, seed: int, *, steps: int, num_envs: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """The gain that an agent learns whose actor is linear, without its tanh."""
    monkeypatch.setattr(torch, "tanh", lambda x: x)
    monkeypatch.setattr(dpg, "SQUASH_PENALTY", 0.0)
    rates = {"learning_rate": 6e-3, "critic_learning_rate": 0.2}
    agent = linear_agent(SCALAR, critic, seed=seed, noise=0.2, final_noise=0.2, **rates)
    generator = np.random.default_rng(seed)
    x, empty, no = (
        generator.normal(size=(num_envs, 1)),
        np.zeros((num_envs, 0), np.float32),
        np.zeros(num_envs, np.bool_),
    )

    def see(x: Matrix) -> Observation:
        return {"observation": x.astype(np.float32), "achieved_goal": empty, "desired_goal": empty}

    for step in range(steps):
        u = agent.act(see(x), explore=True)
        following, reward = SCALAR.step(x, u, generator), SCALAR.reward(x, u).astype(np.float32)
        agent.observe(Transition(see(x), u, reward, see(following), no, no))
        agent.update(step / steps)
        x = following
    return -agent._policy.net.weight.item()  # type: ignore[union-attr,operator]


class TestLinearQuadratic:
    """Linear-quadratic regulators, whose return, gradient and Q are known in closed form."""

    @pytest.mark.parametrize("seed", range(3))
    def test_the_closed_form_gradient_is_the_slope_of_the_return(self, seed: int) -> None:
        """The closed form of dJ/dK (Fazel et al. 2018) equals finite differences, and is 0 at the Riccati gain."""
        lqr = system(seed)
        k, step = some_gain(lqr, seed), 1e-5
        for place in np.ndindex(k.shape):
            up, down = k.copy(), k.copy()
            up[place] += step
            down[place] -= step
            assert lqr.gradient(k)[place] == pytest.approx((lqr.return_(up) - lqr.return_(down)) / (2 * step), abs=1e-6)
        assert np.abs(lqr.gradient(lqr.best())).max() < 1e-8
        x = np.random.default_rng(seed).normal(size=(50, 3))
        z = np.hstack([x, -x @ k.T, np.ones((50, 1))])
        q = np.einsum("bi,ij,bj->b", z, lqr.q_matrix(k), z)
        np.testing.assert_allclose(q, -np.einsum("bi,ij,bj->b", x, lqr.cost(k), x) - lqr.of_noise(k), atol=1e-10)

    @pytest.mark.parametrize("critic", CRITICS)
    @pytest.mark.parametrize("seed", range(3))
    def test_an_exact_critic_gives_the_exact_gradient(
        self, seed: int, critic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The deterministic policy gradient theorem; with compatible features, theorem 3."""
        monkeypatch.setattr(dpg, "SQUASH_PENALTY", 0.0)
        lqr = system(seed)
        k = some_gain(lqr, seed)
        agent, x = exact(lqr, k, critic), as_visited(lqr, k)
        if isinstance(agent._critic, CompatibleCritic):
            # Compatible features can follow dQ/da only on average; w of the least squares does not bend the gradient.
            s = torch.from_numpy(x)
            a = agent._actor(s).detach().requires_grad_()
            truth = Quadratic(5, squashed=True).double()
            truth.h.data.copy_(torch.from_numpy(lqr.q_matrix(k)))
            (dq_da,) = torch.autograd.grad(truth(s, a).sum(), a)
            size = k.size
            columns = []
            for unit in torch.eye(size, dtype=torch.float64):
                fill(agent._critic.w, unit)
                columns.append(agent._critic.slope(agent._actor, s)[1].flatten())
            fill(agent._critic.w, torch.linalg.lstsq(torch.stack(columns, 1), dq_da.flatten()[:, None]).solution[:, 0])
            assert (agent._critic.slope(agent._actor, s)[1] - dq_da).abs().max() > 0.01
        agent._learn(steps_of(lqr, x, 0.1 * x[:, :2], lambda x: 0.1 * x[:, :2]))
        gradient = agent._policy.net.weight.grad  # type: ignore[union-attr]
        assert isinstance(gradient, Tensor)
        # The loss is -J, the weights are -K, and the mean is over visits that add up to one.
        got = gradient.numpy() / (1.0 - lqr.discount)
        assert np.abs(lqr.gradient(k)).max() > 1.0
        np.testing.assert_allclose(got, lqr.gradient(k), rtol=0, atol=1e-8)

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(10))
    def test_compatible_features_find_the_best_gain(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Learning on a noisy scalar system ends within 1 % of the Riccati gain, for ten seeds."""
        got = learned_gain("compatible", seed, steps=250, num_envs=4096, monkeypatch=monkeypatch)
        assert got == pytest.approx(SCALAR.best().item(), rel=0.01)

    @pytest.mark.parametrize(("critic", "steps"), [("q", 300), ("sarsa", 300)])
    def test_other_critics_find_the_best_gain(self, critic: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Q and Sarsa critics end within 1 % of the Riccati gain."""
        got = learned_gain(critic, 0, steps=steps, num_envs=1024, monkeypatch=monkeypatch)
        assert got == pytest.approx(SCALAR.best().item(), rel=0.01)


def sarsa_by_least_squares(lqr: LQR, k: Matrix, exploration: float, steps: int, *, noisy: bool) -> tuple[int, Matrix]:
    """The rank of the equations for H, and H, from `steps` steps of 1000 environments."""
    generator = np.random.default_rng(0)
    rows, columns = np.triu_indices(1 + len(lqr.a) + len(k))

    def features(x: Matrix, u: Matrix) -> Matrix:
        z = np.hstack([x, u, np.ones((len(x), 1))])
        return z[:, rows] * z[:, columns]

    def act(x: Matrix) -> Matrix:
        return -x @ k.T + exploration * generator.normal(size=(len(x), len(k)))

    x = generator.normal(size=(1000, len(lqr.a)))
    u = act(x)
    left, right = np.zeros((len(rows), len(rows))), np.zeros(len(rows))
    for _ in range(steps):
        following = lqr.step(x, u, generator if noisy else None)
        next_u = act(following)
        seen = features(x, u)
        left += seen.T @ (seen - lqr.discount * features(following, next_u))
        right += seen.T @ lqr.reward(x, u)
        x, u = following, next_u
    h = np.zeros((rows.max() + 1,) * 2)
    h[rows, columns] = np.linalg.lstsq(left, right, rcond=1e-10)[0]
    return int(np.linalg.matrix_rank(left, rtol=1e-10)), (h + h.T) / 2


class TestIdentifiability:
    """Slopes dQ/da that the data determine."""

    def test_without_exploration_the_slope_is_not_determined(self) -> None:
        """Without noise in system or actions, Sarsa's error is zero for Q, and for Q + anything (u - mu(x)) x."""
        lqr = replace(system(0), noise=np.zeros((3, 3)))
        k = some_gain(lqr, 0)
        x = np.random.default_rng(0).normal(size=(30, 3))
        bend = np.zeros((6, 6))
        bend[3:5, :3] = [[1.0, -2.0, 0.5], [0.3, 1.0, 2.0]]
        bend[:3, :3] = k.T @ bend[3:5, :3]
        slopes = []
        for times in (0.0, 1.0, -3.0):
            agent = exact(lqr, k, "sarsa")
            agent._critic.h.data += torch.from_numpy(times * bend)  # type: ignore[union-attr,operator]
            bent = copy.deepcopy(agent)
            metrics = agent._learn(steps_of(lqr, x, -x @ k.T, lambda x: -x @ k.T))
            assert metrics["td_error"] < 1e-10
            assert gradient_of(agent._critic).abs().max() < 1e-10
            slopes.append(metrics["slope"])
            # An action off the policy distinguishes them.
            aside = np.random.default_rng(1).normal(size=(30, 2))
            metrics = bent._learn(steps_of(lqr, x, -x @ k.T + 0.1 * aside, lambda x: -x @ k.T))
            assert metrics["td_error"] < 1e-10 if times == 0.0 else metrics["td_error"] > 0.1
        assert abs(slopes[1] / slopes[0] - 1.0) > 0.1
        assert abs(slopes[2] / slopes[0] - 1.0) > 0.1

    def test_only_exploration_determines_the_slope(self) -> None:
        """The equations have rank 10 of 21 without exploration, noisy system or not, and rank 21 with it."""
        lqr = system(0)
        k = np.full((2, 3), 0.1)
        x = np.random.default_rng(2).normal(size=(100, 3))
        z = np.hstack([x, -x @ k.T, np.ones((100, 1))])

        def slope(h: Matrix) -> Matrix:
            return 2.0 * z @ h[:, 3:5]

        truth = slope(lqr.q_matrix(k))
        # Of 21 coefficients, the policy's own actions determine the 10 of a quadratic of (x, 1), with system noise too.
        for noisy in (False, True):
            rank, h = sarsa_by_least_squares(lqr, k, 0.0, 30, noisy=noisy)
            assert rank == 10
            assert np.abs(slope(h) - truth).mean() > 0.5 * np.abs(truth).mean()
        rank, h = sarsa_by_least_squares(lqr, k, 0.5, 300, noisy=True)
        assert rank == 21
        assert np.abs(slope(h) - truth).mean() < 0.05 * np.abs(truth).mean()


def some_actor(seed: int, actions: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, actions), nn.Tanh()).double()


def compatible(actor: nn.Module, seed: int) -> CompatibleCritic:
    """A compatible critic with a random w."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        critic = CompatibleCritic(actor, 3, 8).double()
    fill(critic.w, normal(len(flat(critic.w)), seed=seed))
    return critic


class TestCompatibleFeatures:
    """The compatible critic of Silver et al. (2014)."""

    @pytest.mark.parametrize("seed", range(3))
    def test_the_policys_own_action_has_the_states_value(self, seed: int) -> None:
        """Q(s, mu(s)) = V(s), exactly."""
        for dtype in (torch.float32, torch.float64):
            actor, s = some_actor(seed).to(dtype), normal(40, 3, seed=seed).to(dtype)
            critic, mu = compatible(actor, seed).to(dtype), actor(s).detach()
            assert torch.equal(critic(actor, s, mu), critic.value(s).squeeze(-1))
            assert (critic(actor, s, mu + 0.1) != critic.value(s).squeeze(-1)).all()

    @pytest.mark.parametrize("seed", range(3))
    def test_the_slope_is_the_policy_jacobian_times_w(self, seed: int) -> None:
        """dQ/da = grad mu(s)' w, by an explicit Jacobian and by autograd, to 1e-12."""
        actor, s = some_actor(seed), normal(20, 3, seed=seed)
        critic, a = compatible(actor, seed), normal(20, 2, seed=seed + 1)
        by_hand = torch.einsum("bap,p->ba", jacobian(actor, s), flat(critic.w))
        mu, slope = critic.slope(actor, s)
        torch.testing.assert_close(mu, actor(s).detach(), rtol=0, atol=0)
        torch.testing.assert_close(slope, by_hand, rtol=0, atol=1e-12)
        torch.testing.assert_close(critic(actor, s, a), ((a - mu) * by_hand).sum(-1) + critic.value(s)[:, 0])
        a.requires_grad_()
        (dq_da,) = torch.autograd.grad(critic(actor, s, a).sum(), a)
        torch.testing.assert_close(dq_da, by_hand, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("seed", range(3))
    def test_gradients_are_minus_delta_times_the_features(self, seed: int) -> None:
        """Gradients are -delta phi for w and -delta dV/dv for the value, equations (21) and (22), to 1e-12."""
        actor, s = some_actor(seed), normal(20, 3, seed=seed)
        critic, a, y = compatible(actor, seed), normal(20, 2, seed=seed + 1), normal(20, seed=seed + 2)
        phi = torch.einsum("bap,ba->bp", jacobian(actor, s), a - actor(s).detach())
        wanted = y - phi @ flat(critic.w) - critic.value(s)[:, 0].detach()
        delta = critic.learn(actor, s, a, y)
        torch.testing.assert_close(delta, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient_of(critic.w), -(delta[:, None] * phi).mean(0), rtol=0, atol=1e-12)
        by_value = torch.autograd.grad((delta * critic.value(s)[:, 0]).mean(), list(critic.value.parameters()))
        torch.testing.assert_close(gradient_of(critic.value), -flat(by_value), rtol=0, atol=1e-12)
        assert all(parameter.grad is None for parameter in actor.parameters())

    @pytest.mark.parametrize("noise_std", [0.1, 0.7])
    def test_the_natural_stochastic_gradient_is_the_deterministic_one_sample_for_sample(self, noise_std: float) -> None:
        """Features grad log pi are phi / sigma^2: the natural stochastic update F w equals the deterministic one."""
        actor, states = some_actor(0), normal(60, 3, seed=1)
        twin, critic = copy.deepcopy(actor), compatible(actor, 0)
        fill(critic.w, torch.zeros(len(flat(critic.w))))
        w, value = flat(critic.w), copy.deepcopy(critic.value)
        rate, critic_rate, std = 0.05, 0.3, torch.full((1, 2), noise_std, dtype=torch.float64)
        corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)

        def score(s: Tensor, a: Tensor) -> Tensor:
            log_prob = Gaussian(twin(s), std).log_prob(a).sum()
            return flat(torch.autograd.grad(log_prob, list(twin.parameters())))

        for step, (s, next_s) in enumerate(zip(states[:-1, None], states[1:, None], strict=True)):
            noise = noise_std * normal(1, 2, seed=step)
            # Deterministic: equations (19) to (22), as in the agent.
            mu = actor(s).detach()
            reward = -(mu + noise - torch.sin(s[:, :2])).square().sum(-1)
            y = reward + 0.5 * critic.value(next_s)[:, 0].detach()
            critic.zero_grad()
            delta = critic.learn(actor, s, mu + noise, y)
            _, slope = critic.slope(actor, s)
            climb = torch.autograd.grad((actor(s) * slope).sum(), list(actor.parameters()))
            for parameter, by_theta in zip(actor.parameters(), climb, strict=True):
                parameter.data += rate * by_theta
            for parameter in critic.parameters():
                assert parameter.grad is not None
                parameter.data -= critic_rate * parameter.grad
            # Stochastic.
            mean = twin(s).detach()
            psi = score(s, mean + noise)
            stochastic_reward = -(mean + noise - torch.sin(s[:, :2])).square().sum(-1)
            stochastic_delta = stochastic_reward + 0.5 * value(next_s)[:, 0].detach() - psi @ w - value(s)[:, 0]
            by_value = torch.autograd.grad(stochastic_delta.sum(), list(value.parameters()))
            fisher = sum(torch.outer(each, each) for each in (score(s, mean + std * corner) for corner in corners)) / 4
            assert isinstance(fisher, Tensor)
            fill(twin.parameters(), flat(twin.parameters()) + rate * fisher @ w)
            w = w + critic_rate * noise_std**4 * stochastic_delta.item() * psi
            fill(value.parameters(), flat(value.parameters()) - critic_rate * stochastic_delta.item() * flat(by_value))
            torch.testing.assert_close(stochastic_delta.detach(), delta, rtol=0, atol=1e-10)
            torch.testing.assert_close(flat(twin.parameters()), flat(actor.parameters()), rtol=0, atol=1e-10)
            torch.testing.assert_close(w, noise_std**2 * flat(critic.w), rtol=0, atol=1e-10)
        assert (flat(actor.parameters()) - flat(some_actor(0).parameters())).abs().max() > 0.01


# -------------------------------------------------------------------------------------------------- quadratic bandit
# The paper's section 5.1: -r = (a - a*)'C(a - a*), a* = 4, batches of 2m actions, one update each.


def bandit(size: int, seed: int) -> Callable[[Tensor], Tensor]:
    """The cost of actions (..., m), with half-axes of C in random directions."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.normal(size=(size, size)))[0]
    c = torch.from_numpy(basis @ np.diag(generator.choice([0.1, 1.0], size)) @ basis.T)

    def cost(action: Tensor) -> Tensor:
        return (((action - 4.0) @ c) * (action - 4.0)).sum(-1)

    return cost


UPDATES = 150


def deterministic_cost(size: int, seed: int) -> float:
    """The final cost of the mean action; w by least squares from compatible features and a bias."""
    cost, generator, std = bandit(size, seed), np.random.default_rng(seed), 0.03
    actor, s = nn.Linear(1, size, bias=False).double(), torch.ones(2 * size, 1, dtype=torch.float64)
    nn.init.zeros_(actor.weight)
    critic = CompatibleCritic(actor, 1, 1).double()
    assert torch.equal(jacobian(actor, s[:1])[0], torch.eye(size, dtype=torch.float64))  # so phi is a - mu
    for _ in range(UPDATES):
        mu = actor(s)
        noise = std * torch.from_numpy(generator.normal(size=mu.shape))
        features = torch.cat([noise, s], 1)
        fill(critic.w, torch.linalg.lstsq(features, -cost(mu.detach() + noise)[:, None]).solution[:-1, 0])
        _, dq_da = critic.slope(actor, s)
        actor.weight.data += 0.5 * torch.autograd.grad((mu * dq_da).sum(-1).mean(), actor.weight)[0]
    return cost(actor(s[:1])).item()


def stochastic_cost(size: int, seed: int, *, baseline: bool) -> Tensor:
    """The final costs (sweep,) with score-function gradients, optionally with the batch's mean as baseline."""
    cost, generator = bandit(size, seed), np.random.default_rng(seed)
    sweep = torch.cartesian_prod(2.0 ** -torch.arange(1.0, 11.0, 2.0), torch.tensor([0.03, 0.1, 0.3, 1.0])).double()
    rate, std = sweep[:, :1], sweep[:, 1, None, None].expand(-1, 2 * size, size)
    theta = torch.zeros(len(sweep), size, dtype=torch.float64)
    for _ in range(UPDATES):
        mean = theta[:, None].expand(std.shape).clone().requires_grad_()
        policy = Gaussian(mean, std)
        choice = policy.sample(generator).detach()
        reward = -cost(choice)
        if baseline:
            reward = reward - reward.mean(1, keepdim=True)
        gradient = torch.autograd.grad((policy.log_prob(choice) * reward).sum(), mean)[0]
        theta = (theta + rate * gradient.mean(1)).nan_to_num().clamp(-1e6, 1e6)  # some rates are too high
    return cost(theta)


class TestQuadraticBandit:
    """The continuous bandit of the paper's section 5.1."""

    @pytest.mark.slow
    @pytest.mark.parametrize(("size", "times"), [(10, 100.0), (25, 400.0)])
    def test_the_deterministic_gradient_wins_with_more_actions(self, size: int, times: float) -> None:
        """Medians over five seeds; a baseline, which compatible features include, makes the score function as good."""
        start = [bandit(size, seed)(torch.zeros(size, dtype=torch.float64)).item() for seed in range(100)]
        assert np.mean(start) == pytest.approx(8.8 * size, rel=0.1)
        deterministic = float(np.median([deterministic_cost(size, seed) for seed in range(5)]))
        vanilla, advantage = (
            torch.stack([stochastic_cost(size, seed, baseline=baseline) for seed in range(5)])
            .median(0)
            .values.min()
            .item()
            for baseline in (False, True)
        )
        assert deterministic < 1e-3 * size
        assert vanilla > times * deterministic
        assert 0.5 * deterministic < advantage < 2.0 * deterministic


def watch(
    agent: DPG, spec: Spec, generator: np.random.Generator, steps: int = 1, *, num_envs: int = 8, progress: float = 0.25
) -> list[Any]:
    """Let it act, observe random transitions and learn for some steps; returns its actions and metrics."""
    history: list[Any] = []
    for _ in range(steps):
        seen, after = random_observation(spec, num_envs, generator), random_observation(spec, num_envs, generator)
        action = agent.act(seen, explore=True)
        ended = generator.random(num_envs) < 0.3
        terminated = ended & (generator.random(num_envs) < 0.5)
        reward = generator.normal(size=num_envs).astype(np.float32)
        agent.observe(Transition(seen, action, reward, after, terminated, ended))
        history += [action, agent.update(progress)]
    return history


def learning(spec: Spec, settings: DPGSettings, seed: int = 0, steps: int = 12) -> DPG:
    """An agent that has learned for some steps."""
    agent = DPG(spec, settings, seed)
    watch(agent, spec, np.random.default_rng(seed), steps)
    return agent


def some_steps(spec: Spec, seed: int, num_envs: int = 12) -> Steps:
    """Two steps of each environment in double precision; a third of the first ones truncated, a third terminated."""
    generator = np.random.default_rng(seed)

    def some(*shape: int) -> Tensor:
        return torch.from_numpy(generator.normal(size=(2, num_envs, *shape)))

    def observed() -> tuple[Tensor, ...]:
        return some(spec.observation_size), some(spec.goal_size), some(spec.goal_size)

    kind = torch.stack([torch.arange(num_envs), torch.arange(1, num_envs + 1)]) % 3
    choice = some(len(spec.action_low)).clamp(-1.0, 1.0)
    terminated, ended = (kind == 2).double(), (kind >= 1).double()
    return Steps(observed(), observed(), choice, some(), terminated, ended, episode_step=torch.zeros(2, num_envs))


def in_double(agent: DPG) -> DPG:
    """The same agent in double precision, with Adam's moments cleared."""
    agent._policy.double()
    agent._average.policy.double()
    agent._critic.double()
    agent._actor_optimizer.state.clear()
    agent._critic_optimizer.state.clear()
    return agent


class TestUpdate:
    """One update of the agent, compared with the paper's equations."""

    @pytest.mark.parametrize("critic", CRITICS)
    @pytest.mark.parametrize("seed", range(2))
    def test_one_update_equals_the_paper(self, seed: int, critic: str) -> None:
        """TD error, slope and both gradients equal equations (11) to (13), (16) to (18) or (19) to (22)."""
        agent = in_double(learning(ARM, small(critic, discount=0.8), seed))
        steps = some_steps(ARM, seed)
        actor, encoder = copy.deepcopy(agent._actor), agent._policy.encoder
        net: Any = copy.deepcopy(agent._critic)
        with torch.no_grad():
            s, next_s = (
                encoder(*(part[0] for part in steps.observation)),
                encoder(*(part[0] for part in steps.next_observation)),
            )
        a, parameters = steps.sample[0], list(actor.parameters())
        metrics = agent._learn(steps)

        grad_mu, mu = jacobian(actor, s), actor(s).detach()
        if critic == "compatible":
            phi = torch.einsum("bap,ba->bp", grad_mu, a - mu)
            next_q, q = net.value(next_s)[:, 0], phi @ flat(net.w) + net.value(s)[:, 0]
            dq_da = torch.einsum("bap,p->ba", grad_mu, flat(net.w))
        else:
            next_a = actor(next_s).detach()
            if critic == "sarsa":
                goes_on = torch.arange(len(a)) % 3 == 0
                next_a[goes_on] = steps.sample[1][goes_on]
            next_q, q = net.net(torch.hstack([next_s, next_a]))[:, 0], net.net(torch.hstack([s, a]))[:, 0]
            mu.requires_grad_()
            (dq_da,) = torch.autograd.grad(net.net(torch.hstack([s, mu])).sum(), mu)
        goes_on_or_was_cut = torch.arange(len(a)) % 3 != 2
        delta = (steps.reward[0] + torch.where(goes_on_or_was_cut, 0.8 * next_q, 0.0) - q).detach()
        assert metrics["td_error"] == pytest.approx(delta.square().mean().sqrt().item(), abs=1e-12)
        assert metrics["slope"] == pytest.approx(dq_da.abs().mean().item(), abs=1e-12)

        trained = net.value if critic == "compatible" else net
        by_q = -flat(torch.autograd.grad((delta * q).mean(), list(trained.parameters())))
        if critic == "compatible":
            by_q = torch.cat([-(delta[:, None] * phi).mean(0), by_q])
        assert by_q.abs().max() > 1e-3
        torch.testing.assert_close(gradient_of(agent._critic), by_q, rtol=0, atol=1e-12)

        penalty = 0.003 * actor[0](s).square().sum(-1).mean()
        by_theta = flat(torch.autograd.grad(penalty, parameters)) - torch.einsum("bap,ba->p", grad_mu, dq_da) / len(a)
        assert by_theta.abs().max() > 1e-4
        torch.testing.assert_close(gradient_of(agent._actor), by_theta, rtol=0, atol=1e-12)

    def test_sarsa_does_not_use_actions_of_the_next_episode(self) -> None:
        """The second action affects the critic only where the episode goes on."""
        agent, steps = in_double(learning(ARM, small("sarsa"))), some_steps(ARM, 0)
        ended = steps.ended[0] > 0

        def learned(choice: Tensor) -> Tensor:
            learner = copy.deepcopy(agent)
            learner._critic_optimizer.zero_grad()
            learner._learn(replace(steps, sample=choice))
            return gradient_of(learner._critic)

        wanted, other = learned(steps.sample), steps.sample.clone()
        other[1, ended] = 0.9
        assert torch.equal(learned(other), wanted)
        other[1, ~ended] = 0.9
        assert not torch.equal(learned(other), wanted)

    @pytest.mark.parametrize("critic", CRITICS)
    def test_each_step_is_learned_from_once(self, critic: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each step is used once: immediately, or by Sarsa one step later, with its next action."""
        agent, learned, choices = learning(ARM, small(critic), steps=8), [], []
        monkeypatch.setattr(agent, "_learn", lambda steps: learned.append(steps) or {})
        generator = np.random.default_rng(0)
        for _ in range(5):
            watch(agent, ARM, generator)
            choices.append(agent._step)
        late = 1 if critic == "sarsa" else 0
        assert len(learned) == 5 - late
        for place, steps in enumerate(learned):
            assert len(steps) == 1 + late
            assert all(torch.equal(choice, choices[place + one]) for one, choice in enumerate(steps.sample))

    @pytest.mark.parametrize("critic", CRITICS)
    def test_random_steps_only_fit_the_normaliser(self, critic: str) -> None:
        """The random steps set mean and std of the inputs (NumPy's), once, and train nothing."""
        agent, generator = DPG(ARM, small(critic), 0), np.random.default_rng(0)  # 64 steps are 8 of 8 environments
        before, twin = copy.deepcopy(agent.state_dict()), np.random.default_rng(0)
        for _ in range(7):
            assert watch(agent, ARM, generator)[1] == {}
            after = agent.state_dict()
            for name in ("policy", "critic", "actor_optimizer", "critic_optimizer", "normalizer_fitted"):
                assert_equal(after[name], before[name])
        assert watch(agent, ARM, generator)[1] == {}
        assert agent.state_dict()["normalizer_fitted"]
        assert len(agent._rollout) == 0
        seen = []
        for _ in range(8):
            seen.append(random_observation(ARM, 8, twin))
            random_observation(ARM, 8, twin)
            twin.random(8), twin.random(8), twin.normal(size=8)
        parts = [np.concatenate([each[name] for each in seen]) for name in seen[0]]
        raw = np.hstack([*parts, parts[2] - parts[1]])
        normalizer = agent._policy.encoder.normalizer
        np.testing.assert_allclose(normalizer.mean.numpy(), raw.mean(0), atol=1e-6)
        np.testing.assert_allclose(normalizer.std.numpy(), raw.std(0), atol=1e-6)
        fitted = copy.deepcopy(normalizer.state_dict())
        metrics = watch(agent, ARM, generator, 2)[3]
        assert set(metrics) == {"td_error", "slope", "learning_rate", "updates"}
        assert metrics["updates"] == 1
        assert_equal(normalizer.state_dict(), fitted)

    @pytest.mark.parametrize("critic", CRITICS)
    def test_both_learning_rates_fall_to_a_fiftieth_of_the_first(self, critic: str) -> None:
        """Both schedules are linear in the progress with a floor of a fiftieth."""
        agent = learning(ARM, small(critic, learning_rate=1e-3, critic_learning_rate=1e-2))
        generator = np.random.default_rng(0)
        for progress, fraction in ((0.0, 1.0), (0.5, 0.5), (0.98, 0.02), (1.0, 0.02)):
            metrics = [row for row in watch(agent, ARM, generator, 2, progress=progress)[1::2] if row]
            assert metrics
            assert all(row["learning_rate"] == pytest.approx(fraction * 1e-3) for row in metrics)
            assert agent._actor_optimizer.param_groups[0]["lr"] == pytest.approx(fraction * 1e-3)
            assert agent._critic_optimizer.param_groups[0]["lr"] == pytest.approx(fraction * 1e-2)


def still(spec: Spec, num_envs: int, angles: tuple[float, ...]) -> Observation:
    """The same observation for all environments, with these angles."""
    seen = random_observation(spec, 1, np.random.default_rng(3))
    seen["observation"][:, [1, 2]] = np.array(angles) / DEGREES
    return {name: np.repeat(column, num_envs, 0) for name, column in seen.items()}


class TestActing:
    """Actions and exploration."""

    @pytest.mark.parametrize("largest", [0.5, 2.0])
    def test_steps_start_at_the_measured_angle_and_are_bounded(self, largest: float) -> None:
        """Random steps are standard normal, clipped to max_step (31.7 % at the ends); a policy's are bounded too."""
        seen = still(ARM, 4000, (30.0, 45.0))
        reach = largest * np.array(ARM.max_step)
        wide = (DPG(ARM, small("q", max_step=largest), 0).act(seen, explore=True) - (30.0, 45.0)) / reach
        assert np.abs(wide).max() == pytest.approx(1.0, abs=1e-4)
        # Normal of std 1, clipped: a third of the steps are as large as can be.
        assert (np.abs(wide) > 0.999).mean() == pytest.approx(0.317, abs=0.02)
        assert wide[np.abs(wide) < 0.999].std() == pytest.approx(0.54, abs=0.02)
        agent = learning(ARM, small("q", max_step=largest, noise=0.1))
        calm = agent.act(seen, explore=False)
        agent._policy.net[-1].bias.data.fill_(100.0)  # type: ignore[union-attr,operator]
        np.testing.assert_allclose(agent.act(seen, explore=False)[0] - (30.0, 45.0), reach, rtol=1e-4)
        assert not np.allclose(calm[0] - (30.0, 45.0), reach, rtol=0.1)

    def test_exploration_is_normal_noise_around_the_policys_step(self) -> None:
        """Noise has mean 0, the requested std and no correlation between joints, and the stored step includes it."""
        agent, seen = learning(ARM, small("q", noise=0.1, final_noise=0.1)), still(ARM, 4000, (30.0, 45.0))
        reach = 2.0 * np.array(ARM.max_step)
        action = agent.act(seen, explore=True)
        assert agent._step is not None
        np.testing.assert_allclose(agent._step.numpy(), (action - (30.0, 45.0)) / reach, atol=1e-5)
        away = (action - agent.act(seen, explore=False)) / reach
        assert np.abs(away.mean(0)).max() < 5 * 0.1 / math.sqrt(4000)
        np.testing.assert_allclose(away.std(0), 0.1, rtol=0.05)
        assert abs(np.corrcoef(away.T)[0, 1]) < 0.08

    @pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.1), (0.25, 0.08), (1.0, 0.02), (1.5, 0.02)])
    def test_noise_falls_linearly_while_training(self, progress: float, expected: float) -> None:
        """From 0.1 to 0.02: 0.1 - 0.08 progress, also in an agent that is restored from the state."""
        settings = small("q", noise=0.1, final_noise=0.02)
        agent = learning(ARM, settings)
        watch(agent, ARM, np.random.default_rng(1), progress=progress)
        restored = DPG(ARM, settings, 1)
        restored.load_state_dict(agent.state_dict())
        seen = still(ARM, 4000, (30.0, 45.0))
        for one in (agent, restored):
            away = (one.act(seen, explore=True) - one.act(seen, explore=False)) / (2.0 * np.array(ARM.max_step))
            np.testing.assert_allclose(away.std(0), expected, rtol=0.05)

    @pytest.mark.parametrize("size", [1.0, 3.0])
    def test_steps_slow_down_near_the_goal(self, size: float) -> None:
        """action = previous + g (angle + step - previous), with g = (distance - rest distance) / slowing distance."""
        spec = replace(ARM, target_columns=(3, 4), rest_distance=0.002, size=size)
        agent = learning(spec, small("q", slowing_distance=0.04, max_step=0.5))
        seen = still(spec, 5, (30.0, 45.0))
        seen["observation"][:, 3:] = np.array([35.0, 40.0]) / DEGREES
        fraction = np.array([0.0, 0.0, 0.25, 0.75, 1.0])[:, None]
        distance = np.array([0.0, 0.002, 0.01 * size + 0.002, 0.03 * size + 0.002, 5.0])[:, None]
        seen["desired_goal"] = (seen["achieved_goal"] + distance * (0.6, -0.8)).astype(np.float32)
        for explore in (True, False):
            action = agent.act(seen, explore=explore)
            with torch.no_grad():
                step = agent._actor(agent._policy.encoder(*(torch.from_numpy(part) for part in seen.values())))
            if explore:
                assert agent._step is not None
                step = agent._step
            stepped = np.array([30.0, 45.0]) + 0.5 * step.numpy() * ARM.max_step
            wanted = (35.0, 40.0) + fraction * (stepped - (35.0, 40.0))
            np.testing.assert_allclose(action, wanted, rtol=0, atol=2e-3)

    def test_without_exploration_actions_are_deterministic(self) -> None:
        """The policy's own action is returned each time, and the generator is not advanced."""
        agent, seen = learning(ARM, small("q")), random_observation(ARM, 6, np.random.default_rng(4))
        generator = copy.deepcopy(agent.state_dict()["generator"])
        first, second = agent.act(seen, explore=False), agent.act(seen, explore=False)
        np.testing.assert_array_equal(first, second)
        assert agent.state_dict()["generator"] == generator
        with torch.no_grad():
            np.testing.assert_array_equal(first, agent._policy(*(torch.from_numpy(part) for part in seen.values())))

    @given(st.sampled_from([ARM, PLAIN]), st.sampled_from(CRITICS), st.booleans(), st.integers(0, 100))
    def test_actions_are_within_the_bounds_for_any_noise(self, spec: Spec, critic: str, warm: bool, seed: int) -> None:
        """Actions are float32 within the bounds and steps at most 1, for a noise of 100."""
        settings = small(critic, noise=100.0)
        agent = DPG(spec, settings, seed)
        agent._normalizer_fitted = warm
        actions = agent.act(random_observation(spec, 7, np.random.default_rng(seed)), explore=True)
        assert actions.shape == (7, 2)
        assert actions.dtype == np.float32
        assert (actions >= np.array(spec.action_low, np.float32)).all()
        assert (actions <= np.array(spec.action_high, np.float32)).all()
        assert agent._step is not None
        assert agent._step.abs().max() <= 1.0


class TestReproducibility:
    """Seeds, generators and checkpoints."""

    def test_agents_are_determined_by_the_seed(self) -> None:
        """Equal seeds give equal agents, and PyTorch's global generator is not advanced."""
        torch.manual_seed(1)
        wanted = torch.rand(3)
        torch.manual_seed(1)
        first, second, other = (DPG(ARM, small("q"), seed) for seed in (7, 7, 8))
        assert torch.equal(torch.rand(3), wanted)
        assert_equal(first.state_dict(), second.state_dict())
        assert not torch.equal(
            first.state_dict()["policy"]["net.0.weight"], other.state_dict()["policy"]["net.0.weight"]
        )
        seen = random_observation(ARM, 4, np.random.default_rng(0))
        np.testing.assert_array_equal(first.act(seen, explore=True), second.act(seen, explore=True))
        assert (first.act(seen, explore=True) != other.act(seen, explore=True)).any()

    @pytest.mark.parametrize("critic", CRITICS)
    @pytest.mark.parametrize("steps", [3, 12, 13])
    def test_it_continues_from_a_checkpoint_exactly(self, critic: str, steps: int, tmp_path: Path) -> None:
        """Within the random steps and after them, with or without a pending Sarsa step, it continues bit for bit."""
        settings = small(critic, fourier_octaves=1)
        agent, resumed = learning(ARM, settings, steps=steps), DPG(ARM, settings, seed=99)
        _, state = load_checkpoint(save_checkpoint(tmp_path, steps, agent.state_dict()))
        resumed.load_state_dict(state)
        assert_equal(resumed.state_dict(), agent.state_dict())
        wanted, got = (watch(each, ARM, np.random.default_rng(1), 9) for each in (agent, resumed))
        assert_equal(got, wanted)
        assert any(isinstance(row, dict) and row for row in wanted)
        assert_equal(resumed.state_dict(), agent.state_dict())

    @pytest.mark.parametrize("critic", CRITICS)
    def test_load_networks_takes_networks_only(self, critic: str) -> None:
        """Policy, critic and normaliser are taken over; optimisers, rollout and generator stay the agent's own."""
        teacher, pupil = learning(ARM, small(critic), seed=1, steps=13), DPG(ARM, small(critic), seed=2)
        before, state = copy.deepcopy(pupil.state_dict()), copy.deepcopy(teacher.state_dict())
        pupil.load_networks(state)
        after, seen = pupil.state_dict(), random_observation(ARM, 5, np.random.default_rng(0))
        for name in ("policy", "critic", "normalizer_fitted"):
            assert_equal(after[name], state[name])
        for name in ("actor_optimizer", "critic_optimizer", "rollout", "generator"):
            assert_equal(after[name], before[name])
        np.testing.assert_array_equal(pupil.act(seen, explore=False), teacher.act(seen, explore=False))
        # It learns at once, without random steps.
        assert any("td_error" in row for row in watch(pupil, ARM, np.random.default_rng(0), 2)[1::2])


def play(
    agent: DPG,
    begin: Callable[[int], Observation],
    reward: Callable[[Observation, FloatArray], Any],
    steps: int,
    *,
    terminates: Callable[[Observation], Any] = lambda seen: np.ones(len(seen["observation"]), np.bool_),
) -> None:
    """Play episodes of one step that returns to its start; those that do not terminate are truncated."""
    ended = np.ones(32, np.bool_)
    for step in range(steps):
        seen = begin(32)
        action = agent.act(seen, explore=True)
        gained = np.asarray(reward(seen, action), np.float32)
        agent.observe(Transition(seen, action, gained, seen, terminates(seen), ended))
        agent.update(step / steps)


def learner(critic: str, **changes: Any) -> DPGSettings:
    rates = (3e-3, 3e-2) if critic == "compatible" else (5e-3, 1e-2)
    values = {"learning_rate": rates[0], "critic_learning_rate": rates[1], "noise": 0.2, "critic_units": 64, **changes}
    return small(critic, learning_starts=640, **values)


def fraction(spec: Spec, action: FloatArray) -> Any:
    """Actions scaled to -1..1."""
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    return 2.0 * (action - low) / (high - low) - 1.0


def two_states(generator: np.random.Generator) -> Callable[[int], Observation]:
    """A function that starts episodes in state 1 or -1."""

    def begin(num_envs: int) -> Observation:
        zero = np.zeros((num_envs, 2), np.float32)
        state = generator.choice(np.float32([-1.0, 1.0]), (num_envs, 1))
        return {"observation": state, "achieved_goal": zero, "desired_goal": zero}

    return begin


class TestLearning:
    """Tasks that the agent must solve."""

    @pytest.mark.slow
    @pytest.mark.parametrize(("critic", "steps"), [("compatible", 600), ("q", 400), ("sarsa", 400)])
    def test_actions_learn_to_match_the_goal(self, critic: str, steps: int) -> None:
        """Reward -(action - goal)^2: actions come within 5 % of the range on average."""
        agent, generator = DPG(PLAIN, learner(critic), 0), np.random.default_rng(0)

        def begin(num_envs: int) -> Observation:
            goal = generator.uniform(PLAIN.action_low, PLAIN.action_high, (num_envs, 2)).astype(np.float32)
            return {
                "observation": np.zeros((num_envs, 1), np.float32),
                "achieved_goal": np.zeros_like(goal),
                "desired_goal": goal,
            }

        def reward(seen: Observation, action: FloatArray) -> Any:
            return -np.square(fraction(PLAIN, action) - fraction(PLAIN, seen["desired_goal"])).sum(-1)

        play(agent, begin, reward, steps)
        seen = begin(1000)
        miss = np.abs(fraction(PLAIN, agent.act(seen, explore=False)) - fraction(PLAIN, seen["desired_goal"])) / 2.0
        assert miss.mean() < 0.05  # the middle of the range misses by 0.25
        assert np.percentile(miss, 99) < 0.15

    @pytest.mark.parametrize("critic", CRITICS)
    def test_the_rewarded_direction_is_learned_for_each_state(self, critic: str) -> None:
        """Reward a_1 s - a_2 with s = 1 or -1: actions reach 0.9 of the bound in the rewarded direction."""
        agent, begin = DPG(PLAIN, learner(critic), 0), two_states(np.random.default_rng(0))

        def reward(seen: Observation, action: FloatArray) -> Any:
            first, second = fraction(PLAIN, action).T
            return first * seen["observation"][:, 0] - second

        play(agent, begin, reward, 300)
        seen = begin(100)
        first, second = fraction(PLAIN, agent.act(seen, explore=False)).T
        assert (first * seen["observation"][:, 0]).min() > 0.9
        assert second.max() < -0.9

    @pytest.mark.parametrize("critic", CRITICS)
    def test_termination_and_truncation_have_their_values(self, critic: str) -> None:
        """Reward 1 with gamma = 0.5: 1 where the episode terminates, 1 + 1/2 + 1/4 + ... = 2 where it is truncated."""
        agent, begin = DPG(PLAIN, learner(critic, discount=0.5), 0), two_states(np.random.default_rng(0))
        play(
            agent,
            begin,
            lambda seen, action: np.ones(len(action)),
            300,
            terminates=lambda seen: seen["observation"][:, 0] > 0.0,
        )
        zero = torch.zeros(2, 2)
        with torch.no_grad():
            s = agent._policy.encoder(torch.tensor([[1.0], [-1.0]]), zero, zero)
            mu = agent._actor(s)
            critic_net: Any = agent._critic
            q = critic_net(agent._actor, s, mu) if critic == "compatible" else critic_net(s, mu)
        assert q.tolist() == pytest.approx([1.0, 2.0], abs=0.05)


class TestSettings:
    """Validation of settings."""

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({name: bad}, name.replace("_", "-"))
            for name in (
                "hidden_units",
                "critic_units",
                "learning_rate",
                "critic_learning_rate",
                "noise",
                "max_step",
                "learning_starts",
            )
            for bad in (0, -1, math.nan, math.inf)
        ]
        + [({"discount": bad}, "discount") for bad in (-0.01, 1.01, math.nan)]
        + [({"fourier_octaves": bad}, "fourier-octaves") for bad in (-1, 11, math.nan)],
        ids=str,
    )
    def test_rejects_invalid_settings_by_name(self, values: dict[str, Any], named: str) -> None:
        """Values out of range raise an error that begins with the flag's name."""
        with pytest.raises(ValueError, match=f"{named}: expected"):
            DPGSettings(**values)

    def test_settings_at_their_bounds_are_accepted(self) -> None:
        """Bounds of ranges are accepted."""
        DPGSettings(discount=0, fourier_octaves=0, learning_starts=1)
        DPGSettings(discount=1, fourier_octaves=10)
