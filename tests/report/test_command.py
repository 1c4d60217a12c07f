"""The command beside a number asks for exactly the case that the number is of."""

import json
import shlex

import pytest

from cab.contracts.case import canonical
from cab.planning.plan import plan
from cab.report.command import command

REQUESTS = (
    "mechanism=agent task=speed pattern=CC seq_len=512 source_len=128 batch=4 backend=compile seed=3",
    "mechanism=softmax task=speed pattern=CS seq_len=256 threads=1 padding=0.25 pass=forward_backward level=layer",
    "mechanism=local task=recall_ns scale=quick training.lr=0.01 task.pairs=4",
    "mechanism=local mechanism.window=8 task=speed seq_len=256 raster=[16,16]",
    "mechanism=linear task=cab_lstf pattern=NC task.others=none",
)


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_command_asks_for_the_same_case(request_: str) -> None:
    (case,) = plan(request_.split()).cases
    question = {**case.question(), "settings": canonical({"task": case.task_params, **case.settings})}
    params = json.loads(canonical(case.params))
    words = shlex.split(command(case.mechanism, params, case.backend, question, str(case.seed)))
    (again,) = plan(words[2:]).cases
    assert again.id == case.id
