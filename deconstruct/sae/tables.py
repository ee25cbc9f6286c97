"""The table of the stage sae."""

from deconstruct.artifacts.table import Column, Table

TRAINING_LOG = Table(
    "training_log",
    "What training reported every few steps, one row for each number.",
    ("step", "metric"),
    (
        Column("step", "UBIGINT", "Optimiser steps done."),
        Column("metric", "VARCHAR", "What is reported: tokens, loss, fvu, l0, ..."),
        Column("value", "DOUBLE", "Its value."),
    ),
    "training_log.parquet",
    wide=True,
)

TABLES = (TRAINING_LOG,)
