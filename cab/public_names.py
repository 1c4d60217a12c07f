"""From which module each public name of `cab` comes.

No public function may have the name of a submodule: importing the submodule would put the module in the function's
place.
"""

PUBLIC_NAMES = {
    "Batch": "cab.contracts.task",
    "Mechanism": "cab.contracts.mechanism",
    "Meter": "cab.contracts.meter",
    "Missing": "cab.contracts.task",
    "Pattern": "cab.contracts.pattern",
    "Reading": "cab.contracts.meter",
    "Slot": "cab.contracts.slot",
    "Source": "cab.contracts.task",
    "Task": "cab.contracts.task",
    "Unsupported": "cab.errors",
    "UsageError": "cab.errors",
    "Wrapper": "cab.contracts.wrapper",
    "environments": "cab.api",
    "load": "cab.api",
    "mechanism": "cab.api",
    "run": "cab.api",
}
