"""The theory of policy gradients, tested with the agents' own distributions, returns and advantage estimators."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.a2c.agent import a2c
from policies.a2c.settings import A2CSettings
from policies.a3c.agent import a3c
from policies.a3c.settings import A3CSettings
from policies.actor_critic.agent import actor_critic
from policies.actor_critic.settings import ActorCriticSettings
from policies.common.distributions import ClippedGaussian, Gaussian, Softmax, SquashedGaussian
from policies.common.rollout import AdvantageEstimate, Steps
from policies.common.settings import PolicyGradientSettings
from policies.reinforce.agent import reinforce
from policies.reinforce.settings import ReinforceSettings

PLAIN = ReinforceSettings(baseline="none", discount=1.0)
AVERAGE = replace(PLAIN, baseline="average")
VALUE = replace(PLAIN, baseline="value")


def bandit(choice: Tensor, reward: Tensor) -> Steps:
    """One-step episodes, one an environment, of choices (num_envs, actions) and rewards (num_envs,)."""
    reward = reward.double()[None]
    one = torch.ones_like(reward)
    return Steps((), (), choice[None], reward, terminated=one, ended=one, episode_step=torch.zeros_like(reward))


def without_values(steps: Steps, settings: ReinforceSettings) -> AdvantageEstimate:
    """REINFORCE's advantages of steps with all values 0."""
    return reinforce(steps, torch.zeros_like(steps.reward), torch.zeros_like(steps.reward), settings)


def assert_mean_is(samples: Tensor, wanted: float) -> None:
    """Assert that the mean of samples is within three standard errors."""
    mean, error = samples.mean().item(), samples.std().item() / math.sqrt(len(samples))
    assert abs(mean - wanted) < 3 * error, f"{mean} +- {error}, expected {wanted}"


# ------------------------------------------------------------------------------------------------- the short corridor
# Sutton and Barto 2018, example 13.1: three states in a row, which the policy cannot distinguish, then the goal. Each
# step costs 1. In the second state left goes right and right goes left.

GOAL = 3
MOVES = np.array([[0, 1], [2, 0], [1, GOAL], [GOAL, GOAL]])  # by state and action, 0 left and 1 right
BEST_P, BEST_RETURN = 2.0 - math.sqrt(2.0), -11.657
BLOCK = 32  # steps drawn at once


def expected_return(p: float | Tensor) -> Tensor:
    """The return J of going right with probability p."""
    p = torch.as_tensor(p, dtype=torch.float64)
    return (2.0 * p - 4.0) / (p * (1.0 - p))


def logits_of(p: float) -> Tensor:
    """Logits of left and right for going right with probability p."""
    return torch.tensor([0.0, math.log(p / (1.0 - p))], dtype=torch.float64)


def chance_of_right(logits: Tensor) -> Tensor:
    return torch.softmax(logits, -1)[..., 1]


def corridor_values(p: float) -> Tensor:
    """V of the three states, and of the goal, from their Bellman equations."""
    follow = np.zeros((3, 4))
    for state, action in itertools.product(range(3), range(2)):
        follow[state, MOVES[state, action]] += p if action else 1.0 - p
    return torch.from_numpy(np.append(np.linalg.solve(np.eye(3) - follow[:, :3], -np.ones(3)), 0.0))


@dataclass(frozen=True)
class Walk:
    """An episode of each environment. At the goal its steps go on, for nothing, and are no longer `alive`."""

    steps: Steps
    state: Tensor  # (steps + 1, num_envs)
    alive: Tensor  # (steps, num_envs)

    def values(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the states and of the next states, from a table (states,) or (num_envs, states)."""
        value = table.expand(self.state.shape[1], -1).gather(1, self.state.T).T
        return value[:-1], value[1:]


def walk(logits: Tensor, generator: np.random.Generator, *, prize: float = 0.0, longest: int = 4800) -> Walk:
    """From the first state to the goal, where there may be a prize, with two logits (num_envs, 2) per environment."""
    position = np.zeros(len(logits), np.int64)
    actions: list[NDArray[np.int64]] = []
    positions = [position]
    while (position != GOAL).any() and len(actions) < longest:
        drawn = Softmax((logits.expand(BLOCK, *logits.shape),)).sample(generator)
        for action in drawn[..., 0].numpy():
            position = MOVES[position, action]
            actions.append(action)
            positions.append(position)
    state, choice = torch.from_numpy(np.stack(positions)), torch.from_numpy(np.stack(actions))[..., None]
    alive, ended = (state[:-1] != GOAL).double(), (state[1:] == GOAL).double()
    reward = alive * (prize * ended - 1.0)
    return Walk(Steps((), (), choice, reward, ended, ended, episode_step=torch.zeros_like(reward)), state, alive)


def score_gradient(walked: Walk, logits: Tensor, credit: AdvantageEstimate) -> Tensor:
    """Each episode's sum of advantage_t d log pi(a_t) / d logits, (num_envs, 2)."""
    leaf = logits.clone().requires_grad_()
    log_prob = Softmax((leaf.expand(len(walked.steps), *leaf.shape),)).log_prob(walked.steps.sample)
    return torch.autograd.grad((log_prob * credit.advantage * walked.alive).sum(), leaf)[0]


def episodes_until(
    wanted: float, settings: ReinforceSettings, rates: tuple[float, ...], episodes: int, seeds: int = 41
) -> float:
    """The median over the seeds of the episodes after which the return stays that high, with the best of the rates.

    One episode an update, from p = 0.05. A prize of 100 at the goal is the same for every policy.
    """
    generator = np.random.default_rng(5)
    rate = torch.tensor(rates, dtype=torch.float64).repeat_interleave(seeds)[:, None]
    logits, table = logits_of(0.05).repeat(len(rate), 1), torch.zeros(len(rate), 4, dtype=torch.float64)
    returns = []
    for _ in range(episodes):
        walked = walk(logits, generator, prize=100.0, longest=320)
        value, next_value = walked.values(table)
        credit = reinforce(walked.steps, value, next_value, settings)
        logits = logits + rate * score_gradient(walked, logits, credit)
        visited = torch.nn.functional.one_hot(walked.state[:-1], 4) * walked.alive[..., None]
        miss = (visited * (credit.value_target - value)[..., None]).sum(0) / visited.sum(0).clamp(min=1.0)
        table = table + 0.2 * miss
        returns.append(expected_return(chance_of_right(logits)).clamp(min=-1000.0))
    following = torch.stack(returns).unfold(0, 50, 1).mean(-1)  # of the next 50 episodes
    reached = following >= wanted
    first = torch.where(reached.any(0), reached.int().argmax(0), episodes)
    return first.view(len(rates), seeds).median(1).values.min().item()


class TestShortCorridor:
    """The short corridor of Sutton and Barto (2018), example 13.1."""

    def test_the_closed_form_solves_the_bellman_equations(self) -> None:
        """J(p) = (2p - 4) / (p (1 - p)) solves them, with the book's optimum p = 2 - sqrt(2), J = -11.657."""
        for p in (0.05, 0.3, BEST_P, 0.95):
            assert expected_return(p).item() == pytest.approx(corridor_values(p)[0].item(), rel=1e-12)
        grid = torch.linspace(0.01, 0.99, 98_001, dtype=torch.float64)
        returns = expected_return(grid)
        assert grid[returns.argmax()].item() == pytest.approx(BEST_P, abs=1e-5)
        assert returns.max().item() == pytest.approx(BEST_RETURN, abs=1e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize("settings", [PLAIN, AVERAGE, VALUE], ids=["none", "average", "value"])
    @pytest.mark.parametrize("p", [0.2, 0.4, BEST_P, 0.8])
    def test_the_score_function_gradient_is_exact_for_every_baseline(
        self, p: float, settings: ReinforceSettings
    ) -> None:
        """The mean of 10,000 episodes' gradients is within 3 standard errors of dJ/d logits, for each baseline."""
        logits = logits_of(p).repeat(10_000, 1)
        walked = walk(logits, np.random.default_rng(1))
        assert_mean_is(walked.steps.reward.sum(0), expected_return(p).item())
        leaf = logits_of(p).requires_grad_()
        wanted = torch.autograd.grad(expected_return(chance_of_right(leaf)), leaf)[0]
        credit = reinforce(walked.steps, *walked.values(corridor_values(p)), settings)
        assert (credit.mask == 1.0).all()
        gradient = score_gradient(walked, logits, credit)
        for place in range(2):
            assert_mean_is(gradient[:, place], wanted[place].item())

    def test_baselines_reduce_the_variance(self) -> None:
        """The gradient's variance falls to below 70 % with an average and below 50 % with a value baseline."""
        logits = logits_of(BEST_P).repeat(10_000, 1)
        walked = walk(logits, np.random.default_rng(2))
        values = walked.values(corridor_values(BEST_P))
        plain, average, value = (
            score_gradient(walked, logits, reinforce(walked.steps, *values, settings)).var(0).sum().item()
            for settings in (PLAIN, AVERAGE, VALUE)
        )
        assert average < 0.7 * plain
        assert value < 0.5 * plain

    def test_a_state_baseline_has_zero_mean_gradient(self) -> None:
        """With zero rewards and arbitrary values, the gradient's mean is 0 although its std is above 10."""
        logits = logits_of(0.4).repeat(10_000, 1)
        walked = walk(logits, np.random.default_rng(3))
        nothing = replace(walked.steps, reward=torch.zeros_like(walked.steps.reward))
        table = torch.tensor([7.0, -30.0, 12.0, 0.0], dtype=torch.float64)
        credit = reinforce(nothing, *walked.values(table), VALUE)
        torch.testing.assert_close(credit.advantage, -walked.values(table)[0])
        gradient = score_gradient(walked, logits, credit)
        assert gradient.std() > 10.0
        assert_mean_is(gradient[:, 1], 0.0)

    @pytest.mark.slow
    def test_learning_finds_the_stochastic_optimum(self) -> None:
        """From both epsilon-greedy policies (returns -82.1 and -44.2, closed form) learning reaches p = 2 - sqrt(2)."""
        starts = (0.05, 0.95)  # epsilon-greedy with epsilon = 0.1, to the left and to the right
        logits = torch.stack([logits_of(p) for p in starts])
        generator = np.random.default_rng(4)
        for p, wanted in zip(starts, (-82.1, -44.2), strict=True):
            assert expected_return(p).item() == pytest.approx(wanted, abs=0.05)
            assert_mean_is(walk(logits_of(p).repeat(2_000, 1), generator).steps.reward.sum(0), wanted)
        updates, episodes = 250, 150
        for update in range(updates):
            each = logits.repeat_interleave(episodes, 0)
            walked = walk(each, generator)
            gradient = score_gradient(walked, each, without_values(walked.steps, PLAIN))
            logits = logits + 0.02 * (1.0 - update / updates) * gradient.unflatten(0, (2, episodes)).mean(1)
        learned = chance_of_right(logits)
        assert (learned - BEST_P).abs().max() < 0.03
        assert expected_return(learned).min() > BEST_RETURN - 0.03

    @pytest.mark.slow
    def test_a_value_baseline_needs_a_third_of_the_episodes(self) -> None:
        """With a value baseline a return of -12 takes at most a third of the episodes (median of 41 seeds)."""
        without = episodes_until(-12.0, PLAIN, rates=(2.0**-10, 2.0**-11, 2.0**-12), episodes=450)
        with_value = episodes_until(-12.0, VALUE, rates=(2.0**-7, 2.0**-8, 2.0**-9), episodes=150)
        assert without < 400
        assert with_value <= without / 3


class TestRockPaperScissors:
    """A game without a pure equilibrium."""

    def test_self_play_averages_to_an_unexploitable_policy(self) -> None:
        """The average policy of self-play has an exploitability below 0.05; each pure strategy has 1."""
        wins = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
        generator, games, updates = np.random.default_rng(6), 64, 1500
        logits = torch.tensor([[1.0, 0.0, -0.5], [0.0, 0.5, 0.0]], dtype=torch.float64)
        average = torch.zeros_like(logits)
        for _ in range(updates):
            leaf = logits.clone().requires_grad_()
            players = [Softmax((leaf[player].expand(games, 3),)) for player in range(2)]
            choices = [player.sample(generator) for player in players]
            first, second = (choice[:, 0] for choice in choices)
            rewards = (wins[first, second], -wins[first, second])
            gain = torch.zeros(())
            for player, choice, reward in zip(players, choices, rewards, strict=True):
                credit = without_values(bandit(choice, reward), AVERAGE)
                gain = gain + (player.log_prob(choice) * credit.advantage[0]).mean()
            logits = logits + 0.1 * torch.autograd.grad(gain, leaf)[0]
            average += torch.softmax(logits, -1) / updates

        def exploitability(policy: Tensor) -> float:
            return (wins @ policy).max().item()

        assert all(exploitability(pure) == 1.0 for pure in torch.eye(3, dtype=torch.float64))
        assert max(exploitability(player) for player in average) < 0.05


def gaussian_gradients(mean: float, std: float, reward: Callable[[Tensor], Tensor], num_envs: int) -> Tensor:
    """The score-function gradients for mean and log std, of one environment each, (2, num_envs)."""
    leaf = torch.tensor([[mean], [math.log(std)]], dtype=torch.float64).repeat(1, num_envs).requires_grad_()
    policy = Gaussian(leaf[0, :, None], leaf[1, :, None].exp())
    choice = policy.sample(np.random.default_rng(7)).detach()
    credit = without_values(bandit(choice, reward(choice[:, 0])), PLAIN)
    return torch.autograd.grad((policy.log_prob(choice) * credit.advantage[0]).sum(), leaf)[0]


def moments_of_the_score_gradient(
    kind: type[Gaussian], leaf: Tensor, reward: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """E[r], E[r d log pi / d mean] and its second moment, summed over a fine grid of choices; of mean and log std."""
    mean, std = leaf[0], leaf[1].exp()
    z = torch.linspace(-9.0, 9.0, 200_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z * z) * (z[1] - z[0]) / math.sqrt(2.0 * math.pi)
    each = mean.expand(len(z)).detach().clone().requires_grad_()
    policy = kind(each[:, None], std.detach().expand(len(z), 1))
    choice = (mean + std * z).detach()[:, None]
    gained = reward(policy.action(choice)[:, 0].detach())
    score = torch.autograd.grad(policy.log_prob(choice).sum(), each)[0]
    return (weight * gained).sum(), (weight * gained * score).sum(), (weight * (gained * score) ** 2).sum()


class TestGaussianBandits:
    """Score-function gradients of Gaussian bandits."""

    def test_the_gradient_equals_the_closed_form(self) -> None:
        """J = E[-(a - 2)^2] = -(mean - 2)^2 - std^2: gradients within 3 standard errors of a million samples."""
        mean, std = 0.7, 0.6
        for_mean, for_log_std = gaussian_gradients(mean, std, lambda action: -((action - 2.0) ** 2), num_envs=1_000_000)
        assert_mean_is(for_mean, -2.0 * (mean - 2.0))
        assert_mean_is(for_log_std, -2.0 * std**2)

    def test_the_variance_is_the_inverse_square_of_the_std(self) -> None:
        """For a constant reward the variance is 1 / std^2: slope -2 +- 0.05 on log-log axes."""
        stds = np.geomspace(0.02, 2.0, 9)
        variances = [gaussian_gradients(0.3, std, torch.ones_like, num_envs=50_000)[0].var().item() for std in stds]
        slope = np.polyfit(np.log(stds), np.log(variances), 1)[0]
        assert slope == pytest.approx(-2.0, abs=0.05)
        assert variances[-1] == pytest.approx(0.25, rel=0.05)  # 1 / std^2

    @pytest.mark.parametrize("kind", [Gaussian, SquashedGaussian, ClippedGaussian])
    def test_each_distributions_score_gives_the_gradient_of_its_actions(self, kind: type[Gaussian]) -> None:
        """E[r grad log p], integrated on a grid, equals the slope of E[r] for plain, squashed and clipped actions."""

        def reward(action: Tensor) -> Tensor:
            return torch.sin(2.0 * action) + action + 3.0

        def moments(mean: float) -> tuple[Tensor, Tensor, Tensor]:
            return moments_of_the_score_gradient(kind, torch.tensor([mean, math.log(0.8)], dtype=torch.float64), reward)

        slope = (moments(0.701)[0] - moments(0.699)[0]).item() / 0.002
        assert moments(0.7)[1].item() == pytest.approx(slope, abs=2e-4)

    def test_clipping_reduces_the_variance_of_the_score(self) -> None:
        """At equal mean, the clipped Gaussian's second moment is below 80 % of the plain one's."""
        leaf = torch.tensor([0.9, math.log(0.8)], dtype=torch.float64)
        clipped, plain = (
            moments_of_the_score_gradient(kind, leaf, lambda action: action.clamp(-1.0, 1.0) + 3.0)
            for kind in (ClippedGaussian, Gaussian)
        )
        assert clipped[1].item() == pytest.approx(plain[1].item(), abs=2e-4)
        assert clipped[2] < 0.8 * plain[2]


STATES, ACTIONS, END, HORIZON = 3, 2, 3, 3
_WORLD = np.random.default_rng(8)
FOLLOW = torch.from_numpy(_WORLD.dirichlet(np.ones(STATES + 1), (STATES, ACTIONS)))  # chances of each next state
REWARD = torch.from_numpy(_WORLD.normal(size=(STATES, ACTIONS, STATES + 1)))
LOGITS = torch.from_numpy(_WORLD.normal(size=(STATES, ACTIONS)))
OTHER_VALUES = torch.from_numpy(_WORLD.normal(size=(HORIZON + 1, STATES + 1))) * torch.tensor([1.0, 1.0, 1.0, 0.0])


def values_of(logits: Tensor, discount: float) -> Tensor:
    """V (steps so far, state), from the Bellman equations: the task ends at END, or after three steps."""
    values = [torch.zeros(STATES + 1, dtype=torch.float64)]
    for _ in range(HORIZON):
        q = (FOLLOW * (REWARD + discount * values[0])).sum(-1)
        values.insert(0, torch.cat([(torch.softmax(logits, -1) * q).sum(-1), torch.zeros(1)]))
    return torch.stack(values)


def finite_differences(discount: float) -> Tensor:
    """dJ / d logits of the return from the first state."""
    gradient = torch.zeros_like(LOGITS)
    for place in itertools.product(range(STATES), range(ACTIONS)):
        change = torch.zeros_like(LOGITS)
        change[place] = 1e-4
        up, down = (values_of(LOGITS + sign * change, discount)[0, 0] for sign in (1, -1))
        gradient[place] = (up - down) / 2e-4
    return gradient


Method = Callable[[Steps, Tensor, Tensor], AdvantageEstimate]


def expected_update(method: Method, values: Tensor) -> Tensor:
    """The expected score-function gradient of an episode, summed over all outcomes with their probabilities."""
    paths: list[list[tuple[int, int, int]]] = [[]]
    for _ in range(HORIZON):  # at END nothing is done
        paths = [
            [*path, (state, action, following)]
            for path in paths
            for state in [path[-1][2] if path else 0]
            for action in (range(ACTIONS) if state != END else [0])
            for following in (range(STATES + 1) if state != END else [END])
        ]
    state, action, following = torch.tensor(paths).permute(2, 1, 0)  # (steps, paths) each
    alive = (state != END).double()
    at = state.clamp(max=STATES - 1)
    reward = REWARD[at, action, following] * alive
    place = torch.arange(HORIZON)[:, None].expand_as(state)
    terminated = ((following == END) | (place == HORIZON - 1)).double()
    chance = (FOLLOW[at, action, following] * torch.softmax(LOGITS, -1)[at, action]).where(alive == 1, 1.0).prod(0)
    assert chance.sum().item() == pytest.approx(1.0)
    steps = Steps((), (), action[..., None], reward, terminated, terminated, place)
    credit = method(steps, values[place, state], values[place + 1, following])
    leaf = LOGITS.clone().requires_grad_()
    log_prob = Softmax((leaf[at],)).log_prob(steps.sample)
    score = (chance * log_prob * credit.weight * credit.advantage * credit.mask * alive).sum()
    return torch.autograd.grad(score, leaf)[0]


def method_of(settings: PolicyGradientSettings) -> Method:
    methods = {ReinforceSettings: reinforce, ActorCriticSettings: actor_critic, A2CSettings: a2c, A3CSettings: a3c}
    return partial(methods[type(settings)], settings=settings)


class TestExactEnumeration:
    """Expected updates over all outcomes of small tasks."""

    @pytest.mark.parametrize("num_envs", [2, 3])
    def test_a_leave_one_out_average_is_unbiased(self, num_envs: int) -> None:
        """The others' average leaves the expected gradient exact; including the own return scales it by 1 - 1/n."""
        leaf = torch.tensor([0.3, -0.4, 0.2], dtype=torch.float64, requires_grad=True)
        rewards = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
        choices = torch.zeros(num_envs, 1, dtype=torch.int64)
        assert (without_values(bandit(choices, torch.full((num_envs,), 5.0)), AVERAGE).advantage == 0.0).all()
        chances = torch.softmax(leaf, -1)
        wanted = torch.autograd.grad((chances * rewards).sum(), leaf, retain_graph=True)[0]
        others = own = torch.zeros((), dtype=torch.float64)
        for outcome in itertools.product(range(3), repeat=num_envs):
            choice = torch.tensor(outcome)[:, None]
            steps = bandit(choice, rewards[choice[:, 0]])
            chance = chances[choice[:, 0]].prod().detach()
            log_prob = Softmax((leaf.expand(num_envs, 3),)).log_prob(choice)
            others = others + chance * (log_prob * without_values(steps, AVERAGE).advantage[0]).mean()
            g = without_values(steps, PLAIN).advantage[0]
            own = own + chance * (log_prob * (g - g.mean())).mean()
        torch.testing.assert_close(torch.autograd.grad(others, leaf, retain_graph=True)[0], wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(own, leaf)[0], wanted * (1 - 1 / num_envs), rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        ("settings", "exact"),
        [
            (PLAIN, False),
            (VALUE, False),
            (ActorCriticSettings(discount=1.0), True),
            (A2CSettings(discount=1.0, gae_lambda=0.0), True),
            (A2CSettings(discount=1.0, gae_lambda=0.6), True),
            (A2CSettings(discount=1.0, gae_lambda=1.0), False),
            (A3CSettings(discount=1.0), False),
        ],
        ids=["reinforce", "reinforce-value", "actor-critic", "a2c-0", "a2c-0.6", "a2c-1", "a3c"],
    )
    def test_the_expected_update_is_the_finite_difference_of_the_return(
        self, settings: PolicyGradientSettings, exact: bool
    ) -> None:
        """With any values as baseline, with exact ones as bootstrap, the expected update equals dJ/d logits to 1e-7."""
        method, wanted = method_of(settings), finite_differences(1.0)
        values = values_of(LOGITS, 1.0)
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(expected_update(method, values), wanted, rtol=0, atol=1e-7)
        with_others = (expected_update(method, OTHER_VALUES) - wanted).abs().max().item()
        assert with_others > 0.1 if exact else with_others < 1e-7

    def test_the_factor_gamma_t_makes_the_actor_critic_update_exact(self) -> None:
        """Only with the factor I = gamma^t is the update the gradient of the discounted return."""
        plain, discounted = (
            expected_update(
                method_of(ActorCriticSettings(discount=0.9, discounted_start=factor)), values_of(LOGITS, 0.9)
            )
            for factor in (False, True)
        )
        wanted = finite_differences(0.9)
        torch.testing.assert_close(discounted, wanted, rtol=0, atol=1e-7)
        assert (plain - wanted).abs().max() > 0.02
        without_discount = [
            expected_update(
                method_of(ActorCriticSettings(discount=1.0, discounted_start=factor)), values_of(LOGITS, 1.0)
            )
            for factor in (False, True)
        ]
        torch.testing.assert_close(*without_discount, rtol=0, atol=0)  # with gamma = 1 the factor is 1
