"""Dagster assets and checks: factories that take one table of tailrace.yaml and give specs and
definitions. What they run is the engine's and dbt's; which jobs and sensors select them is
orchestration's."""
