"""Our `deformable` and transformers 5.23.0: the multi-scale deformable attention of Deformable DETR."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.plugins import registry


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_it_equals_deformable_detr_s_forward_and_backward(pattern: str, levels: int) -> None:
    peer = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    torch.manual_seed(0)
    config = peer.DeformableDetrConfig(d_model=32, num_feature_levels=levels)
    theirs = peer.DeformableDetrMultiscaleDeformableAttention(config, 4, 2).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    rows, columns, source_rows, source_columns = (8, 12, 8, 12) if pattern == "NS" else (3, 5, 8, 12)
    n, m = rows * columns, source_rows * source_columns
    slot = Slot(
        Pattern.of(pattern),
        heads=4,
        dim=8,
        max_len=n,
        source_len=m,
        raster=(rows, columns),
        source_raster=(source_rows, source_columns),
    )
    mechanism = registry.load("mechanism", "deformable")(slot, levels=levels, points=2)
    ours = AttentionLayer(mechanism).double()
    ours.projections["v"].load_state_dict(theirs.value_proj.state_dict())
    ours.out.load_state_dict(theirs.output_proj.state_dict())
    mechanism.weight.load_state_dict(theirs.attention_weights.state_dict())
    offsets = theirs.sampling_offsets.state_dict()  # theirs are (x, y), ours (row, column)
    mechanism.offset.load_state_dict(
        {name: t.unflatten(0, (-1, 2)).flip(1).flatten(0, 1) for name, t in offsets.items()}
    )

    x = torch.randn(2, n, 32, dtype=torch.float64, requires_grad=True)
    y = x if pattern == "NS" else torch.randn(2, m, 32, dtype=torch.float64, requires_grad=True)
    image = y.transpose(1, 2).unflatten(2, (source_rows, source_columns))
    pyramid = [F.avg_pool2d(image, 2**level) for level in range(levels)]
    shapes = [tuple(each.shape[2:]) for each in pyramid]
    axes = [(torch.arange(side, dtype=torch.float64) + 0.5) / side for side in (columns, rows)]
    points = torch.cartesian_prod(axes[1], axes[0]).flip(1)[None, :, None].expand(2, -1, levels, -1)
    expected, _ = theirs(
        x,
        encoder_hidden_states=torch.cat([each.flatten(2) for each in pyramid], 2).transpose(1, 2),
        reference_points=points,
        spatial_shapes=torch.tensor(shapes),
        spatial_shapes_list=shapes,
    )
    out = ours(x) if pattern == "NS" else ours(x, y=y)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    our_leaves = [x, y, ours.projections["v"].weight, mechanism.weight.weight]
    their_leaves = [x, y, theirs.value_proj.weight, theirs.attention_weights.weight]
    gradients = torch.autograd.grad((out * weight).sum(), our_leaves)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), their_leaves))
