"""Independent implementations beside ours: the same mechanism, sizes and weights where the two can share them.

Each contest gives two functions of the same tensors. A peer that projects tokens itself gets tokens, and ours then gets
its projections of them, so that both do the same work; `tests/against_others` shows that their results are equal.
`routing` and `reformer` choose keys by another rule than the packages, which compute `routing_leaky` and
`reformer_leaky`: these are counted. The cost of the strict forms beside the same packages is shown and not counted.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from cab import Mechanism, Pattern, Slot
from cab.attention.layer import rotated
from cab.plugins import registry

BATCH, HEADS, DIM = 2, 4, 64
WIDTH = HEADS * DIM
Sides = tuple[Callable[[], Tensor], Callable[[], Tensor], list[Tensor]]  # ours, theirs, leaves


def _declare_operators_of_torchvision() -> list[library.Library]:
    """Let torchvision, which timm brings, be imported beside PyTorch for the CPU, where its kernels do not load.

    The operators that it looks up are declared as long as what is returned lives.
    """
    if importlib.util.find_spec("torchvision") is None:
        return []
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        definitions = library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            definitions.define(f"{operator}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        return [definitions]
    return []


_DECLARED = _declare_operators_of_torchvision()


@dataclass(frozen=True)
class Contest:
    """One mechanism in one pattern against one peer."""

    mechanism: str
    pattern: str
    peer: str
    module: str
    sides: Callable[[str, int], Sides]
    same_kernel: bool = False
    same_function: bool = True

    def available(self) -> bool:
        """Whether the peer is installed here."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(self.module)
        except ImportError:
            return False
        return True


CONTESTS: list[Contest] = []


def contest(
    mechanism: str, patterns: str, peer: str, module: str, same_kernel: bool = False, same_function: bool = True
) -> Any:
    """Register a function of pattern and length for each of `patterns`."""

    def register(sides: Callable[[str, int], Sides]) -> Callable[[str, int], Sides]:
        about = (peer, module, sides, same_kernel, same_function)
        CONTESTS.extend(Contest(mechanism, pattern, *about) for pattern in patterns.split())
        return sides

    return register


def ours(
    name: str, pattern: str, n: int, raster: tuple[int, ...] | None = None, layer: int = 0, **params: Any
) -> Mechanism:
    """Build our mechanism, by its fused kernels where it has some."""
    slot = Slot(Pattern.of(pattern), heads=HEADS, dim=DIM, max_len=n, width=WIDTH, raster=raster, layer=layer, layers=2)
    built: Mechanism = registry.load("mechanism", name)(slot, **params)
    return built.eval().use("sdpa" if "sdpa" in built.backends() else "eager")


def random_qkv(n: int) -> list[Tensor]:
    """Return random q, k and v, each (batch, heads, n, dim)."""
    return [torch.randn(BATCH, HEADS, n, DIM, requires_grad=True) for _ in range(3)]


def random_tokens(n: int) -> Tensor:
    """Return random tokens, (batch, n, width)."""
    return torch.randn(BATCH, n, WIDTH, requires_grad=True)


def split_heads(t: Tensor) -> Tensor:
    """Reshape (batch, n, width) to (batch, heads, n, dim)."""
    return t.unflatten(2, (HEADS, -1)).transpose(1, 2)


def swap(t: Tensor) -> Tensor:
    """Swap the axes of heads and tokens."""
    return t.transpose(1, 2)


def on_projections(mine: Mechanism, layers: list[nn.Module], tokens: Tensor, **inputs: Tensor) -> Any:
    """Return a function that computes ours on the peer's own projections of tokens."""
    return lambda: mine(*(split_heads(layer(tokens)) for layer in layers), **inputs)


def image(n: int) -> tuple[int, int]:
    """Return the rows and columns, powers of two, of an image with n pixels."""
    rows = 2 ** ((n.bit_length() - 1) // 2)
    return rows, n // rows


# softmax and windows


@contest("softmax", "NS CS", "torch SDPA", "torch", same_kernel=True)
def _softmax(pattern: str, n: int) -> Sides:
    mine, (q, k, v) = ours("softmax", pattern, n), random_qkv(n)
    theirs = partial(F.scaled_dot_product_attention, is_causal=pattern == "CS")
    return lambda: mine(q, k, v), lambda: theirs(q, k, v), [q, k, v]


@contest("local", "NS CS", "local-attention", "local_attention")
def _local(pattern: str, n: int) -> Sides:
    peer, causal = importlib.import_module("local_attention"), pattern == "CS"
    theirs = peer.LocalAttention(
        window_size=128,
        causal=causal,
        look_backward=1,
        look_forward=0 if causal else 1,
        exact_windowsize=True,
        autopad=True,
        use_rotary_pos_emb=False,
    )
    mine, (q, k, v) = ours("local", pattern, n, window=128), random_qkv(n)
    return lambda: mine(q, k, v), lambda: theirs(q, k, v), [q, k, v]


@contest("longformer", "NS", "transformers", "transformers")
def _longformer(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.longformer.modeling_longformer")
    config = importlib.import_module("transformers").LongformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_window=[512],
        attention_probs_dropout_prob=0.0,
        num_hidden_layers=1,
    )
    theirs, x = peer.LongformerSelfAttention(config, 0).eval(), random_tokens(n)
    mine = ours("longformer", pattern, n)
    for own, other in ((mine.to_q, "query"), (mine.to_k, "key"), (mine.to_v, "value")):
        own.load_state_dict(getattr(theirs, f"{other}_global").state_dict())
    first = (torch.arange(n) < 1).expand(BATCH, -1)
    options = {
        "attention_mask": first.float(),
        "is_index_masked": torch.zeros(BATCH, n, dtype=torch.bool),
        "is_index_global_attn": first,
        "is_global_attn": True,
    }
    layers = [theirs.query, theirs.key, theirs.value]
    return on_projections(mine, layers, x, x=x, y=x), lambda: split_heads(theirs(x, **options)[0]), [x]


@contest("bigbird", "NS", "transformers", "transformers")
def _bigbird(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.big_bird.modeling_big_bird")
    config = importlib.import_module("transformers").BigBirdConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        block_size=64,
        num_random_blocks=3,
        max_position_embeddings=n,
        attention_probs_dropout_prob=0.0,
    )
    theirs, x = peer.BigBirdBlockSparseAttention(config).train(), random_tokens(n)
    mine = ours("bigbird", pattern, n)
    blocked, band, from_mask, to_mask = peer.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(BATCH, n), 64)

    def other() -> Tensor:
        return split_heads(theirs(x, band, from_mask, to_mask, blocked, blocked)[0])

    return on_projections(mine, [theirs.query, theirs.key, theirs.value], x), other, [x]


# landmarks and projections


@contest("nystrom", "NS", "nystrom-attention", "nystrom_attention")
def _nystrom(pattern: str, n: int) -> Sides:
    theirs = importlib.import_module("nystrom_attention").NystromAttention(
        dim=WIDTH, dim_head=DIM, heads=HEADS, num_landmarks=64, residual_conv_kernel=65
    )
    theirs.eval().to_out = nn.Identity()
    mine, x = ours("nystrom", pattern, n), random_tokens(n)
    return (
        lambda: mine(*(split_heads(t) for t in theirs.to_qkv(x).chunk(3, dim=-1))),
        lambda: split_heads(theirs(x)),
        [x],
    )


@contest("nystrom", "NS", "transformers", "transformers")
def _nystromformer(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.nystromformer.modeling_nystromformer")
    config = importlib.import_module("transformers").NystromformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_landmarks=64,
        segment_means_seq_len=n,
        conv_kernel_size=65,
        attention_probs_dropout_prob=0.0,
    )
    theirs, x = peer.NystromformerSelfAttention(config).eval(), random_tokens(n)
    layers = [theirs.query, theirs.key, theirs.value]
    return on_projections(ours("nystrom", pattern, n), layers, x), lambda: split_heads(theirs(x)[0]), [x]


@contest("linformer", "NS NC CC", "linformer", "linformer")
def _linformer(pattern: str, n: int) -> Sides:
    theirs: Any = importlib.import_module("linformer").LinformerSelfAttention(dim=WIDTH, seq_len=n, k=256, heads=HEADS)
    theirs.eval().to_out = nn.Identity()
    mine, x, y = ours("linformer", pattern, n), random_tokens(n), random_tokens(n)
    y = x if pattern == "NS" else y

    def own() -> Tensor:
        return mine(split_heads(theirs.to_q(x)), split_heads(theirs.to_k(y)), split_heads(theirs.to_v(y)))

    return own, lambda: split_heads(theirs(x, None if pattern == "NS" else y)), [x]


@contest("probsparse", "NS", "transformers", "transformers")
def _probsparse(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.informer.modeling_informer")
    causal = pattern == "CS"
    theirs = peer.InformerProbSparseAttention(WIDTH, HEADS, is_decoder=causal, sampling_factor=5).eval()
    theirs.out_proj = nn.Identity()
    mine = ours("probsparse_leaky" if causal else "probsparse", pattern, n)
    x = random_tokens(n)
    mask = torch.full((n, n), -1e9).triu(1).expand(BATCH, 1, n, n) if causal else None
    layers = [theirs.q_proj, theirs.k_proj, theirs.v_proj]
    return on_projections(mine, layers, x), lambda: split_heads(theirs(x, attention_mask=mask)[0]), [x]


contest("probsparse_leaky", "CS", "transformers", "transformers")(_probsparse)


# sorted and clustered


@contest("reformer", "NS CS", "reformer-pytorch", "reformer_pytorch", same_function=False)
def _reformer(pattern: str, n: int, name: str = "reformer") -> Sides:
    peer = importlib.import_module("reformer_pytorch.reformer_pytorch")
    theirs = peer.LSHAttention(bucket_size=64, n_hashes=4, causal=pattern == "CS", attend_across_buckets=True)
    mine, (q, _, v) = ours(name, pattern, n), random_qkv(n)

    def other() -> Tensor:
        return theirs(q.flatten(0, 1), v.flatten(0, 1))[0].unflatten(0, (BATCH, HEADS))

    return lambda: mine(q, v=v), other, [q, v]


contest("reformer_leaky", "NS CS", "reformer-pytorch", "reformer_pytorch")(partial(_reformer, name="reformer_leaky"))


@contest("routing", "NS CS NC", "routing-transformer", "routing_transformer", same_function=False)
def _routing(pattern: str, n: int, name: str = "routing") -> Sides:
    peer = importlib.import_module("routing_transformer.routing_transformer")
    theirs = peer.KmeansAttention(
        n // 128, 128, HEADS, DIM, causal=pattern == "CS", receives_context=pattern == "NC"
    ).eval()
    theirs.kmeans.means.copy_(F.normalize(torch.randn_like(theirs.kmeans.means), dim=-1))
    theirs.kmeans.initted.fill_(True)
    mine, (q, k, v) = ours(name, pattern, n), random_qkv(n)
    return lambda: mine(q, k, v), lambda: theirs(q, k, v)[0], [q, k, v]


contest("routing_leaky", "NS CS NC", "routing-transformer", "routing_transformer")(
    partial(_routing, name="routing_leaky")
)


@contest("sinkhorn", "NS CS", "sinkhorn-transformer", "sinkhorn_transformer")
def _sinkhorn(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("sinkhorn_transformer.sinkhorn_transformer")
    if pattern == "CS":
        theirs = peer.SinkhornCausalAttention(64, WIDTH, DIM, HEADS, n, n_top_buckets=2, temperature=0.75)
    else:
        # by default its blocks pick one block each, and nothing is scaled
        theirs = peer.SinkhornAttention(
            64, WIDTH, DIM, HEADS, n, temperature=0.75, sinkhorn_iter=7, non_permutative=False
        )
    theirs.eval()
    mine, (q, k, v) = ours("sinkhorn", pattern, n), random_qkv(n)
    return lambda: mine(q, k, v), lambda: theirs(q, k, v), [q, k, v]


# kernels


def _performer_peer() -> Any:
    return importlib.import_module("performer_pytorch.performer_pytorch")


@contest("performer", "NS CS NC CC", "performer-pytorch", "performer_pytorch")
def _performer(pattern: str, n: int) -> Sides:
    peer, mine, (q, k, v) = _performer_peer(), ours("performer", pattern, n), random_qkv(n)
    theirs = peer.FastAttention(DIM, 256)
    theirs.projection_matrix.copy_(mine.directions)
    if pattern == "CS":  # without its CUDA kernels
        theirs.causal, theirs.causal_linear_fn = True, peer.causal_linear_attention_noncuda
    return lambda: mine(q, k, v), lambda: theirs(q, k, v), [q, k, v]


@contest("efficient", "NS NC CC", "performer-pytorch", "performer_pytorch")
def _efficient(pattern: str, n: int) -> Sides:
    theirs = _performer_peer().FastAttention(DIM, no_projection=True)
    mine, (q, k, v) = ours("efficient", pattern, n), random_qkv(n)
    return lambda: mine(q, k, v), lambda: theirs(q, k, v), [q, k, v]


@contest("linear", "NS NC CC CS", "performer-pytorch", "performer_pytorch")
def _linear(pattern: str, n: int) -> Sides:
    peer, mine, (q, k, v) = _performer_peer(), ours("linear", pattern, n), random_qkv(n)
    theirs = peer.causal_linear_attention_noncuda if pattern == "CS" else peer.linear_attention
    return lambda: mine(q, k, v), lambda: theirs(F.elu(q) + 1, F.elu(k) + 1, v), [q, k, v]


@contest("lightning", "CS", "transformers", "transformers")
def _lightning(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.minimax.modeling_minimax")
    config = importlib.import_module("transformers").MiniMaxConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=DIM,
        num_hidden_layers=3,
        block_size=256,
        hidden_act="silu",
        layer_types=["linear_attention"] * 3,
    )
    theirs, x = peer.MiniMaxLightningAttention(config, 0).eval(), random_tokens(n)
    slot = Slot(Pattern.CS, heads=HEADS, dim=DIM, max_len=n, width=WIDTH, layer=0, layers=3)
    mine: Any = registry.load("mechanism", "lightning")(slot).eval()
    mine.gate[0].weight, mine.scale = theirs.output_gate.weight, theirs.norm.weight

    def own() -> Tensor:
        q, k, v = theirs.qkv_proj(x).unflatten(-1, (HEADS, 3 * DIM)).transpose(1, 2).split(DIM, -1)
        return split_heads(theirs.out_proj(mine(q, k, v, x=x).transpose(1, 2).flatten(2)))

    return own, lambda: split_heads(theirs(x, None, None)[0]), [x]


# the plain functions of flash-linear-attention


def fla(of: str, mechanism: str, **params: Any) -> Any:
    """Register a contest against a function of fla.ops: `of` is its module and name."""
    module, name = of.rsplit(".", 1)

    def register(call: Callable[..., Tensor]) -> Any:
        def sides(pattern: str, n: int) -> Sides:
            function = getattr(importlib.import_module(module), name)
            mine, (q, k, v), y = ours(mechanism, pattern, n, **params), random_qkv(n), random_tokens(n)
            inputs = {name: y for name in mine.inputs}
            return lambda: mine(q, k, v, **inputs), lambda: call(function, mine, q, k, v, y), [q, k, v]

        return contest(mechanism, "CS", f"fla {name}", module)(sides)

    return register


@fla("fla.ops.linear_attn.naive.naive_recurrent_linear_attn", "linear")
def _recurrent(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return swap(function(swap(F.elu(q) + 1), swap(F.elu(k) + 1), swap(v), normalize=True)[0])


@fla("fla.ops.linear_attn.naive.naive_chunk_linear_attn", "linear")
def _chunk(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return swap(function(swap(F.elu(q) + 1), swap(F.elu(k) + 1), swap(v), normalize=True))


@fla("fla.ops.based.naive.naive_parallel_based", "linear", features="taylor")
def _based(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return function(q[..., :16], k[..., :16], v)


@fla("fla.ops.retention.naive.naive_retention", "retention", norm="none", gate=False)
def _retention(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return function(rotated(q, 1e4), rotated(k, 1e4), v)


@fla("fla.ops.simple_gla.naive.naive_chunk_simple_gla", "lightning", norm="none", gate="none")
def _simple(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    rate = torch.tensor([2.0 ** (-8 * (head + 1) / HEADS) for head in range(HEADS)])
    gate = -rate.expand(BATCH, q.shape[2], HEADS)
    return swap(function(*(swap(F.silu(t)) for t in (q, k, v)), gate, scale=1.0)[0])


@fla("fla.ops.gla.naive.naive_recurrent_gla", "gla")
def _gla(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    out = swap(function(*(swap(t) for t in (q, k, v, mine._gates(y, None)[0])))[0])
    return F.rms_norm(out, (DIM,), mine.scale, 1e-5) * split_heads(F.silu(mine.gate(y)))


@fla("fla.ops.abc.naive.naive_cumsum_abc", "abc")
def _abc(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    return function(q, k, v, split_heads(mine.control(y)))[0]


@fla("fla.ops.gsa.naive.naive_recurrent_gsa", "abc", gated=True)
def _gsa(function: Any, mine: Any, q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
    gate = swap(F.logsigmoid(split_heads(mine.control(y))) / 8)
    return swap(function(swap(q), swap(k), swap(v), 1 - gate.exp(), gate)[0])


# state spaces: whole layers, ours between the peer's own projections


@contest("mamba2", "CS", "transformers", "transformers")
def _mamba2(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.mamba2.modeling_mamba2")
    config = importlib.import_module("transformers").Mamba2Config(
        num_heads=HEADS, head_dim=DIM, hidden_size=WIDTH, state_size=DIM, n_groups=HEADS, expand=1, num_hidden_layers=1
    )
    mine, theirs, x = ours("mamba2", pattern, n), peer.Mamba2Mixer(config, 0).eval(), random_tokens(n)

    def layer() -> Tensor:
        v, k, q = (split_heads(t) for t in F.linear(x, theirs.in_proj.weight[WIDTH : 4 * WIDTH]).chunk(3, 2))
        out: Tensor = theirs.out_proj(swap(mine(q, k, v, x=x, y=x)).flatten(2))
        return out

    return layer, lambda: theirs(x), [x]


@contest("mamba", "CS", "transformers", "transformers")
def _mamba(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.mamba.modeling_mamba")
    config = importlib.import_module("transformers").MambaConfig(hidden_size=WIDTH, expand=1, num_hidden_layers=1)
    mine, theirs, x = ours("mamba", pattern, n), peer.MambaMixer(config, 0).eval(), random_tokens(n)

    def layer() -> Tensor:
        v = split_heads(F.linear(x, theirs.in_proj.weight[:WIDTH]))
        out: Tensor = theirs.out_proj(swap(mine(v=v, x=x)).flatten(2))
        return out

    return layer, lambda: theirs(x), [x]


@contest("rwkv4", "CS", "transformers", "transformers")
def _rwkv4(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("transformers.models.rwkv.modeling_rwkv")
    config = importlib.import_module("transformers").RwkvConfig(
        hidden_size=WIDTH, context_length=n, num_hidden_layers=2
    )
    theirs = peer.RwkvModel(config).blocks[0].attention.eval()
    mine, y = ours("rwkv4", pattern, n), random_tokens(n)
    return lambda: theirs.output(swap(mine(y=y)).flatten(2)), lambda: theirs(y)[0], [y]


# images: whole layers with theirs' projections, on rows and columns


def timm(module: str) -> Any:
    """Import a module of timm.models."""
    return importlib.import_module(f"timm.models.{module}")


def joined(out: Tensor) -> Tensor:
    """Reshape (batch, heads, n, dim) to (batch, n, width)."""
    return swap(out).flatten(2)


@contest("swin", "NS", "timm Swin", "timm")
def _swin(pattern: str, n: int, layer: int = 0) -> Sides:
    block = timm("swin_transformer").SwinTransformerBlock(
        WIDTH, image(n), HEADS, window_size=8, shift_size=4 * layer
    ).eval()  # fmt: skip
    mine: Any = ours("swin", pattern, n, image(n), layer, window=8)
    mine.bias.table.data = block.attn.relative_position_bias_table.data.T.clone()
    x = random_tokens(n)

    def own() -> Tensor:
        out: Tensor = block.attn.proj(joined(mine(*(split_heads(t) for t in block.attn.qkv(x).chunk(3, 2)))))
        return out

    return own, lambda: block._attn(x.unflatten(1, image(n))).flatten(1, 2), [x]


contest("swin", "NS", "timm Swin, shifted", "timm")(partial(_swin, layer=1))


@contest("swin", "NS", "timm SwinV2, shifted", "timm")
def _swin_v2(pattern: str, n: int) -> Sides:
    models = timm("swin_transformer_v2")
    block = models.SwinTransformerV2Block(WIDTH, image(n), HEADS, window_size=8, shift_size=4).eval()
    mine: Any = ours("swin", pattern, n, image(n), 1, window=8, cosine=True, bias="continuous")
    mine.bias.hidden.load_state_dict(block.attn.cpb_mlp[0].state_dict())
    mine.bias.out.load_state_dict(block.attn.cpb_mlp[2].state_dict())
    x, attn = random_tokens(n), block.attn

    def own() -> Tensor:
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        qkv = F.linear(x, attn.qkv.weight, bias)
        out: Tensor = attn.proj(joined(mine(*(split_heads(t) for t in qkv.chunk(3, 2)))))
        return out

    return own, lambda: block._attn(x.unflatten(1, image(n))).flatten(1, 2), [x]


@contest("gpsa", "NS", "timm ConViT", "timm")
def _gpsa(pattern: str, n: int) -> Sides:
    theirs = timm("convit").GPSA(WIDTH, HEADS, qkv_bias=True).eval()
    theirs.local_init()
    mine, x = ours("gpsa", pattern, n, (int(n**0.5),) * 2), random_tokens(n)

    def own() -> Tensor:
        q, k = theirs.qk(x).chunk(2, 2)
        out: Tensor = theirs.proj(joined(mine(split_heads(q), split_heads(k), split_heads(theirs.v(x)))))
        return out

    return own, lambda: theirs(x), [x]


@contest("gated_conv", "NS", "timm MambaOut", "timm")
def _gated_conv(pattern: str, n: int) -> Sides:
    theirs = timm("mambaout").GatedConvBlock(WIDTH, conv_ratio=1.0, norm_layer=nn.Identity).eval()
    mine, x = ours("gated_conv", pattern, n, image(n)), random_tokens(n)
    mask = torch.ones(BATCH, n, dtype=torch.bool)
    return lambda: joined(mine(y=x, key_mask=mask)), lambda: theirs(x.unflatten(1, image(n))).flatten(1, 2), [x]


@contest("gaussian", "NS CS", "gaussian-adaptive-attention", "gaussian_adaptive_attention")
def _gaussian(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("gaussian_adaptive_attention")
    mine: Any = ours("gaussian", pattern, n, axis="features")
    gaussians = mine.width.shape[1]
    theirs = peer.MultiHeadGaussianAdaptiveAttention(norm_axis=-1, num_heads=HEADS, num_gaussians=gaussians)
    x, mask = random_tokens(n), torch.ones(BATCH, n, dtype=torch.bool)
    return lambda: joined(mine(None, None, split_heads(x), key_mask=mask)), lambda: theirs(x), [x]


@contest("polarized", "NS", "fightingcv-attention", "fightingcv_attention")
def _polarized(pattern: str, n: int) -> Sides:
    peer = importlib.import_module("fightingcv_attention.attention.PolarizedSelfAttention")
    theirs = peer.ParallelPolarizedSelfAttention(WIDTH).eval()
    mine, (_, _, v) = ours("polarized", pattern, n, image(n), form="parallel", equations="paper"), random_qkv(n)
    mask = torch.ones(BATCH, n, dtype=torch.bool)

    def other() -> Tensor:
        return theirs(v.transpose(2, 3).reshape(BATCH, WIDTH, *image(n))).view(BATCH, HEADS, DIM, n).mT

    return lambda: mine(None, None, v, key_mask=mask), other, [v]


@contest("rcmha", "CS", "labml-nn", "labml_nn")
def _rcmha(pattern: str, n: int) -> Sides:
    relative = importlib.import_module("labml_nn.transformers.xl.relative_mha").RelativeMultiHeadAttention
    convolution = importlib.import_module("labml_nn.transformers.primer_ez").SpatialDepthWiseConvolution
    theirs = relative(HEADS, WIDTH, 0.0).eval()
    projections = [theirs.query, theirs.key, theirs.value]
    theirs.query, theirs.key, theirs.value = (nn.Sequential(each, convolution(DIM, 3)) for each in projections)
    theirs.output = nn.Identity()
    mine, x = ours("rcmha", pattern, n, conv=3), torch.randn(n, BATCH, WIDTH, requires_grad=True)
    mask = torch.ones(n, n, dtype=torch.bool).tril().unsqueeze(2)

    def own() -> Tensor:
        return mine(*(each(x).permute(1, 2, 0, 3) for each in projections)).permute(2, 0, 1, 3).flatten(2)

    return own, lambda: theirs(query=x, key=x, value=x, mask=mask), [x]


def contests(mechanisms: list[str], patterns: list[str]) -> Iterator[Contest]:
    """Yield those whose peer is installed, of the mechanisms and patterns asked for (all, where none is)."""
    for each in CONTESTS:
        wanted = (not mechanisms or each.mechanism in mechanisms) and (not patterns or each.pattern in patterns)
        if wanted and each.available():
            yield each
