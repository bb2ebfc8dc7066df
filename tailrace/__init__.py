"""Tailrace replicates DynamoDB tables into a warehouse that analysts query with SQL."""

from __future__ import annotations

__version__ = "0.1.0"
