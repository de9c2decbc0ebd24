"""From result files to tables, pictures and pages. Measures nothing; imports no model."""
