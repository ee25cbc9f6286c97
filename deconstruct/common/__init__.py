"""What every package uses: errors, hook sites, progress, Parquet, intervals, hardware."""
