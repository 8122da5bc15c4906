"""Workers: claim jobs, carry them out with Ray, record everything in SQL. Imports nothing by itself."""
