"""`cab plot mask`: the map holds the weights or the Jacobian norms; picture and page; one sentence for an error."""

from pathlib import Path

import pytest
import torch
from cab.cli import app
from PIL import Image
from typer.testing import CliRunner

from cab import UsageError
from cab.attention.attention_map import AttentionMap, effective_map
from cab.planning.plan import plan
from cab.plugins import registry


def map_of(*overrides: str) -> AttentionMap:
    case = plan(["task=speed", "seq_len=24", "heads=2", "dim=8", "meters=[flops]", *overrides]).cases[0]
    return effective_map(case)


def cab(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plot", "mask", *arguments], prog_name="cab")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_map_of_a_causal_window_is_its_softmax() -> None:
    attention_map = map_of("mechanism=local", "pattern=CS", "mechanism.window=3")
    distance = torch.arange(24)[:, None] - torch.arange(24)
    assert attention_map.linear
    assert torch.equal(attention_map.weights != 0, ((distance >= 0) & (distance <= 3)).expand(2, -1, -1))
    torch.testing.assert_close(attention_map.weights.sum(-1), torch.ones(2, 24, dtype=torch.float64))
    assert attention_map.future_pairs == 0
    assert attention_map.visible_share == pytest.approx((24 * 4 - 6) / 24**2)


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_more_keys_than_channels_are_put_together(pattern: str) -> None:
    attention_map = map_of("mechanism=softmax", f"pattern={pattern}", "seq_len=11", "source_len=19")
    assert attention_map.weights.shape == (2, 11, 19 if pattern[1] == "C" else 11)
    torch.testing.assert_close(attention_map.weights.sum(-1), torch.ones(2, 11, dtype=torch.float64))


def test_what_is_not_linear_in_v_is_drawn_by_its_jacobian() -> None:
    attention_map = map_of("mechanism=retention", "pattern=CS")
    assert not attention_map.linear
    assert attention_map.future_pairs == 0
    assert (attention_map.weights.tril() != 0).sum() == 2 * 24 * 25 // 2


CAUSAL = [
    name
    for name, card in registry.cards_of("mechanism").items()
    if isinstance(card.facts["patterns"], dict) and card.facts["patterns"].get("CS") in ("native", "extension")
]


@pytest.mark.parametrize("name", CAUSAL)
def test_no_causal_mechanism_shows_a_key_after_the_query(name: str) -> None:
    params = registry.card("mechanism", name).facts["checks"][0]
    attention_map = map_of(
        f"mechanism={name}", "pattern=CS", *(f"mechanism.{key}={value}" for key, value in params.items())
    )
    assert attention_map.future_pairs == 0


def test_a_picture_and_a_page_are_written(tmp_path: Path) -> None:
    code, text = cab(
        "mechanism=local,linformer", "pattern=CS", "seq_len=16", "mechanism.local.window=4", "--out", str(tmp_path)
    )
    assert code == 0, text
    assert "left out: linformer does not support CS" in text
    picture = Image.open(tmp_path / "mask-local-CS.png").convert("RGB")
    top = 12 + 2 * 16 + 6
    assert picture.getpixel((12 + 2, top + 2)) != (255, 255, 255)  # the first token sees itself
    assert picture.getpixel((12 + 383, top + 2)) == (255, 255, 255)  # and not the last one
    html = (tmp_path / "mask-local-CS.html").read_text()
    assert "data:image/png;base64," in html
    assert "http" not in html


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mechanism=locl"], "did you mean 'local'?"),
        (["mechanism=reformer", "pattern=NC"], "reformer does not support NC"),
        (["mechanism=local", "seq_len=4096"], "at most 1024"),
        (["mechanism=local", "mechanism.window=0"], "window=0"),
        (["pattern=CS"], "which mechanism?"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    code, text = cab(*arguments, "--out", str(tmp_path / "plots"))
    assert code == 2
    assert message in text
    assert len(text.strip().splitlines()) == 1
    assert not (tmp_path / "plots").exists()


def test_lengths_beyond_the_limit_are_refused_before_anything_is_built() -> None:
    with pytest.raises(UsageError, match="2000 queries"):
        map_of("mechanism=softmax", "seq_len=2000")
