"""The warehouse's dbt half: writing model files, reaching the lake from dbt, running dbt in this
process. Only cli and assets import it; it imports dbt lazily, because dbt is slow to start."""
