"""Diffusion: levels, the posterior of a sampling step, exact denoising, noise that is fixed."""

import pytest
import torch

from cab.backbones.diffusion import Diffusion, FixedNoise, noisy


def test_levels_are_the_roots_of_the_products() -> None:
    schedule = Diffusion(3, 0.1, 0.3)
    kept = [1.0, 0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7]
    assert (schedule.levels**2).tolist() == pytest.approx(kept)
    assert schedule.fixed_levels(3) == pytest.approx([value**0.5 for value in kept[1:]])
    assert schedule.fixed_levels(1) == pytest.approx([kept[2] ** 0.5])


def test_training_draws_levels_between_two_steps_and_every_step() -> None:
    schedule = Diffusion(4, 0.1, 0.4)
    levels = schedule.random_levels(4000, torch.device("cpu"))
    ends = schedule.levels.flip(0).float()
    assert levels.min() >= ends[0] and levels.max() <= ends[-1]
    counts = torch.histogram(levels, ends).hist
    assert (counts > 800).all()


def test_a_network_that_knows_the_noise_gives_back_the_image() -> None:
    schedule, image = Diffusion(20, 1e-3, 0.4), torch.rand(2, 1, 4, 4) * 2 - 1

    def network(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        level = level[:, None, None, None]
        return (x - level * image) / (1 - level**2).sqrt()

    for steps in (1, 7, 20):
        sample = schedule.sample(network, image, FixedNoise([1, 2], image), steps)
        torch.testing.assert_close(sample, image, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="steps=21: from 1 to the schedule's 20"):
        schedule.sample(network, image, FixedNoise([1, 2], image), 21)


def test_a_step_draws_from_the_posterior() -> None:
    # two steps of one number, by hand: a network that finds no noise, so that the image is x / level
    schedule = Diffusion(2, 0.2, 0.5)
    drawn = iter([torch.full((1, 1, 1, 1), 0.3), torch.full((1, 1, 1, 1), 0.7)])
    like = torch.zeros(1, 1, 1, 1)
    out = schedule.sample(lambda x, level: torch.zeros_like(x), like, lambda: next(drawn), 2)
    before, after = 0.8, 0.8 * 0.5
    image = 0.3 / after**0.5
    mean = 0.5 * before**0.5 / (1 - after) * image + (1 - before) * 0.5**0.5 / (1 - after) * 0.3
    x = mean + (0.5 * (1 - before) / (1 - after)) ** 0.5 * 0.7
    assert out.item() == pytest.approx(min(1.0, x / before**0.5), rel=1e-5)  # the last step is its image


def test_noisy_images_have_the_variance_of_their_level() -> None:
    images, noise = torch.full((2, 1, 2, 2), 0.5), torch.ones(2, 1, 2, 2)
    out = noisy(images, torch.tensor([1.0, 0.6]), noise)
    assert out[0].eq(0.5).all() and out[1].eq(0.6 * 0.5 + 0.8).all()


def test_an_example_has_its_own_noise_in_every_batch() -> None:
    like = torch.zeros(3, 2, 4, 4)
    together, alone = FixedNoise([5, 6, 7], like), FixedNoise([6], like[:1])
    for _ in range(2):
        batch = together()
        torch.testing.assert_close(batch[1], alone()[0], rtol=0, atol=0)
        assert not torch.equal(batch[0], batch[1])


@pytest.mark.parametrize(("steps", "first", "last"), [(0, 0.1, 0.2), (5, 0.0, 0.2), (5, 0.3, 0.2), (5, 0.3, 1.0)])
def test_a_schedule_that_is_none_is_refused(steps: int, first: float, last: float) -> None:
    with pytest.raises(ValueError, match=f"steps={steps}, first={first}, last={last}"):
        Diffusion(steps, first, last)
