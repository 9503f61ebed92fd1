"""The budget of docs/benchmarks.md, all rows in one go: `python -m benchmarks.budget` and `… benchmarks.budget.check`.

`rows` is the data: which command measures a row, with how much, and what stands beside each budget. `measuring` runs
them, `lines` makes the table, `page` writes it, `baseline` compares it with an earlier run.
"""
