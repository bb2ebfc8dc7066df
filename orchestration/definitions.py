"""What Dagster loads: `defs`, made from tailrace.yaml ($TAILRACE_CONFIG, else ./tailrace.yaml).

Every run loads this module in a process of its own, so it imports little; the engine, boto3 and
DuckDB are imported by what uses them. A mistake in the configuration is raised as it is: Dagster
shows it as the reason why the code location could not be loaded.
"""

from orchestration.code_location import build_definitions
from tailrace.config import load_config

defs = build_definitions(load_config())
