"""The cache of streaming mechanisms: unmasked tokens lie at the front of a row, and their index is their position."""

import torch

from cab.ops.cache import empty_cache, extend_cache, next_positions, visible_in_cache


def test_masked_tokens_are_not_stored_and_take_no_position() -> None:
    tokens = torch.arange(1.0, 7.0).reshape(1, 1, 6, 1).expand(2, 1, 6, 1)
    mask = torch.tensor([[True, False, True, True, False, True], [False, False, True, True, True, True]])
    cache = empty_cache(tokens[:, :, :0])
    for start, stop in ((0, 2), (2, 6)):
        expected = next_positions(cache, stop - start, mask[:, start:stop])
        cache, position = extend_cache(cache, (tokens[:, :, start:stop],), mask[:, start:stop])
        assert torch.equal(position, expected)
    (stored,), count = cache
    assert stored[0, 0, :4, 0].tolist() == [1, 3, 4, 6] and stored[1, 0, :4, 0].tolist() == [3, 4, 5, 6]
    assert count.tolist() == [4, 4] and position.tolist() == [[1, 2, 2, 3], [0, 1, 2, 3]]


def test_a_new_token_sees_what_is_cached_up_to_it_or_in_a_cross_pattern_all_of_it() -> None:
    tokens = torch.zeros(2, 1, 4, 1)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    cache, position = extend_cache(empty_cache(tokens[:, :, :0]), (tokens,), mask)
    seen = visible_in_cache(cache, position)
    assert seen[0, 0].tolist() == torch.ones(4, 4).tril().bool().tolist()
    assert seen[1, 0, :, 2:].any().item() is False and seen[1, 0, 1, :2].all()
    assert visible_in_cache(cache)[:, 0, 0].tolist() == mask.tolist()
