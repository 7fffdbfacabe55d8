"""What a run is read by: report.json and its table, report.html, many runs side by side."""
