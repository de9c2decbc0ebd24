"""The report: leaderboard, pictures and pages, made from result files; two revisions compared.

It imports config, data and files. `published_statistics` alone imports model code: it measures what
the published documents measured.
"""
