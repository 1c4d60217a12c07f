"""What each root key accepts: a value that no case can have is named, with what is accepted."""

from dataclasses import fields

import pytest

from cab.contracts.recipe import Recipe
from cab.errors import UsageError
from cab.planning import overrides, schema
from cab.planning.points import points


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backend=[eager]", "backend=.*give a name"),
        ("training.betas=0.9,0.98", "give a list of two"),
        ("training.betas=[0.9,1]", "training.betas=1: .* below 1"),
        ("training.eps=x", "training.eps=x: expected a number above 0"),
        ("pattern=XS", "unknown pattern 'XS'.*Accepted: CC, CS, NC, NS"),
        ("seq_len=0", "seq_len=0: expected a whole number of at least 1"),
        ("batch=-1", "batch=-1"),
        ("seq_len=99999999999999999999", r"expected a whole number below 2\*\*31"),
        ("kv_heads=3", "kv_heads=3: it must divide heads=4"),
        ("memory_limit=8", "8 bytes are too few for any case; give at least 1MiB, as in 8GiB"),
        ("seq_len=abc", "seq_len=abc"),
        ("seed=1.5", "seed=1.5"),
        ("dtype=float31", "did you mean 'float32'"),
        ("device=gpu", "unknown device 'gpu'"),
        ("level=atend", "did you mean 'attend'"),
        ("padding=1.0", "padding=1.0: expected a number at least 0 and below 1"),
        ("timeout=0", "timeout=0"),
        ("latency_limit=inf", "latency_limit=inf: expected a number above 0"),
        ("memory_limit=8Gb", "memory_limit=8Gb: give a size, as in 8GiB"),
        ("meters=latency", "give a list, as in"),
        ("meters=[latncy]", "did you mean 'latency'"),
        ("engine=slum", "did you mean 'slurm'"),
        ("workers=0", "workers=0: expected a whole number of at least 1"),
        ("bundle_minutes=0", "bundle_minutes=0: expected a number above 0"),
        ("slurm.interrupt=ask", "unknown slurm.interrupt 'ask'.*cancel, leave"),
        ("slurm.partition=[a,b]", "slurm.partition=.*one line of text"),
        ("slurm.gpus=0", "slurm.gpus=0"),
        ("slurm.partitions=a", "did you mean 'slurm.partition'"),
        ("ray.address=[1]", "ray.address"),
        ("training.schedule=cosin", "did you mean 'cosine'"),
        ("context_parallel=0", "context_parallel=0: expected a whole number of at least 1"),
        ("sharding=ddp", "unknown sharding 'ddp'.*Accepted: fsdp"),
        ("sharding=fsdp", "sharding=fsdp is of several processes: give training.devices=2 or more"),
    ],
)
def test_a_value_that_no_case_can_have_is_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        points(["task=speed", "mechanism=softmax", override])


@pytest.mark.parametrize(
    ("text", "size"),
    [(None, None), (2**20, 2**20), ("1MiB", 2**20), ("8 GiB", 2**33), ("1.5GB", 1_500_000_000), ("3000kB", 3_000_000)],
)
def test_sizes_have_units(text: object, size: int | None) -> None:
    assert schema.memory_bytes(text) == size


def test_the_recipe_of_the_configuration_is_the_training_loops() -> None:
    assert set(overrides.root()["training"]) == {field.name for field in fields(Recipe)}


def test_every_engine_has_its_function() -> None:
    from cab.runner.engines import ENGINES

    assert tuple(ENGINES) == schema.ENGINES and all(callable(engine) for engine in ENGINES.values())
